//! Every setting that a session or a database can have: functions give the same answers under each of its values.

use super::arguments::{Hostile, functions};
use super::assert_none;
use pg_workflow_tests::attack::World;
use postgres::{Client, SimpleQueryMessage};

/// Values of settings that are no list of words.
const VALUES: [(&str, &str); 15] = [
    ("DateStyle", "German"),
    ("DateStyle", "Postgres, DMY"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "Pacific/Chatham"),
    ("TimeZone", "-17:30"),
    ("extra_float_digits", "-15"),
    ("client_encoding", "SQL_ASCII"),
    ("search_path", ""),
    ("search_path", "evil, pg_catalog"),
    ("work_mem", "64"),
    ("default_text_search_config", "simple"),
    ("from_collapse_limit", "1"),
    ("join_collapse_limit", "1"),
    ("cursor_tuple_fraction", "0"),
    ("jit_above_cost", "0"),
];

/// Settings that change answers on purpose.
const EXPECTED: [(&str, &str); 6] = [
    ("exit_on_error", "each error ends the session"),
    ("default_transaction_read_only", "writes are rejected with 25006"),
    ("transaction_read_only", "the same"),
    ("default_transaction_isolation", "a fixed snapshot knows no new events"),
    ("transaction_isolation", "the same"),
    ("row_security", "off rejects queries that row security would filter"),
];

/// A setting, and a value that it does not have.
type Setting = (String, String);

/// Returns rounds of settings: in each one every setting has another of its values.
fn rounds(client: &mut Client) -> Vec<Vec<Setting>> {
    let sql = "SELECT s.name, v.value
               FROM pg_settings AS s
               CROSS JOIN LATERAL unnest(CASE s.vartype WHEN 'bool' THEN '{on,off}' ELSE s.enumvals END) AS v (value)
               WHERE s.context = 'user' AND s.setting <> v.value AND s.name NOT LIKE '%.%'";
    let all = client.query(sql, &[]).unwrap();
    let listed = all.iter().map(|row| (row.get::<_, String>(0), row.get::<_, String>(1)));
    let others = VALUES.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut rounds: Vec<Vec<Setting>> = Vec::new();
    for (name, value) in listed.chain(others) {
        if EXPECTED.iter().any(|(expected, _)| *expected == name) {
            continue;
        }
        let free = rounds.iter().position(|round| round.iter().all(|(other, _)| *other != name));
        match free {
            Some(n) => rounds[n].push((name, value)),
            None => rounds.push(vec![(name, value)]),
        }
    }
    rounds
}

/// The outcome of each call: its number of rows or its error.
fn outcomes(client: &mut Client, calls: &[String]) -> Vec<String> {
    let mut outcomes = Vec::new();
    client.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    for call in calls {
        outcomes.push(match client.simple_query(&format!("ROLLBACK TO a; {call}")) {
            Ok(rows) => {
                format!("{} rows", rows.iter().filter(|row| matches!(row, SimpleQueryMessage::Row(_))).count())
            }
            Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{call}: {error}")).code().code().to_owned(),
        });
    }
    client.batch_execute("ROLLBACK").unwrap();
    outcomes
}

#[test]
fn settings_of_a_session_change_no_answer() {
    let world = World::start("attack-settings");
    let hostile = Hostile::new(&world);
    let calls: Vec<String> =
        functions(&mut world.db.connect()).iter().map(|function| function.likely_call(&hostile)).collect();
    let usual = outcomes(&mut world.log_in("admin"), &calls);
    assert!(usual.iter().filter(|outcome| outcome.ends_with("rows")).count() * 2 > calls.len(), "{usual:?}");
    let other_answers = |settings: &[Setting]| {
        // A session of its own, because PL/pgSQL parses a statement once a session.
        let client = &mut world.log_in("admin");
        for (name, value) in settings {
            client.batch_execute(&format!("SET {name} = '{value}'")).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let answers = outcomes(client, &calls).into_iter().zip(&usual).zip(&calls);
        let others = answers.filter(|((answer, usual), _)| answer != *usual);
        others.map(|((answer, usual), call)| format!("{call}: {answer}, not {usual}")).collect::<Vec<String>>()
    };
    let mut faults = Vec::new();
    for round in rounds(&mut world.log_in("admin")) {
        if other_answers(&round).is_empty() {
            continue;
        }
        let guilty: Vec<&Setting> = round.iter().filter(|one| !other_answers(&[(*one).clone()]).is_empty()).collect();
        faults.push(format!("{guilty:?}: {:?}", other_answers(&round)));
    }
    assert_none("settings", &faults);
}
