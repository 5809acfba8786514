//! The README's SQL does what the README says, and its tables list what there is.
//!
//! Every ```` ```sql ```` block runs in psql, in order and in one session, which is a reader's. A ```` ```text ````
//! block right after it is what psql prints, up to ids, times and white space; so are those after a command of
//! `workflow-server`, which runs on what the SQL has left. A block that ends in an error says so:
//! `-- refused with SQLSTATE 23514`.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use uuid::Uuid;
use xtask::stack::process::clean_environment;
use xtask::stack::redis::Redis;

fn readme() -> String {
    fs::read_to_string(xtask::workspace::root().join("README.md")).expect("README.md")
}

/// A fenced block: its language and its text.
struct Block {
    language: String,
    text: String,
    /// Whether it begins right where the one before it ends.
    follows: bool,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let (mut blocks, mut open): (Vec<Block>, Option<Block>) = (Vec::new(), None);
    let mut just_closed = false;
    for line in markdown.lines() {
        match (open.take(), line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block { language: language.to_owned(), text: String::new(), follows: just_closed });
            }
            (None, None) => just_closed = false,
            (Some(block), Some("")) => {
                blocks.push(block);
                just_closed = true;
            }
            (Some(mut block), _) => {
                block.text += line;
                block.text.push('\n');
                open = Some(block);
            }
        }
    }
    assert!(open.is_none(), "a block of the README has no end");
    blocks
}

/// The cells of the table under a heading, without its header.
fn table_of(markdown: &str, heading: &str) -> Vec<Vec<String>> {
    let mut lines = markdown.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading);
    assert!(lines.next().is_some_and(|line| line.starts_with('#')), "the README has no heading {heading:?}");
    let lines = lines.skip_while(|line| !line.starts_with('|')).skip(2).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What a cell has in backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// psql, as a reader runs it: errors among the output, and no end at the first of them.
fn psql(db: &Db, script: &str) -> String {
    let psql = xtask::setup::toolchain().expect("PostgreSQL").postgres.program("psql");
    // The shell only joins the two outputs, in the order in which psql writes them.
    let mut command = Command::new("sh");
    clean_environment(&mut command);
    command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(psql).args(["-X", "--dbname", db.url()]);
    command.env("PGTZ", "UTC").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("psql starts");
    let (mut stdin, script) = (child.stdin.take().expect("a pipe"), script.to_owned());
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().expect("psql ends");
    writer.join().expect("the writer ends").expect("psql reads everything");
    String::from_utf8(output.stdout).expect("text")
}

/// What does not differ from run to run: ids are numbered as they appear, times and process ids are gone, and so is
/// the white space that depends on their widths.
#[derive(Default)]
struct Mask(Vec<Uuid>);

