//! Exit codes and the messages with them.

use super::{Done, command, ok, refused, run};
use pg_workflow_tests::*;
use serde_json::json;
use uuid::Uuid;

#[test]
fn exit_code_tells_the_kind_of_failure() {
    let db = Db::new();
    let dag: Uuid = db.connect().query_one("SELECT workflow.create_dag('etl')", &[]).unwrap().get(0);
    let unknown = Uuid::new_v4().to_string();
    for args in [
        &["show", &unknown][..],
        &["show", "no_such_dag"],
        &["history", &unknown],
        &["list", "runs", "--dag", "no_such_dag"],
        &["list", "runs", "--dag", &unknown],
        &["list", "tasks", "--run", &unknown],
        &["watch", "--dag", "no_such_dag"],
        &["watch", "--run", &unknown],
        &["list", "claims", "--run", &unknown],
        &["cancel", &unknown],
    ] {
        assert!(refused(&db, args, 3).contains(args.last().unwrap()), "{args:?}");
    }
    assert!(refused(&db, &["history", &dag.to_string()], 3).contains("list runs --dag"));
    for args in [
        &[][..],
        &["lst"],
        &["list"],
        &["list", "dags", "--limit", "-1"],
        &["list", "dags", "--limit", "1", "--all"],
        &["list", "dags", "--paused", "perhaps"],
        &["list", "dags", "--order-by", "color"],
        &["list", "runs", "--state", "runing"],
        &["list", "runs", "--since", "yesterday"],
        &["list", "tasks", "--run", "etl"],
        &["history", "etl"],
        &["cancel"],
        &["cancel", "etl"],
        &["list", "queues", "--order-by", "ready"],
        &["migrate"],
        &["migrate", "to"],
        &["completions", "ksh"],
        &["--color", "red", "verify"],
    ] {
        refused(&db, args, 2);
    }
    let long = "x".repeat(251);
    for (flag, value) in [
        ("--consumer", long.as_str()),
        ("--consumer", " "),
        ("--stream", ""),
        ("--channel", "\t"),
        ("--log", "warning"),
        ("--log", "trace,"),
        ("--log", "sql"),
    ] {
        let message = refused(&db, &["serve", "--redis-url", "redis://127.0.0.1:1", flag, value], 2);
        assert!(message.contains(flag), "{message}");
    }
    // An environment file can leave a variable empty.
    let done = Done::of(command(&db, &["list", "dags"]).env("RUST_LOG", "").output().unwrap());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let hint = refused(&db, &["list", "runs", "--state", "runing"], 2);
    assert!(hint.contains("running"), "{hint}");

    let absent = "postgres://postgres@127.0.0.1:1/workflow";
    for args in [&["list", "dags"][..], &["show", "etl"], &["history", &unknown], &["verify"], &["migrate", "up"]] {
        let args = [args, &["--database-url", absent]].concat();
        let message = refused(&db, &args, 1);
        assert!(message.contains("DATABASE_URL"), "{args:?}: {message}");
        assert_eq!(message.matches("Connection refused").count(), 1, "{message}");
    }
    assert_eq!(ok(&db, &["--version"]).stdout, format!("workflow-server {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["list", "show", "history", "watch", "cancel", "reap", "verify", "migrate"] {
        assert!(ok(&db, &[command, "--help"]).stdout.contains("workflow-server"), "{command}");
    }
    let help = ok(&db, &["--help"]).stdout;
    for code in ["0  success", "1  failure", "2  invalid usage", "3  no such", "4  verify found"] {
        assert!(help.contains(code), "{code}");
    }
}

#[test]
fn verify_exits_with_4_if_history_was_falsified() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let task = create_task(client);
    let done = ok(&db, &["verify"]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", "rows and history agree\n"));
    client
        .batch_execute(
            "SET session_replication_role = replica; UPDATE workflow.task_instances SET state = 'success';
             ALTER DATABASE CURRENT_DATABASE_NAME SET statement_timeout = '1ms'"
                .replace("CURRENT_DATABASE_NAME", db.url().rsplit('/').next().unwrap().split('?').next().unwrap())
                .as_str(),
        )
        .unwrap();
    // `verify` overrides the database's statement_timeout.
    let done = run(&db, &["verify"]);
    assert_eq!(done.code, Some(4), "{}", done.stderr);
    let table = done.table();
    assert_eq!(table[0].join(" "), "ENTITY TYPE ENTITY ID PROBLEM DETAIL");
    let of_task = ["task_instance", &task.to_string(), "row", "and", "history", "disagree"];
    assert!(table.iter().any(|row| row.starts_with(&of_task)), "{table:?}");
    // One disagreement of the row, and one in the count of each of the two states.
    assert!(done.stderr.starts_with("workflow-server: rows and history disagree: 3 differences"), "{}", done.stderr);
    assert!(done.stderr.contains("\"verify() findings\" in docs/operations/monitoring.md"), "{}", done.stderr);
    let done = run(&db, &["verify", "--json"]);
    assert_eq!(done.code, Some(4));
    assert!(done.json().iter().any(|line| line["entity_id"] == json!(task)));
}

#[test]
fn invalid_url_is_rejected_without_its_password() {
    let db = Db::new();
    let postgres = "postgres://u:s3cret@h:port/d";
    let cases = [
        (&["list", "dags"][..], "--database-url", "DATABASE_URL", postgres, "option `port`"),
        (&["verify"], "--database-url", "DATABASE_URL", "host=h password='s3cret", "a quote is not closed"),
        (&["show", "etl"], "--database-url", "DATABASE_URL", "postgres://u:s3cret@h/d?sslmode=no", "sslmode is \"no\""),
        (&["serve", "--no-relay"], "--replica-url", "WORKFLOW_REPLICA_URL", postgres, "option `port`"),
        (&["serve"], "--redis-url", "REDIS_URL", "redis://u:s3cret@h:port", "not a URL of Redis"),
    ];
    for (args, flag, variable, url, reason) in cases {
        let by_flag = refused(&db, &[args, &[flag, url]].concat(), 2);
        let by_variable = Done::of(command(&db, args).env(variable, url).output().unwrap());
        assert_eq!(by_variable.code, Some(2), "{}", by_variable.stderr);
        for message in [by_flag, by_variable.stderr] {
            assert!(message.contains(flag) && message.contains(variable) && message.contains(reason), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
            assert!(message.matches("invalid connection string").count() <= 1, "{message}");
        }
    }
}
