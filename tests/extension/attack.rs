//! Attacks: on the functions with hostile arguments, from hostile positions, and in hostile contexts. What is attacked comes
//! from the catalog, so a new function is attacked too.

mod allowed;
mod arguments;
mod consumers;
mod contexts;
mod escalation;
mod functions;
mod notifications;
mod poison;
mod positions;
mod relations;
mod schema;
mod settings;

use allowed::Allowed;
use pg_workflow_tests::attack::{Change, Watch, World};

/// Checks that an attack has changed nothing but what is allowed, and that the server lives.
fn assert_withstood(world: &mut World, watch: &Watch, attack: &str, allowed: &[Allowed]) {
    let may = |change: &Change| {
        // A tenant may do with its own rows what it may never do with another's.
        !(world.is_isolated && world.victim.is_in(&change.line))
            && allowed.iter().any(|(subject, signs, _)| *subject == change.subject && signs.contains(change.sign))
    };
    let changes = watch.changes(&world.db);
    let changes: Vec<&Change> = changes.iter().filter(|change| !may(change)).collect();
    assert!(changes.is_empty(), "{attack}: {changes:#?}");
    assert_eq!(world.db.problems(), [""; 0], "{attack}: verify()");
    assert_eq!(world.alarms(), [""; 0], "{attack}: the server's log");
    assert!(world.holder_lives(), "{attack}: ended the session of another role");
}

/// Checks that an attacker has found no fault; shows the first ones.
fn assert_none(attacker: &str, faults: &[String]) {
    let first = &faults[..faults.len().min(10)];
    assert!(faults.is_empty(), "{attacker}: {} faults, the first are {first:#?}", faults.len());
}
