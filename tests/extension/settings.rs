//! No setting of a session, and no object of another role, changes what the extension's SQL means.

use crate::operations::versions::catalog;
use pg_workflow_tests::*;
use postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

/// Settings that change how PostgreSQL reads or writes SQL.
const SETTINGS: &str = "
    SET standard_conforming_strings = off;
    SET escape_string_warning = off;
    SET backslash_quote = off;
    SET array_nulls = off;
    SET transform_null_equals = on;
    SET check_function_bodies = off;
    SET quote_all_identifiers = on;
    SET DateStyle = 'German, DMY';
    SET IntervalStyle = sql_standard;
    SET TimeZone = 'Asia/Kathmandu';
    SET bytea_output = escape;
    SET extra_float_digits = -15;
    SET plpgsql.variable_conflict = use_column;
    SET plan_cache_mode = force_custom_plan;
    SET jit_above_cost = 0;
    SET default_transaction_deferrable = on;
    SET default_toast_compression = pglz;
    SET enable_seqscan = off;
    SET search_path = pg_temp;";

/// Calls of every part, whose results hold neither ids nor times.
const CALLS: &[&str] = &[
    "SELECT workflow.create_dag('etl', tags => '[\"a\"]') IS NOT NULL",
    "SELECT workflow.create_dag(' ')",
    "SELECT workflow.create_dag('s')::text <> ''",
    "SELECT workflow.pause_dag(id), workflow.unpause_dag(id), workflow.unpause_dag(id) FROM workflow.dags WHERE name = 'etl'",
    "SELECT count(*) FROM workflow.create_task_instances((SELECT workflow.create_dag_run(id, '2026-01-02Z') FROM workflow.dags WHERE name = 'etl'), ARRAY['a', 'b', 'c'])",
    "SELECT workflow.transition('task_instance', id, 'queued', 'running', '{\"x\": null}') FROM workflow.task_instances WHERE task_id = 'a'",
    "SELECT workflow.transition_task_instance(id, 'queued', 'success') FROM workflow.task_instances WHERE task_id = 'b'",
    "SELECT outcome, state, version FROM workflow.transition_many('task_instance', (SELECT array_agg(id ORDER BY task_id) FROM workflow.task_instances), 'queued', 'skipped') ORDER BY 1, 2",
    "UPDATE workflow.task_instances SET state = 'failed' WHERE task_id = 'a'",
    "SELECT workflow.append_task_log(id, 'a line', 'INFO') FROM workflow.task_instances WHERE task_id = 'a'",
    "SELECT workflow.append_task_log(id, 'a line', 'LOUD') FROM workflow.task_instances WHERE task_id = 'a'",
    "SELECT old_state, new_state, h.version FROM workflow.task_instances AS t CROSS JOIN workflow.history('task_instance', t.id) AS h ORDER BY t.task_id, h.version",
    "SELECT workflow.state_at('task_instance', id, 'infinity') FROM workflow.task_instances ORDER BY task_id",
    "SELECT workflow.event_id_at('-infinity'), workflow.event_id_before('infinity')",
    "SELECT workflow.create_consumer('c', true), workflow.create_consumer('c')",
    "SELECT workflow.create_consumer('S'), workflow.create_consumer('')",
    "SELECT id, new_state FROM workflow.read_events('c', 3)",
    "SELECT workflow.ack_events('c', 3)",
    "SELECT workflow.save_checkpoint('c', '{1,0}'), workflow.lease_consumer('c', 'me', '5 s')",
    "SELECT workflow.rewind_consumer('c', '{1,0}', 1), workflow.release_consumer('c', 1)",
    "SELECT workflow.skip_event('c', 4), workflow.resume_consumer('c')",
    "SELECT consumer, pending, owner = CURRENT_USER, given_up_at FROM workflow.consumer_lag ORDER BY consumer",
    "SELECT workflow.drop_consumer('c')",
    "SELECT count(*) FROM workflow.follow_events(workflow.current_position())",
    "SELECT workflow.fold_state_counts()",
    "SELECT * FROM workflow.state_counts WHERE count > 0 ORDER BY 1, 2",
    "SELECT * FROM workflow.state_machine ORDER BY 1, 2",
    "SELECT table_name, partition, number, role FROM workflow.partitions ORDER BY 1, 3",
    "SELECT * FROM workflow.open_partitions('fortnight')",
    "SELECT * FROM workflow.open_partitions('year')",
    "SELECT object, rows, outcome FROM workflow.purge('infinity', dry_run => true)",
    "SELECT object, rows, outcome FROM workflow.purge(now())",
    "SELECT name FROM workflow.settings",
    "SELECT * FROM workflow.stuck()",
    "SELECT * FROM workflow.verify()",
    "SELECT * FROM workflow.verify('2020-01-01Z', '2020-01-02Z')",
    "SELECT workflow.enable_row_security(), workflow.disable_row_security(), workflow.shows_all_tenants()",
];

