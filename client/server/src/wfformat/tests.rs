use std::path::Path;

use super::*;

fn with_tasks(tasks: &str) -> String {
    format!(r#"{{"workflow":{{"specification":{{"tasks":{tasks}}}}}}}"#)
}

fn problem(json: &str) -> String {
    Trace::parse(json, "t.json").unwrap_err().to_string()
}

#[track_caller]
fn assert_problem(json: &str, parts: &[&str]) {
    let message = problem(json);
    assert!(message.starts_with("t.json: "), "{message}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

#[test]
fn edges_are_the_union_of_parents_and_children() {
    let json = with_tasks(
        r#"[{"id":"a","children":["b","b"]},{"id":"b","parents":["a"]},{"id":"c","parents":["a"],"children":null}]"#,
    );
    let trace = Trace::parse(&json, "t.json").unwrap();
    assert_eq!(trace.tasks[0].children, [1, 2]);
    assert_eq!(trace.tasks[1].parents, [0]);
    assert_eq!(trace.tasks[2].parents, [0]);
}

#[test]
fn missing_fields_have_defaults() {
    let trace = Trace::parse(&with_tasks(r#"[{"id":"a"}]"#), "dir.v2/my.trace.json").unwrap();
    assert_eq!(trace.name, "my.trace");
    assert_eq!(trace.tasks[0].runtime, Duration::ZERO);
    assert_eq!(trace.critical_path(), Duration::ZERO);
    assert!(trace.warnings.is_empty());
}

#[test]
fn runtimes_come_from_the_execution() {
    let json = r#"{"name":"n","schemaVersion":"1.5","workflow":{
        "specification":{"tasks":[{"id":"a"},{"id":"b","parents":["a"]},{"id":"c","parents":["a"]}]},
        "execution":{"executedAt":"20200402T023752+0000","tasks":[
            {"id":"a","runtimeInSeconds":1.5},{"id":"b","runtimeInSeconds":2},{"id":"c"},{"id":"stage-in"}]}}}"#;
    let trace = Trace::parse(json, "t.json").unwrap();
    assert_eq!(trace.critical_path(), Duration::from_millis(3500));
    assert_eq!(trace.executed_at.unwrap().to_rfc3339(), "2020-04-02T02:37:52+00:00");
    assert!(trace.warnings[0].contains("stage-in"));
}

#[test]
fn unknown_date_format_is_a_warning() {
    let json = r#"{"createdAt":"last week","workflow":{"specification":{"tasks":[{"id":"a"}]}}}"#;
    let trace = Trace::parse(json, "t.json").unwrap();
    assert_eq!(trace.created_at, None);
    assert!(trace.warnings[0].contains("createdAt \"last week\""));
}

#[test]
fn invalid_json_is_rejected() {
    for json in [
        "",
        "{",
        "tasks: []",
        r#"{"workflow":{"specification":{"tasks":[]}}}}"#,
        r#"{"workflow":{"specification":{"tasks":[{"id":"a","runtime":NaN}]}}}"#,
    ] {
        assert_problem(json, &["is not JSON", "line", "expected a trace in WfFormat 1.5"]);
    }
}

#[test]
fn other_formats_are_rejected() {
    assert_problem("[]", &["is not WfFormat 1.5", "the top"]);
    assert_problem("{}", &["is not WfFormat 1.5", "missing field `workflow`"]);
    assert_problem(r#"{"workflow":{}}"#, &["at workflow", "missing field `specification`"]);
    assert_problem(
        &with_tasks(r#"[{"id":"a"},{"id":7}]"#),
        &["at workflow.specification.tasks[1].id", "expected a string"],
    );
    assert_problem(&with_tasks(r#"[{"name":"a"}]"#), &["workflow.specification.tasks[0]", "missing field `id`"]);
}

#[test]
fn older_formats_are_recognized() {
    let json = r#"{"schemaVersion":"1.4","workflow":{"tasks":[{"name":"a","runtimeInSeconds":1}]}}"#;
    assert_problem(json, &["older WfFormat (1.4)", "workflow.tasks", "expected workflow.specification.tasks"]);
    assert_problem(r#"{"workflow":{"jobs":[]}}"#, &["older WfFormat:"]);
}

#[test]
fn invalid_tasks_are_rejected() {
    assert_problem(&with_tasks("[]"), &["has no tasks"]);
    assert_problem(&with_tasks(r#"[{"id":"a"},{"id":"b"},{"id":"a"}]"#), &["two tasks", "\"a\"", "tasks[0]", "[2]"]);
    assert_problem(&with_tasks(r#"[{"id":"a","parents":["x"]}]"#), &["unknown parent \"x\" of task \"a\""]);
    assert_problem(&with_tasks(r#"[{"id":"a","children":["x"]}]"#), &["unknown child \"x\" of task \"a\""]);
    assert_problem(&with_tasks(r#"[{"id":" "}]"#), &["task id that is empty"]);
    assert_problem(&with_tasks(r#"[{"id":"a\u0000"}]"#), &["null character"]);
    assert_problem(
        &with_tasks(&format!(r#"[{{"id":"{}"}}]"#, "é".repeat(501))),
        &["501 characters", "expected 1 to 500"],
    );
    assert!(Trace::parse(&with_tasks(&format!(r#"[{{"id":"{}"}}]"#, "é".repeat(500))), "t.json").is_ok());
}

#[test]
fn invalid_runtimes_are_rejected() {
    for runtime in ["-1", "1e300"] {
        let json = format!(
            r#"{{"workflow":{{"specification":{{"tasks":[{{"id":"a"}}]}},"execution":{{"tasks":[{{"id":"a","runtimeInSeconds":{runtime}}}]}}}}}}"#
        );
        assert_problem(&json, &["runtimeInSeconds of", "task \"a\"", "0 or more"]);
    }
}

#[test]
fn cycles_are_rejected() {
    assert_problem(&with_tasks(r#"[{"id":"a","parents":["a"]}]"#), &["has a cycle: a → a;"]);
    let json = with_tasks(
        r#"[{"id":"first","children":["a"]},{"id":"a","parents":["c"]},{"id":"b","parents":["a"]},{"id":"c","parents":["b"],"children":["last"]},{"id":"last"}]"#,
    );
    let message = problem(&json);
    assert!(
        ["a → b → c → a", "b → c → a → b", "c → a → b → c"].iter().any(|cycle| message.contains(cycle)),
        "{message}"
    );
    assert!(!message.contains("first") && !message.contains("last"), "{message}");
}

#[test]
fn chains_of_many_tasks_are_parsed() {
    let mut tasks: Vec<String> = (1..100_000).map(|n| format!(r#"{{"id":"{n}","parents":["{}"]}}"#, n - 1)).collect();
    tasks.push(r#"{"id":"0"}"#.to_owned());
    let trace = Trace::parse(&with_tasks(&format!("[{}]", tasks.join(","))), "t.json").unwrap();
    assert_eq!(trace.tasks.len(), 100_000);

    tasks.pop();
    tasks.push(r#"{"id":"0","parents":["99999"]}"#.to_owned());
    assert!(problem(&with_tasks(&format!("[{}]", tasks.join(",")))).contains("… (100000 tasks in all) →"));
}

#[test]
fn real_traces_are_parsed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces");
    if !folder.exists() {
        return eprintln!("skipped: there are no traces in {}", folder.display());
    }
    for (file, name, tasks, edges, seconds, executed_at) in [
        (
            "1000genome-chameleon-8ch-250k-001.json",
            "1000genome-20200402T023420Z-0",
            328,
            424,
            372.872,
            "2020-04-02T02:37:52+00:00",
        ),
        ("blast-chameleon-medium-001.json", "makeflow-blast-medium", 303, 900, 119.34868, "2020-12-26T01:35:40+00:00"),
        ("montage-chameleon-2mass-01d-001.json", "montage", 103, 231, 21.122, "2021-03-23T05:57:15+00:00"),
        ("rnaseq-dirt02-001.json", "rnaseq", 197, 451, 759.454, "2023-03-21T21:10:20+00:00"),
    ] {
        let trace = Trace::read(&folder.join(file)).unwrap();
        assert_eq!(trace.warnings, [""; 0], "{file}");
        assert_eq!((trace.name.as_str(), trace.tasks.len()), (name, tasks));
        assert_eq!(trace.tasks.iter().map(|task| task.parents.len()).sum::<usize>(), edges, "{file}");
        assert!((trace.critical_path().as_secs_f64() - seconds).abs() < 0.001, "{file}");
        assert_eq!(trace.executed_at.unwrap().to_rfc3339(), executed_at, "{file}");
    }
}

#[test]
fn example_trace_is_parsed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/traces/etl.json");
    let trace = Trace::read(&path).unwrap();
    assert_eq!(trace.warnings, [""; 0]);
    assert!(trace.tasks.len() > 20);
}