impl Mask {
    fn lines(&mut self, text: &str) -> Vec<String> {
        let lines = text.lines().map(|line| self.line(line));
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn line(&mut self, line: &str) -> String {
        let (mut masked, mut rest) = (String::new(), line);
        while let Some(next) = rest.chars().next() {
            let length = match rest.get(..36).and_then(|text| Uuid::parse_str(text).ok()) {
                Some(id) => {
                    masked += &format!("<id {}>", self.number(id));
                    36
                }
                None => {
                    masked.push(next);
                    next.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        for (before, after) in [("\"changed_at\":\"", "\""), ("server process with PID ", ".")] {
            if let Some((head, tail)) = masked.clone().split_once(before) {
                let (_, tail) = tail.split_once(after).expect("its end");
                masked = format!("{head}{before}…{after}{tail}");
            }
        }
        let is_rule = !masked.is_empty() && masked.chars().all(|c| c == '-' || c == '+');
        if is_rule { "---".to_owned() } else { masked.split_whitespace().collect::<Vec<_>>().join(" ") }
    }

    fn number(&mut self, id: Uuid) -> usize {
        let known = self.0.iter().position(|other| *other == id);
        known.unwrap_or_else(|| {
            self.0.push(id);
            self.0.len() - 1
        })
    }
}

/// Runs the README's SQL and compares; each block's SQL, for further tests.
fn run_the_readme(db: &Db) {
    const END: &str = "@@ end of block";
    let markdown = readme();
    let all = blocks(&markdown);
    let sql: Vec<&Block> = all.iter().filter(|block| block.language == "sql").collect();
    assert!(sql.len() >= 10, "only {} blocks of SQL", sql.len());
    let script: String = sql.iter().map(|block| format!("{}\\echo {END} :SQLSTATE\n", block.text)).collect();
    let printed = psql(db, &script);

    let mut outputs = printed.split(END);
    let mut output = outputs.next().expect("an output").to_owned();
    let (mut real, mut documented) = (Mask::default(), Mask::default());
    for (place, block) in all.iter().enumerate().filter(|(_, block)| block.language == "sql") {
        let next = outputs.next().unwrap_or_else(|| panic!("psql ended early:\n{printed}"));
        let (sqlstate, following) = next.split_once('\n').expect("a line");
        let expected = block.text.split_once("refused with SQLSTATE ").map_or("00000", |(_, rest)| &rest[..5]);
        assert_eq!(sqlstate.trim(), expected, "{}\n{output}", block.text);
        assert_eq!(output.matches("ERROR:").count(), usize::from(expected != "00000"), "{}\n{output}", block.text);
        match all.get(place + 1).filter(|next| next.follows && next.language == "text") {
            Some(shown) => {
                let (output, shown) = (notifications_last(&output), notifications_last(&shown.text));
                assert_eq!(real.lines(&output), documented.lines(&shown), "{}\n{output}", block.text);
            }
            None => assert_eq!(expected, "00000", "an error is shown in the README: {}", block.text),
        }
        output = following.to_owned();
    }

    for (place, block) in all.iter().enumerate().filter(|(_, block)| block.text.starts_with("workflow-server ")) {
        let shown = all.get(place + 1).filter(|next| next.follows && next.language == "text").expect("what it prints");
        let args = block.text.split_whitespace().skip(1).map(|word| match word.parse() {
            Ok(id) => real.0[documented.number(id)].to_string(),
            Err(_) => word.to_owned(),
        });
        let mut command = Command::new(server_binary());
        let done = command.args(args).env("DATABASE_URL", db.url()).output().expect("workflow-server runs");
        assert!(done.status.success(), "{}\n{}", block.text, String::from_utf8_lossy(&done.stderr));
        let printed = timeless(&String::from_utf8(done.stdout).expect("text"));
        assert_eq!(real.lines(&printed), documented.lines(&timeless(&shown.text)), "{}\n{printed}", block.text);
    }
}

/// psql shows a notification after the statement that it came during: on a busy machine that can be the one before.
fn notifications_last(text: &str) -> String {
    let (notifications, others): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("Asynchronous notification"));
    others.iter().chain(&notifications).map(|line| format!("{line}\n")).collect()
}

/// Without moments and durations.
fn timeless(text: &str) -> String {
    let word = |word: &str| -> String {
        let is_duration = word.starts_with(|c: char| c.is_ascii_digit())
            && word.ends_with(['s', 'm', 'h'])
            && word.chars().all(|c| "0123456789.msdh".contains(c));
        let is_moment = chrono::DateTime::parse_from_rfc3339(word).is_ok();
        if is_duration || is_moment { "…".to_owned() } else { word.to_owned() }
    };
    text.lines().map(|line| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn its_sql_does_what_it_says_and_its_grants_suffice() {
    let db = Db::new();
    run_the_readme(&db);

    // The roles of "Privileges", each at its work.
    let scheduler = &mut db.connect_as("scheduler");
    let dag: Uuid = scheduler.query_one("SELECT workflow.create_dag('granted')", &[]).unwrap().get(0);
    scheduler.query_one("SELECT workflow.pause_dag($1), workflow.unpause_dag($1)", &[&dag]).unwrap();
    let run: Uuid = scheduler.query_one("SELECT workflow.create_dag_run($1)", &[&dag]).unwrap().get(0);
    let sql = "SELECT id FROM workflow.create_task_instances($1, ARRAY['a', 'b'])";
    let tasks: Vec<Uuid> = scheduler.query(sql, &[&run]).unwrap().iter().map(|row| row.get(0)).collect();
    scheduler.query_one("SELECT * FROM workflow.latest_dag_run($1)", &[&dag]).unwrap();
    scheduler.query_one("SELECT workflow.transition_dag_run($1, 'queued', 'running')", &[&run]).unwrap();

    let worker = &mut db.connect_as("worker");
    let sql = "SELECT workflow.transition_task_instance($1, 'queued', 'running', '{}', 1, 'r')";
    for _ in 0..2 {
        assert_eq!(worker.query_one(sql, &[&tasks[0]]).unwrap().get::<_, i64>(0), 2);
    }
    let sql = "SELECT outcome FROM workflow.transition_many('task_instance', $1, NULL, 'failed', '{\"error\": \"x\"}')";
    let outcomes: Vec<String> = worker.query(sql, &[&tasks]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(outcomes, ["applied"; 2]);
    worker.execute("UPDATE workflow.task_instances SET state = 'retrying' WHERE id = $1", &[&tasks[0]]).unwrap();
    worker.query_one("SELECT workflow.append_task_log($1, 'again')", &[&tasks[0]]).unwrap();
    let sql =
        "SELECT workflow.state_at('task_instance', $1, now()), count(*) FROM workflow.history('task_instance', $1)";
    worker.query_one(sql, &[&tasks[0]]).unwrap();
    for refused in [
        "UPDATE workflow.task_instances SET version = 9",
        "DELETE FROM workflow.task_instances",
        "SELECT workflow.purge(now())",
        "TABLE workflow.consumers",
        "SET pg_workflow.announce = off",
    ] {
        assert_eq!(failure(worker.execute(refused, &[])).sqlstate, "42501", "{refused}");
    }

    let relay = &mut db.connect_as("relay");
    relay.batch_execute("LISTEN workflow_events; SELECT workflow.create_consumer('relay', true)").unwrap();
    let rows = relay.query("SELECT id FROM workflow.read_events('relay')", &[]).unwrap();
    relay.query_one("SELECT workflow.ack_events('relay', $1)", &[&rows[0].get::<_, i64>(0)]).unwrap();
    let sql = "SELECT workflow.lease_consumer('relay', 'me')";
    let lease: i64 = relay.query_one(sql, &[]).unwrap().get(0);
    relay.query_one("SELECT workflow.save_checkpoint('relay', '{1,2}', $1)", &[&lease]).unwrap();
    relay.query_one("SELECT workflow.rewind_consumer('relay', '{1,2}', $1)", &[&lease]).unwrap();
    relay.query_one("SELECT workflow.release_consumer('relay', $1)", &[&lease]).unwrap();
    relay.query_one("SELECT workflow.drop_consumer('relay')", &[]).unwrap();
    relay.query_one("SELECT workflow.fold_state_counts()", &[]).unwrap();

    let reader = &mut db.connect_as("reader");
    assert!(reader.query("SELECT * FROM workflow.verify()", &[]).unwrap().is_empty());
    reader.query("SELECT workflow.follow_events(workflow.current_position())", &[]).unwrap();
    for relation in [
        "consumer_lag",
        "state_counts",
        "notifier",
        "state_machine",
        "dags",
        "dag_runs",
        "task_instances",
        "task_logs",
        "state_history",
        "partitions",
        "settings",
    ] {
        reader.query(&format!("TABLE workflow.{relation}"), &[]).unwrap();
    }
    db.connect_as("janitor").batch_execute("SELECT workflow.purge(now()); DELETE FROM workflow.dags").unwrap();
}

#[test]
fn its_moves_are_those_of_the_machine() {
    let listed: Vec<(String, Vec<String>)> =
        table_of(&readme(), "States").iter().map(|row| (code(&row[0])[0].clone(), code(&row[1]))).collect();
    let count: usize = listed.iter().map(|(_, next)| next.len()).sum();
    assert_eq!(count, 13);
    assert_eq!(listed.len(), State::ALL.len());
    for state in State::ALL {
        let next: Vec<String> = state.next_states().iter().map(State::to_string).collect();
        assert!(listed.contains(&(state.to_string(), next)), "{state}: {listed:?}");
    }
}

/// A function as the README spells it: `create_dag(name, description = null)`.
fn signature(text: &str) -> (String, Vec<String>, usize) {
    let (name, arguments) = text.strip_suffix(')').and_then(|text| text.split_once('(')).expect("name(arguments)");
    // A comma may stand in a default's parentheses, but none does.
    let arguments: Vec<&str> = arguments.split(", ").filter(|argument| !argument.is_empty()).collect();
    let optional = arguments.iter().filter(|argument| argument.contains(" = ")).count();
    let names = arguments.iter().map(|argument| argument.split(" = ").next().unwrap_or_default().to_owned());
    (name.to_owned(), names.collect(), optional)
}

#[test]
fn its_functions_are_those_of_the_database() {
    let markdown = readme();
    let mut listed: Vec<_> = table_of(&markdown, "Functions").iter().map(|row| signature(&code(&row[0])[0])).collect();
    let db = Db::new();
    let sql = "SELECT proname::text, (coalesce(proargnames, '{}'))[:pronargs], pronargdefaults,
                      prorettype IN ('trigger'::regtype, 'event_trigger'::regtype)
               FROM pg_proc
               WHERE pronamespace = 'workflow'::regnamespace AND obj_description(oid, 'pg_proc') NOT LIKE 'Internal:%'";
    let mut existing = Vec::new();
    for row in db.connect().query(sql, &[]).unwrap() {
        let name: String = row.get(0);
        if row.get(3) {
            assert!(markdown.contains(&format!("`{name}()`")), "the trigger function {name} is not named");
        } else {
            existing.push((name, row.get::<_, Vec<String>>(1), row.get::<_, i16>(2) as usize));
        }
    }
    existing.sort();
    listed.sort();
    assert_eq!(listed, existing);
}

#[test]
fn its_columns_are_those_of_the_database() {
    let db = Db::new();
    let client = &mut db.connect();
    let listed = table_of(&readme(), "Tables and views");
    let sql = "SELECT relname::text FROM pg_class
         WHERE relnamespace = 'workflow'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition";
    let existing: BTreeSet<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(listed.iter().map(|row| code(&row[0])[0].clone()).collect::<BTreeSet<_>>(), existing);
    for row in listed.iter().filter(|row| !row[1].contains("internal")) {
        let sql = "SELECT attname::text FROM pg_attribute
                   WHERE attrelid = ('workflow.' || $1)::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
        let columns: Vec<String> =
            client.query(sql, &[&code(&row[0])[0]]).unwrap().iter().map(|column| column.get(0)).collect();
        assert_eq!(code(&row[1]), columns, "{}", row[0]);
    }
}

#[test]
fn its_errors_have_the_keys_it_lists() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let role = format!("plain_{}", Uuid::new_v4().simple());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA workflow TO {role};
             GRANT INSERT ON workflow.task_instances TO {role}"
        ))
        .unwrap();
    let listed = table_of(&readme(), "Errors");
    assert_eq!(listed.len(), 8);
    client.batch_execute("SELECT workflow.create_consumer('leased'), workflow.lease_consumer('leased', 'me')").unwrap();
    for row in listed {
        let sql = match row[0].as_str() {
            "23514" => "SELECT workflow.transition('task_instance', '{task}', 'queued', 'success')",
            "40001" => "SELECT workflow.transition('task_instance', '{task}', 'running', 'success')",
            "P0002" => "SELECT workflow.drop_consumer('nobody')",
            "22023" => "SELECT workflow.next_states('bogus')",
            "428C9" => "UPDATE workflow.task_instances SET version = 7",
            "42501" => "INSERT INTO workflow.task_instances (dag_run_id, task_id) VALUES ('{task}', 'x')",
            "2BP01" => "DROP EXTENSION pg_workflow",
            "55006" => "SELECT workflow.read_events('leased')",
            other => panic!("an error without a test: {other}"),
        };
        let sql = sql.replace("{task}", &task.to_string());
        let failed = if row[0] == "42501" {
            failure(db.connect_as(&role).execute(&sql, &[]))
        } else {
            failure(client.execute(&sql, &[]))
        };
        assert_eq!(failed.sqlstate, row[0], "{sql}");
        assert!(!failed.hint.is_empty(), "{sql}");
        let keys: BTreeSet<String> = failed.detail.as_object().expect("JSON").keys().cloned().collect();
        assert_eq!(keys, code(&row[2]).into_iter().collect(), "{sql}");
    }
}

#[test]
fn its_event_has_the_fields_it_lists() {
    let db = Db::new();
    let client = &mut db.connect();
    create_task(client);
    let sql = "SELECT jsonb_object_agg(key, value) FROM (SELECT workflow.create_consumer('c', true)) AS c,
               LATERAL (SELECT to_jsonb(e) AS e FROM workflow.read_events('c', 1) AS e) AS e, jsonb_each(e)";
    let event: Value = client.query_one(sql, &[]).unwrap().get(0);
    let fields: BTreeSet<String> = event.as_object().unwrap().keys().cloned().collect();
    let listed: BTreeSet<String> = table_of(&readme(), "Events").iter().flat_map(|row| code(&row[0])).collect();
    assert_eq!(listed, fields);
}

#[test]
fn its_settings_are_those_of_the_library() {
    let db = Db::new();
    let client = &mut db.connect();
    // What the library brings is known once it is loaded.
    client.query_one("SELECT workflow.version()", &[]).unwrap();
    let sql = "SELECT name, lower(boot_val), unit, CASE context WHEN 'sighup' THEN 'reload' ELSE context END, lower(enumvals::text)
               FROM pg_settings WHERE name LIKE 'pg_workflow.%' ORDER BY name";
    let listed = table_of(&readme(), "Settings");
    let rows = client.query(sql, &[]).unwrap();
    assert_eq!(rows.len(), listed.len());
    for row in rows {
        let (name, default, context): (String, String, String) = (row.get(0), row.get(1), row.get(3));
        let entry = listed.iter().find(|entry| code(&entry[0])[0] == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(code(&entry[1]), [default], "{name}");
        let unit: Option<String> = row.get(2);
        assert!(entry[1].ends_with(unit.as_deref().unwrap_or("`")), "{name}");
        assert_eq!(entry[2], context, "{name}");
        let values: Option<String> = row.get(4);
        let values = values.unwrap_or_default();
        values
            .trim_matches(['{', '}'])
            .split(',')
            .for_each(|value| assert!(entry[3].contains(value), "{name}: {value}"));
    }
}

/// What a command says of itself. What is set here would be shown as the value: nothing is.
fn help(command: &str) -> String {
    let mut help = Command::new(server_binary());
    help.env_clear().args(command.split(' ')).arg("--help");
    String::from_utf8(help.output().expect("workflow-server runs").stdout).expect("text")
}

/// Each flag of a command, with what its help says.
fn flags(command: &str) -> BTreeMap<String, String> {
    let help = help(command);
    let (_, options) = help.split_once("Options:\n").expect("options");
    let (mut flags, mut last) = (BTreeMap::new(), String::new());
    for line in options.lines().take_while(|line| line.is_empty() || line.starts_with(' ')) {
        // "  -n, --limit <N>", and in the short form "      --all  All there are".
        let names = line.trim_start().split("  ").next().unwrap_or_default();
        let mut words = names.split_whitespace().filter(|_| names.starts_with('-') && !names.starts_with("- "));
        if let Some(flag) = words.find(|word| word.starts_with("--")) {
            flag.clone_into(&mut last);
        }
        let help: &mut String = flags.entry(last.clone()).or_default();
        help.push_str(line);
        help.push('\n');
    }
    flags.remove("--help");
    flags.remove("--version");
    flags
}

#[test]
fn its_flags_are_those_of_the_server() {
    let listed = table_of(&readme(), "workflow-server");
    for command in commands() {
        let mut existing = flags(&command);
        let applies = |cell: &str| match cell {
            "all" => true,
            "all but health, completions" => !["health", "completions"].contains(&command.as_str()),
            cell => cell.split(", ").any(|name| command == name || command.starts_with(&format!("{name} "))),
        };
        for row in listed.iter().filter(|row| applies(&row[0])) {
            let flag = &code(&row[1])[0];
            let help = existing.remove(flag).unwrap_or_else(|| panic!("{command} has no {flag}: {existing:?}"));
            let variable = help.split_once("[env: ").and_then(|(_, rest)| rest.split(['=', ']']).next());
            assert_eq!(code(&row[2]).first().map(String::as_str), variable, "{command} {flag}: {help}");
            let default = help.split_once("[default: ").and_then(|(_, rest)| rest.split(']').next());
            let given = (!row[3].contains("required")).then(|| code(&row[3]).into_iter().next()).flatten();
            assert_eq!(given.as_deref(), default, "{command} {flag}");
        }
        assert!(existing.is_empty(), "{command} has more flags: {existing:?}");
    }
}

/// The commands that have no commands of their own, as the help lists them.
fn commands() -> Vec<String> {
    let mut commands = Vec::new();
    let mut open = vec![String::new()];
    while let Some(command) = open.pop() {
        let help = if command.is_empty() { help("--log=off") } else { help(&command) };
        let Some((_, list)) = help.split_once("\nCommands:\n") else {
            commands.push(command);
            continue;
        };
        let names = list.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        open.extend(names.map(|name| format!("{command} {name}").trim().to_owned()));
    }
    commands
}

#[test]
fn its_commands_are_those_of_the_server() {
    let listed = table_of(&readme(), "Command line");
    // Without their arguments, which are in capitals.
    let command = |text: &String| {
        let words = text.split(' ').filter(|word| word.chars().any(char::is_lowercase));
        words.collect::<Vec<_>>().join(" ")
    };
    let listed: BTreeSet<String> = listed.iter().flat_map(|row| code(&row[0])).map(|text| command(&text)).collect();
    assert_eq!(listed, commands().into_iter().collect());
}

#[test]
fn its_paths_take_the_parameters_it_lists() {
    let db = Db::new();
    let redis = Redis::start("readme-http").unwrap();
    let (_server, url) = serve(db.url(), &redis.url());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let get = |path: &str| -> (u16, Value) {
        let mut response = agent.get(format!("{url}{path}")).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_json().expect("JSON"))
    };
    let listed = table_of(&readme(), "HTTP");
    assert_eq!(listed.len(), 15);
    for row in listed {
        let path = &code(&row[0])[0];
        if path == "/" {
            assert_eq!(agent.get(&url).call().unwrap().headers()["content-type"], "text/html; charset=utf-8");
            continue;
        }
        if path == "/metrics" {
            let metrics = agent.get(format!("{url}{path}")).call().unwrap().body_mut().read_to_string().unwrap();
            for name in metrics.lines().filter_map(|line| line.split(' ').next().filter(|name| !name.starts_with('#')))
            {
                assert!(readme().contains(&format!("`{name}`")), "{name}");
            }
            continue;
        }
        if path == "/health" {
            let (status, health) = get(path);
            assert_eq!(status, 200);
            assert!(readme().contains(&serde_json::to_string(&health["service"]).unwrap()));
            continue;
        }
        let (status, body) = get(&format!("{}?no-such=1", path.replace("{id}", &Uuid::nil().to_string())));
        assert_eq!(status, 400, "{path}: {body}");
        let known = match code(&row[1]) {
            none if none.is_empty() => "none".to_owned(),
            names => names.join(", "),
        };
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.ends_with(&format!("known here: {known}")), "{path}: {message}");
    }
}

fn python() -> Option<Command> {
    // PYTHON may name another one than PATH has, of a virtual environment for example.
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let psycopg = Command::new(&python).args(["-c", "import psycopg"]).output();
    if psycopg.is_ok_and(|output| output.status.success()) {
        return Some(Command::new(python));
    }
    eprintln!("skipped: {} has no psycopg", python.to_string_lossy());
    None
}

fn queued(client: &mut Client) -> i64 {
    let sql = "SELECT count(*) FROM workflow.task_instances WHERE state = 'queued'";
    client.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn its_worker_in_python_runs_every_task_once() {
    if python().is_none() {
        return;
    }
    let markdown = readme();
    let all = blocks(&markdown);
    let scripts: Vec<&Block> = all.iter().filter(|block| block.language == "python").collect();
    assert_eq!(scripts.len(), 1);
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 40);
    // Three at once, so that they meet; one of them fails whatever it gets.
    let failing = scripts[0].text.replace("print(\"running\", name)", "raise ValueError(\"broken\")");
    assert_ne!(failing, scripts[0].text);
    let workers: Vec<_> = [&scripts[0].text, &scripts[0].text, &failing]
        .into_iter()
        .map(|script| {
            let mut worker = python().expect("it was there");
            worker.args(["-c", script]).env("DATABASE_URL", db.url());
            worker.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python starts")
        })
        .collect();
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(queued(client), 0);
    let sql = "SELECT count(*), count(*) FILTER (WHERE state = 'failed' AND error = 'broken'),
                      count(*) FILTER (WHERE state = 'success'), bool_and(version = 3 AND try_number = 1)
               FROM workflow.task_instances";
    let row = client.query_one(sql, &[]).unwrap();
    let (total, failed, succeeded): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((total, failed + succeeded), (tasks.len() as i64, total));
    assert!(row.get::<_, bool>(3));
    let sql = "SELECT count(DISTINCT request_id) FROM workflow.state_history WHERE old_state IS NOT NULL";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 2 * tasks.len() as i64);
}

#[test]
fn psycopg_has_the_exceptions_it_names() {
    let Some(mut python) = python() else { return };
    let listed = table_of(&readme(), "From a program");
    assert_eq!(listed.len(), 7);
    let checks: String = listed
        .iter()
        .map(|row| format!("assert errors.lookup('{}') is errors.{}\n", row[0], code(&row[1])[0]))
        .collect();
    let output = python.args(["-c", &format!("from psycopg import errors\n{checks}")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