/// Creates a database without the extension.
fn empty() -> (Db, Client) {
    let db = Db::new();
    let mut client = db.connect();
    client.batch_execute("DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA workflow").unwrap();
    (db, client)
}

/// The rows of a statement, or the SQLSTATE of its error.
fn answer(client: &mut Client, sql: &str) -> Vec<String> {
    match client.simple_query(sql) {
        Ok(messages) => messages.iter().filter_map(row).collect(),
        // Messages have ids in them.
        Err(error) => vec![error.code().unwrap().code().to_owned()],
    }
}

fn row(message: &SimpleQueryMessage) -> Option<String> {
    match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|n| row.get(n).unwrap_or("null").to_owned()).collect::<Vec<_>>().join(" | "))
        }
        SimpleQueryMessage::CommandComplete(count) => Some(format!("{count} rows")),
        _ => None,
    }
}

#[test]
fn settings_change_neither_catalog_nor_answers() {
    let (_odd_db, odd) = &mut empty();
    let (_db, ordinary) = &mut empty();
    odd.batch_execute(SETTINGS).unwrap();
    for client in [&mut *odd, &mut *ordinary] {
        client.batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    }
    for sql in CALLS {
        assert_eq!(answer(odd, sql), answer(ordinary, sql), "{sql}");
    }
    odd.batch_execute("RESET ALL").unwrap();
    let (odd, ordinary) = (catalog(odd), catalog(ordinary));
    let differing: Vec<&String> = odd.iter().filter(|line| !ordinary.contains(line)).collect();
    assert!(differing.is_empty() && odd.len() == ordinary.len(), "{differing:#?}");
}

/// Functions of the same names that take integers for bigints, and texts for everything else. Each raises an error.
const TRAPS: &str = "
    DO $do$
    DECLARE
        f record;
        shape text;
    BEGIN
        FOR f IN SELECT p.* FROM pg_proc AS p WHERE p.pronamespace = 'workflow'::regnamespace AND p.pronargs > 0 LOOP
            FOREACH shape IN ARRAY '{int8,other}'::text[] LOOP
                BEGIN
                    EXECUTE format('CREATE FUNCTION workflow.%I(%s) RETURNS %s LANGUAGE plpgsql AS $trap$ BEGIN RAISE ''trap''; END $trap$',
                        f.proname,
                        (SELECT string_agg(CASE
                            WHEN shape = 'int8' AND t.oid = 'int8'::regtype THEN 'int4'
                            WHEN shape = 'other' AND t.oid <> 'text'::regtype THEN 'text'
                            ELSE t.oid::regtype::text END, ', ' ORDER BY t.n)
                         FROM unnest(f.proargtypes::oid[]) WITH ORDINALITY AS t (oid, n)),
                        CASE WHEN f.proretset THEN 'SETOF text' ELSE f.prorettype::regtype::text END);
                EXCEPTION WHEN duplicate_function THEN NULL;
                END;
            END LOOP;
        END LOOP;
    END
    $do$";

/// The calls whose own arguments are literals of unknown type would meet the traps themselves.
const TYPED_CALLS: &[&str] = &[
    "SELECT workflow.create_dag(name => 'etl'::text)",
    "SELECT count(*) FROM workflow.create_task_instances((SELECT workflow.create_dag_run(dag_id => id) FROM workflow.dags), task_ids => ARRAY['a', 'b'])",
    "UPDATE workflow.task_instances SET state = 'running'",
    "SELECT count(*) FROM workflow.task_instances AS t CROSS JOIN workflow.history(entity_type => 'task_instance'::text, id => t.id)",
    "SELECT workflow.create_consumer(name => 'c'::text, from_beginning => true)",
    "SELECT count(*) FROM workflow.read_events(consumer => 'c'::text)",
    "SELECT workflow.ack_events(consumer => 'c'::text, up_to => 2::bigint)",
    "SELECT workflow.save_checkpoint(consumer => 'c'::text, \"position\" => ARRAY[1::bigint])",
    "SELECT workflow.rewind_consumer(consumer => 'c'::text, \"position\" => ARRAY[1::bigint])",
    "SELECT workflow.lease_consumer(consumer => 'c'::text, holder => 'me'::text)",
    "SELECT workflow.release_consumer(consumer => 'c'::text, lease => 1::bigint)",
    "SELECT workflow.skip_event(consumer => 'c'::text, event_id => 3::bigint)",
    "SELECT workflow.resume_consumer(name => 'c'::text)",
    "SELECT count(*) FROM workflow.follow_events(\"position\" => workflow.current_position())",
    "SELECT workflow.fold_state_counts()",
    "SELECT count(*) FROM workflow.state_counts",
    "SELECT count(*) FROM workflow.consumer_lag",
    "SELECT count(*) FROM workflow.partitions",
    "SELECT count(*) FROM workflow.settings",
    "SELECT count(*) FROM workflow.open_partitions()",
    "SELECT count(*) FROM workflow.purge(before => now())",
    "SELECT count(*) FROM workflow.stuck()",
    "SELECT count(*) FROM workflow.verify()",
    "SELECT workflow.enable_row_security(), workflow.disable_row_security()",
    "SELECT workflow.drop_consumer(name => 'c'::text)",
];

