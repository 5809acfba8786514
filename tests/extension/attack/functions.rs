//! Every function of the schema, called by every kind of role with hostile arguments.

use super::allowed::{ADMINISTERS, Allowed, WRITES};
use super::arguments::{Function, Hostile, functions};
use super::{assert_none, assert_withstood};
use pg_workflow_tests::attack::{Watch, World};
use postgres::Client;

#[test]
fn functions_withstand_hostile_arguments() {
    let mut world = World::start("attack-functions");
    let nothing: &[Allowed] = &[];
    let all = [WRITES, ADMINISTERS].concat();
    let roles =
        [("stranger", nothing), ("database_owner", nothing), ("reader", nothing), ("writer", WRITES), ("admin", &all)];
    attack(&mut world, &roles);
}

#[test]
fn functions_withstand_hostile_tenants() {
    let mut world = World::start_isolated("attack-tenants");
    let all = [WRITES, ADMINISTERS].concat();
    attack(&mut world, &[("tenant", WRITES), ("tenant_admin", &all)]);
}

fn attack(world: &mut World, roles: &[(&str, &[Allowed])]) {
    let functions = functions(&mut world.db.connect());
    let hostile = Hostile::new(world);
    for (role, allowed) in roles {
        let watch = Watch::start(&world.db);
        let faults = call_all(&mut world.attack_as(role), &functions, &hostile);
        assert_none(role, &faults);
        assert_withstood(world, &watch, role, allowed);
    }
}

/// Calls everything, and returns faults of the code. Any error that tells its reason in short is a good answer.
fn call_all(client: &mut Client, functions: &[Function], hostile: &Hostile) -> Vec<String> {
    client.batch_execute("DO 'BEGIN END'").expect("PL/pgSQL brings its settings");
    let settings = settings(client);
    let mut faults = Vec::new();
    for function in functions {
        let likely = function.likely_call(hostile);
        faults.extend(in_transaction(client, &likely, &settings));
        for call in [vec![likely], function.hostile_calls(hostile)].concat() {
            faults.extend(fault_of(client, &call));
        }
    }
    faults
}

fn fault_of(client: &mut Client, call: &str) -> Option<String> {
    let error = client.batch_execute(call).err()?;
    let told = error.as_db_error().unwrap_or_else(|| panic!("{call}: {error}"));
    let length = told.message().len() + told.detail().unwrap_or_default().len();
    let is_fault = told.code().code().starts_with("XX") || (length > MAX_LENGTH && !call.contains(REPEATS));
    is_fault.then(|| format!("{call:.150}: {} {:.100} ({length} bytes)", told.code().code(), told.message()))
}

/// An error repeats 250 characters of an argument at most.
const MAX_LENGTH: usize = 4000;

/// An internal function whose errors are PostgreSQL's own, which repeat the argument. parse_position() catches them.
const REPEATS: &str = "workflow.parse_snapshot(";

/// Calls in a savepoint of a transaction, and compares the settings afterwards: a setting may be changed until its end.
fn in_transaction(client: &mut Client, call: &str, before: &[String]) -> Option<String> {
    client.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    if client.batch_execute(&format!("{call}; RELEASE a")).is_err() {
        client.batch_execute("ROLLBACK TO a").unwrap();
    }
    let after = settings(client);
    client.batch_execute("ROLLBACK").unwrap();
    let changed: Vec<&String> = after.iter().filter(|setting| !before.contains(setting)).collect();
    (!changed.is_empty()).then(|| format!("{call}: leaves {changed:?}"))
}

fn settings(client: &mut Client) -> Vec<String> {
    let sql = "SELECT s.name || ' = ' || s.setting FROM pg_catalog.pg_settings AS s";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}
