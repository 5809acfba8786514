//! Contexts in which a statement runs for another role than its author: maintenance of tables, and functions with the rights of
//! their owner. The attacker's code calls every function of the schema there, and reads every table.

use super::allowed::Allowed;
use super::arguments::{Hostile, functions};
use super::assert_withstood;
use pg_workflow_tests::attack::{Watch, World};
use pg_workflow_tests::wait_until;
use postgres::Client;

/// Creates `evil.loot()`, which keeps all that it gets to see in the table `evil.loot`.
fn set_a_trap(world: &World, role: &str) -> Client {
    let hostile = Hostile::new(world);
    let mut calls = functions(&mut world.db.connect());
    // A procedure that commits is called in no expression.
    calls.retain(|function| !function.is_procedure());
    let mut statements: Vec<String> =
        calls.iter().map(|function| format!("SELECT x::text FROM ({}) AS x", function.likely_call(&hostile))).collect();
    // From the first event on: a position of another cluster, and one of this cluster.
    statements.push("SELECT x::text FROM workflow.follow_events('2.1.1.0.0...0') AS x".to_owned());
    let first = r"regexp_replace(workflow.current_position(), '[0-9:]*\.[0-9]*\.[0-9]*$', '..0')";
    statements.push(format!("SELECT x::text FROM workflow.follow_events({first}) AS x"));
    for table in ["dags", "dag_runs", "task_instances", "task_logs", "state_history", "state_history_0", "consumers"] {
        statements.push(format!("SELECT x::text FROM workflow.{table} AS x"));
    }
    let literals: Vec<String> = statements.iter().map(|sql| format!("$call${sql}$call$")).collect();
    let mut client = world.log_in(role);
    client
        .batch_execute(&format!(
            "CREATE TABLE evil.loot (context text, found text);
             GRANT ALL ON evil.loot TO PUBLIC;
             CREATE FUNCTION evil.loot(context text) RETURNS integer LANGUAGE plpgsql AS $loot$
             DECLARE
                 call text;
                 found text;
             BEGIN
                 FOREACH call IN ARRAY ARRAY[{}] LOOP
                     BEGIN
                         FOR found IN EXECUTE call LOOP
                             INSERT INTO evil.loot VALUES (context, call || ': ' || found);
                         END LOOP;
                     EXCEPTION WHEN OTHERS THEN
                         INSERT INTO evil.loot VALUES (context, call || ' failed: ' || SQLERRM);
                     END;
                 END LOOP;
                 RETURN 1;
             END $loot$;
             CREATE FUNCTION evil.peek(context text) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN evil.loot(context); END $$;
             CREATE TABLE evil.bait (context text);",
            literals.join(", ")
        ))
        .unwrap();
    client
}

/// Returns the loot that is about the victim, and empties the table. The attacker must have tried everything.
fn loot(world: &World, context: &str) -> Vec<String> {
    let owner = &mut world.db.connect();
    let tried: i64 = owner.query_one("SELECT count(*) FROM evil.loot", &[]).unwrap().get(0);
    assert!(tried > 50, "{context}: only {tried} attempts");
    let sql = "SELECT DISTINCT left(context || ': ' || found, 300) FROM evil.loot
               WHERE found LIKE '%secret%' OR found ~ ('[(,]' || $1::text || '[,)]')";
    let found = owner.query(sql, &[&world.victim.dag.to_string()]).unwrap();
    owner.batch_execute("TRUNCATE evil.loot").unwrap();
    found.iter().map(|row| row.get(0)).collect()
}

/// Changes that a tenant makes as itself, in a function of its own that another role runs. It moves nothing of the victim's.
const OWN: &[Allowed] = &[
    ("dags", "+", "creates a DAG"),
    ("queue_settings", "+-", "and a queue"),
    ("consumers", "+", "and a consumer"),
    ("state_counts_at", "+-", "refreshes the counts"),
    ("state_count_place", "+-", "and their position"),
];

