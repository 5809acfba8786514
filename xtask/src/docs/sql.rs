//! Functions, tables and views, as their COMMENTs describe them.

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::marked;

/// Which functions belong together, and in which order.
const SUBJECTS: [(&str, &[&str]); 13] = [
    (
        "Create and find",
        &[
            "create_dag",
            "pause_dag",
            "unpause_dag",
            "create_dag_run",
            "latest_dag_run",
            "create_task_instances",
            "append_task_log",
        ],
    ),
    ("Transitions", &["transition", "transition_dag_run", "transition_task_instance", "transition_many"]),
    (
        "Claims",
        &[
            "enqueue_task_instances",
            "claim_tasks",
            "wait_for_tasks",
            "complete_claim",
            "fail_claim",
            "finish_claims",
            "release_claims",
            "renew_claims",
            "reap_claims",
            "request_cancel",
            "set_queue",
            "recover_ready",
        ],
    ),
    ("Dependencies", &["add_dependencies", "rerun_tasks", "set_fails_on", "dag_run_graph", "why_waiting"]),
    ("State machine", &["states", "can_transition", "next_states", "is_terminal", "is_finished"]),
    ("History", &["history", "state_at", "event_id_at", "event_id_before", "verify"]),
    (
        "Event feed: consumers",
        &[
            "create_consumer",
            "wait_for_events",
            "read_events",
            "ack_events",
            "skip_event",
            "resume_consumer",
            "drop_consumer",
        ],
    ),
    ("Event feed: followers", &["current_position", "wait_for_events_after", "follow_events"]),
    ("Relays", &["lease_consumer", "release_consumer", "save_checkpoint", "rewind_consumer"]),
    ("Maintenance", &["fold_state_counts", "open_partitions", "purge", "finish_copy"]),
    ("Diagnosis", &["stuck", "is_preloaded", "version"]),
    ("Row security", &["enable_row_security", "disable_row_security", "shows_all_tenants"]),
    ("UUIDs", &["uuid_v7"]),
];

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: Vec<String>,
    /// None of a procedure.
    result: Option<String>,
    comment: String,
    is_trigger: bool,
}

#[derive(Deserialize)]
struct Relation {
    name: String,
    is_view: bool,
    comment: String,
    columns: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    r#type: String,
    comment: String,
}

// A comma in a default could be taken for one between arguments, so each argument is asked for by its number.
const FUNCTIONS: &str = "
    SELECT json_build_object('name', proname, 'result', pg_get_function_result(p.oid), 'comment', obj_description(p.oid, 'pg_proc'),
        'arguments', ARRAY(SELECT CASE proargmodes[i] WHEN 'b' THEN 'INOUT ' ELSE '' END || proargnames[i] || ' ' || format_type(proargtypes[i - 1], NULL)
            || coalesce(' = ' || regexp_replace(pg_get_function_arg_default(p.oid, i), '::.*', ''), '')
            FROM generate_series(1, pronargs) AS i),
        'is_trigger', prorettype IN ('trigger'::regtype, 'event_trigger'::regtype))
    FROM pg_proc AS p WHERE pronamespace = 'workflow'::regnamespace AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal:%'
    ORDER BY proname";

const RELATIONS: &str = "
    SELECT json_build_object('name', relname, 'is_view', relkind = 'v', 'comment', obj_description(c.oid, 'pg_class'),
        'columns', (SELECT json_agg(json_build_object('name', attname, 'type', format_type(atttypid, NULL),
            'comment', coalesce(col_description(attrelid, attnum), '')) ORDER BY attnum)
            FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped))
    FROM pg_class AS c WHERE relnamespace = 'workflow'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
        AND obj_description(c.oid, 'pg_class') NOT LIKE 'Internal:%'
    ORDER BY c.oid";

pub fn generate(query: impl Fn(&str) -> Result<String>) -> Result<String> {
    let functions: Vec<Function> = rows(&query(FUNCTIONS)?)?;
    let relations: Vec<Relation> = rows(&query(RELATIONS)?)?;
    let mut page = String::new();
    for (subject, names) in SUBJECTS {
        page += &format!("## {subject}\n\n");
        for name in names {
            let mut overloads = functions.iter().filter(|function| function.name == *name).peekable();
            ensure!(overloads.peek().is_some(), "there is no function {name}: correct SUBJECTS in {}", file!());
            overloads.for_each(|function| page += &describe(function));
        }
    }
    let (triggers, others): (Vec<_>, Vec<_>) = functions.iter().partition(|function| function.is_trigger);
    let is_listed = |name: &str| SUBJECTS.iter().any(|(_, names)| names.contains(&name));
    let missing: Vec<&str> = others.iter().map(|function| &*function.name).filter(|name| !is_listed(name)).collect();
    ensure!(missing.is_empty(), "no subject has {missing:?}: add them to SUBJECTS in {}", file!());

    page += "## Triggers\n\n| function | description |\n|---|---|\n";
    for trigger in triggers {
        page += &format!("| `{}()` | {} |\n", trigger.name, marked(&trigger.comment));
    }
    for (title, is_view) in [("Tables", false), ("Views", true)] {
        page += &format!("\n## {title}\n\n");
        for relation in relations.iter().filter(|relation| relation.is_view == is_view) {
            page += &format!(
                "### {}\n\n{}\n\n| column | type | meaning |\n|---|---|---|\n",
                relation.name,
                marked(&relation.comment)
            );
            for column in &relation.columns {
                page += &format!("| `{}` | {} | {} |\n", column.name, column.r#type, marked(&column.comment));
            }
            page.push('\n');
        }
    }
    Ok(page)
}

fn rows<T: for<'de> Deserialize<'de>>(printed: &str) -> Result<Vec<T>> {
    printed.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn describe(function: &Function) -> String {
    let Function { name, arguments, result, comment, .. } = function;
    let one_line = arguments.join(", ");
    let arguments = if one_line.len() > 80 { format!("\n    {}", arguments.join(",\n    ")) } else { one_line };
    let (comment, errors) = comment.split_once(" Errors: ").unwrap_or((comment, ""));
    let errors = if errors.is_empty() { String::new() } else { format!("\n\nErrors: {}", marked(errors)) };
    let comment = marked(comment);
    let call = match result {
        Some(result) => format!("{name}({arguments}) → {result}"),
        None => format!("CALL {name}({arguments})"),
    };
    format!("### {name}\n\n```text\n{call}\n```\n\n{comment}{errors}\n\n")
}