#[test]
fn calls_name_exact_signatures() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute(TRAPS).unwrap();
    for sql in TYPED_CALLS {
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    client.batch_execute("DELETE FROM workflow.dags").unwrap();
}

#[test]
fn squatted_schema_is_rejected() {
    let squatter = format!("squatter_{}", Uuid::new_v4().simple());
    let (_db, client) = &mut empty();
    client.batch_execute(&format!("CREATE ROLE {squatter}")).unwrap();
    for (set_up, problem) in [
        (format!("CREATE SCHEMA workflow AUTHORIZATION {squatter}"), "owns it"),
        (format!("CREATE SCHEMA workflow; GRANT CREATE ON SCHEMA workflow TO {squatter}"), "may create"),
        ("CREATE SCHEMA workflow; GRANT ALL ON SCHEMA workflow TO PUBLIC".to_owned(), "may create"),
        (
            "CREATE SCHEMA workflow; CREATE FUNCTION workflow.create_partition(a text, b integer) RETURNS text
             LANGUAGE sql AS 'SELECT 1 / 0'"
                .to_owned(),
            "not empty",
        ),
    ] {
        client.batch_execute(&set_up).unwrap();
        let failed = failure(client.batch_execute("CREATE EXTENSION pg_workflow"));
        assert_eq!(failed.sqlstate, "55000", "{failed:?}");
        assert!(failed.message.contains(problem), "{failed:?}");
        client.batch_execute("DROP SCHEMA workflow CASCADE").unwrap();
    }
    client.batch_execute("CREATE SCHEMA workflow; CREATE EXTENSION pg_workflow VERSION '0.2.0'").unwrap();
    let update = |client: &mut Client| failure(client.batch_execute("ALTER EXTENSION pg_workflow UPDATE")).message;
    client.batch_execute(&format!("GRANT CREATE ON SCHEMA workflow TO {squatter}")).unwrap();
    assert!(update(client).contains("may create"));
    client
        .batch_execute(&format!(
            "SET ROLE {squatter};
             CREATE FUNCTION workflow.create_partition(a text, b integer) RETURNS text LANGUAGE sql AS 'SELECT 1 / 0';
             RESET ROLE;
             REVOKE CREATE ON SCHEMA workflow FROM {squatter}"
        ))
        .unwrap();
    assert!(update(client).contains("functions of other roles"));
    client
        .batch_execute(&format!(
            "DROP FUNCTION workflow.create_partition(text, integer); ALTER SCHEMA workflow OWNER TO {squatter}"
        ))
        .unwrap();
    assert!(update(client).contains("owns it"));
    client.batch_execute("ALTER SCHEMA workflow OWNER TO CURRENT_USER; ALTER EXTENSION pg_workflow UPDATE").unwrap();
}

#[test]
fn database_that_is_not_utf8_is_rejected() {
    let (cluster, _db) = own_cluster("encoding", &[]);
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let sql = format!("CREATE DATABASE other TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        cluster.psql("postgres", &sql).unwrap();
        let other = Db::at(cluster.url("other")).without_verification();
        let client = &mut other.connect();
        let is_refused = |client: &mut Client, sql: &str| {
            let failed = failure(client.batch_execute(sql));
            assert_eq!((failed.sqlstate.as_str(), &failed.detail["encoding"]), ("0A000", &encoding.into()), "{sql}");
        };
        is_refused(client, "CREATE EXTENSION pg_workflow");
        client.batch_execute("CREATE EXTENSION pg_workflow VERSION '0.2.0'").unwrap();
        is_refused(client, "ALTER EXTENSION pg_workflow UPDATE");
        cluster.psql("postgres", "DROP DATABASE other WITH (FORCE)").unwrap();
    }
}