/// A superuser, or autovacuum, maintains a tenant's table with an index on a function of the tenant.
#[test]
fn maintenance_lets_a_tenant_see_and_move_nothing() {
    let mut world = World::start_isolated("attack-maintenance");
    let tenant = &mut set_a_trap(&world, "tenant");
    let owner = &mut world.db.connect();
    // A tenant's own CREATE INDEX and ANALYZE run it as the tenant, restricted.
    let own = Watch::start(&world.db);
    tenant
        .batch_execute(
            "INSERT INTO evil.bait VALUES ('own index');
             CREATE INDEX bait_index ON evil.bait (evil.peek(context));
             CREATE MATERIALIZED VIEW evil.seen AS SELECT evil.loot('materialized view') AS n WITH NO DATA",
        )
        .unwrap();
    assert_eq!(loot(&world, "the tenant's CREATE INDEX"), [""; 0]);
    assert_withstood(&mut world, &own, "the tenant's CREATE INDEX", OWN);
    for context in [
        "ANALYZE evil.bait",
        "REINDEX TABLE evil.bait",
        "CLUSTER evil.bait USING bait_index",
        "VACUUM FULL evil.bait",
        "CREATE INDEX other ON evil.bait (evil.peek(context))",
        "REFRESH MATERIALIZED VIEW evil.seen",
    ] {
        let watch = Watch::start(&world.db);
        owner.batch_execute(context).unwrap();
        assert_eq!(loot(&world, context), [""; 0]);
        assert_withstood(&mut world, &watch, context, OWN);
    }
    owner.batch_execute("ALTER SYSTEM SET autovacuum_naptime = '1 s'").unwrap();
    owner.batch_execute("SELECT pg_reload_conf()").unwrap();
    let naptime = "SELECT setting FROM pg_settings WHERE name = 'autovacuum_naptime'";
    wait_until("the setting", || owner.query_one(naptime, &[]).unwrap().get::<_, String>(0) == "1");
    let watch = Watch::start(&world.db);
    tenant
        .batch_execute(
            "ALTER TABLE evil.bait SET (autovacuum_analyze_threshold = 0, autovacuum_analyze_scale_factor = 0)",
        )
        .unwrap();
    tenant.batch_execute("DELETE FROM evil.loot; UPDATE evil.bait SET context = 'autovacuum'").unwrap();
    wait_until("autovacuum", || {
        let sql = "SELECT autoanalyze_count FROM pg_stat_all_tables WHERE relid = 'evil.bait'::regclass";
        owner.query_one(sql, &[]).unwrap().get::<_, i64>(0) > 0
    });
    assert_eq!(loot(&world, "autovacuum"), [""; 0]);
    assert_withstood(&mut world, &watch, "autovacuum", OWN);
}

/// A superuser and the victim call a tenant's SECURITY DEFINER function, fire its trigger and read its view.
#[test]
fn function_with_a_tenants_rights_shows_what_the_tenant_sees() {
    let mut world = World::start_isolated("attack-definer");
    let mut tenant = set_a_trap(&world, "tenant");
    tenant
        .batch_execute(
            "CREATE FUNCTION evil.definer(context text) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN evil.loot(context); END $$;
             CREATE FUNCTION evil.fire_loot() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM evil.loot('trigger'); RETURN NEW; END $$;
             CREATE TRIGGER loot BEFORE INSERT ON evil.bait FOR EACH ROW EXECUTE FUNCTION evil.fire_loot();
             GRANT INSERT ON evil.bait TO PUBLIC;
             CREATE VIEW evil.events AS SELECT h.metadata FROM workflow.state_history AS h;
             GRANT SELECT ON evil.events TO PUBLIC",
        )
        .unwrap();
    drop(tenant);
    let watch = Watch::start(&world.db);
    for mut client in [world.db.connect(), world.log_in("victim")] {
        for context in [
            "SELECT evil.definer('definer')",
            "INSERT INTO evil.bait VALUES ('x')",
            "BEGIN; SAVEPOINT a; SELECT evil.definer('savepoint'); RELEASE a; COMMIT",
        ] {
            client.batch_execute(context).unwrap();
            assert_eq!(loot(&world, context), [""; 0]);
        }
    }
    assert_withstood(&mut world, &watch, "SECURITY DEFINER", OWN);
}

/// A superuser who becomes a tenant is one: by SET ROLE, by SET SESSION AUTHORIZATION, in a savepoint.
#[test]
fn superuser_in_the_role_of_a_tenant_is_a_tenant() {
    let mut world = World::start_isolated("attack-role");
    drop(set_a_trap(&world, "tenant"));
    let watch = Watch::start(&world.db);
    for context in [
        "SET ROLE tenant; SELECT evil.loot('SET ROLE'); RESET ROLE",
        "SET SESSION AUTHORIZATION tenant; SELECT evil.loot('SESSION AUTHORIZATION'); RESET SESSION AUTHORIZATION",
        "BEGIN; SAVEPOINT a; SET LOCAL ROLE tenant; SELECT evil.loot('LOCAL'); RELEASE a; COMMIT",
    ] {
        world.db.connect().batch_execute(context).unwrap();
        assert_eq!(loot(&world, context), [""; 0]);
    }
    assert_withstood(&mut world, &watch, "SET ROLE", OWN);
}
