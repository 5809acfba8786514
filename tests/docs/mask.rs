//! The same output of two runs, made equal.

use regex::Regex;
use std::sync::LazyLock;
use uuid::Uuid;

/// Hides values that differ from run to run: times, durations, process ids, and the white space that depends on their
/// widths. UUIDs are numbered as they appear.
#[derive(Default)]
pub struct Mask(Vec<Uuid>);

static UUID: LazyLock<Regex> = LazyLock::new(|| regex("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"));

static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let masks = [
        // 2026-11-23T23:44:48.262182Z, 2026-11-23 23:44:48.26+00, Mon, 23 Nov 2026 23:44:48 GMT
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|UTC|[+-]\d\d(:?\d\d)?))?", "<time>"),
        (r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", "<time>"),
        // 1m12s, 12.5 ms, 00:00:01.5
        (r"\b(\d+(\.\d+)? ?(d|h|m|s|ms|µs)( ?))+\b", "<duration>$4"),
        (r"-?\b\d\d:\d\d:\d\d(\.\d+)?", "<duration>"),
        (r#"("(?:lag|duration|lag_seconds)": ?)\d+(\.\d+)?"#, "$1<duration>"),
        (r#"(\bPID |"pid": ?|\bpid[= ])\d+"#, "$1<pid>"),
        // Each page of the tests has a database of its own.
        (r#"connected to database "\w+""#, "connected to <database>"),
        // An entry of the Redis stream: milliseconds and the event's id.
        (r"\b\d{13}-(\d+)\b", "<time>-$1"),
    ];
    masks.map(|(pattern, mask)| (regex(pattern), mask)).into()
});

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern")
}

impl Mask {
    pub fn lines(&mut self, text: &str) -> Vec<String> {
        let text = notifications_last(text);
        let lines = text.lines().map(|line| self.line(line));
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn line(&mut self, line: &str) -> String {
        let line = UUID.replace_all(line, |found: &regex::Captures<'_>| {
            let id = found[0].parse().expect("a UUID");
            format!("<id {}>", self.number(id))
        });
        let line = MASKS
            .iter()
            .fold(line.into_owned(), |line, (pattern, mask)| pattern.replace_all(&line, *mask).into_owned());
        let is_rule = !line.is_empty() && line.chars().all(|c| c == '-' || c == '+');
        if is_rule { "---".to_owned() } else { line.split_whitespace().collect::<Vec<_>>().join(" ") }
    }

    fn number(&mut self, id: Uuid) -> usize {
        let known = self.0.iter().position(|other| *other == id);
        known.unwrap_or_else(|| {
            self.0.push(id);
            self.0.len() - 1
        })
    }

    /// The text with the UUIDs of this run in place of those that the page shows.
    pub fn translate(&self, real: &Mask, text: &str) -> String {
        let translated = UUID.replace_all(text, |found: &regex::Captures<'_>| {
            let known = self.0.iter().position(|id| id.to_string() == found[0]);
            known.and_then(|number| real.0.get(number)).map_or_else(|| found[0].to_owned(), Uuid::to_string)
        });
        translated.into_owned()
    }
}

/// psql shows a notification after the statement during which it arrived: on a busy machine, sometimes one earlier.
fn notifications_last(text: &str) -> String {
    let (notifications, others): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("Asynchronous notification"));
    others.iter().chain(&notifications).map(|line| format!("{line}\n")).collect()
}

pub fn mask_hides_only_values_that_differ() {
    let line = |text: &str| Mask::default().line(text);
    for (text, masked) in [
        ("etl  running  2026-11-23T23:44:48Z  1m12s", "etl running <time> <duration>"),
        ("2026-11-23 23:44:48.262182+00 |   3", "<time> | 3"),
        ("started 12.5 ms after, 3 rows, 10s", "started <duration> after, 3 rows, <duration>"),
        ("-----+----", "---"),
        ("(3 rows)", "(3 rows)"),
        ("extract  success  1/3", "extract success 1/3"),
        ("1763945088262-9", "<time>-9"),
        ("from server process with PID 17805.", "from server process with PID <pid>."),
        ("version 3, task_2", "version 3, task_2"),
    ] {
        assert_eq!(line(text), masked, "{text}");
    }
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut mask = Mask::default();
    assert_eq!(mask.line(&format!("{first} {second} {first}")), "<id 0> <id 1> <id 0>");
}
