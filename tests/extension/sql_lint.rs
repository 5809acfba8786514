//! pgspot finds no way to make the extension's SQL run foreign code.

use std::process::Command;
use xtask::setup::pypi::SQL_LINTER;

/// SQL functions without their own search_path, so that PostgreSQL can inline them. All their names and operators are
/// qualified.
const INLINED: &[&str] = &[
    "workflow.overdue_waits()",
    "workflow.is_before_attempt(state text,start_date timestamptz)",
    "workflow.pause_dag(id uuid)",
    "workflow.unpause_dag(id uuid)",
    "workflow.latest_dag_run(dag_id uuid)",
    "workflow.is_foreign(pos workflow.feed_position)",
    "workflow.partition_start(id bigint)",
    "workflow.is_acknowledged(pos workflow.feed_position,id bigint,transaction_id xid8)",
    "workflow.is_in_window(pos workflow.feed_position,id bigint,transaction_id xid8)",
    "workflow.late_events(pos workflow.feed_position)",
    "workflow.late_ids_in_window(pos workflow.feed_position,max integer)",
    "workflow.events_above(pos workflow.feed_position,max integer,is_marked boolean)",
    "workflow.events_in_window(pos workflow.feed_position,max integer,is_marked boolean)",
    "workflow.finished_runs(before timestamptz)",
    "workflow.tasks_of_foreign_queues(id uuid,dag_run_id uuid,tenant text,queue text)",
    "workflow.unclaimable_tasks(id uuid,dag_run_id uuid,state text,version bigint,queue_id integer,priority smallint,\
     not_before timestamptz)",
    "workflow.position_of(consumer workflow.consumers)",
    "workflow.position_of(checkpoint workflow.consumer_checkpoints)",
    "workflow.position_of(stored workflow.state_count_place)",
    "workflow.events_between(snapshot pg_snapshot,next_transaction_id xid8,floor_id bigint,end_snapshot pg_snapshot,\
     end_next_transaction_id xid8,end_floor_id bigint,end_ceiling_id bigint,after_id bigint,max integer)",
];

/// Rewrites a script for pgspot, which does not know psql and CREATE EXTENSION, drops the quotes of names, and does not
/// know the columns of our tables.
fn readable(script: &str) -> String {
    let line = |line: &str| {
        let declared =
            ["consumers", "consumer_checkpoints", "dropped_partitions", "feed_position", "follower_position"]
                .iter()
                .find_map(|table| line.strip_suffix(&format!(" workflow.{table};")));
        declared.map_or_else(|| line.to_owned(), |name| format!("{name} record;")) + "\n"
    };
    let script: String = script.lines().filter(|line| !line.starts_with("\\echo")).map(line).collect();
    script
        .replace("MODULE_PATHNAME", "$libdir/pg_workflow")
        .replace(" workflow.feed_position :=", " record :=")
        .replace("\"position\"", "position_")
        .replace("\"partition\"", "partition_")
}

#[test]
fn pgspot_finds_no_problem() {
    let Some(pgspot) = SQL_LINTER.find() else {
        eprintln!("skipped: pgspot is not installed");
        return;
    };
    let folder = std::env::temp_dir().join(format!("pg_workflow-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder).unwrap();
    let run = |name: &str, script: &str, arguments: &[&str]| {
        let path = folder.join(name);
        std::fs::write(&path, readable(script)).unwrap();
        let inlined = INLINED.iter().flat_map(|function| ["--proc-without-search-path", function]);
        let output = Command::new(&pgspot).args(inlined).args(arguments).arg(&path).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    for (name, script) in xtask::scripts::extension_files().unwrap().iter().filter(|(name, _)| name.ends_with(".sql")) {
        // An update script replaces objects of the extension; PostgreSQL does not let it replace objects of another owner.
        let is_update = name.matches("--").count() == 2;
        // The script of 0.1.0 must not change. Its unqualified casts to `text` are in constraints that it creates itself.
        let arguments: &[&str] = match name.as_str() {
            "pg_workflow--0.1.0.sql" => &["--ignore", "PS017"],
            _ if is_update => &["--ignore", "PS002", "--ignore", "PS015"],
            _ => &[],
        };
        let (is_clean, said) = run(name, script, arguments);
        assert!(is_clean && said.contains("Errors: 0 Warnings: 0 Unknown: 0"), "{name}: {said}");
    }
    // pgspot does find a planted hole.
    let hole = "CREATE FUNCTION workflow.hole() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN RETURN length('x'); END$$;";
    let (is_clean, said) = run("hole.sql", hole, &[]);
    assert!(!is_clean && said.contains("PS003"), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}
