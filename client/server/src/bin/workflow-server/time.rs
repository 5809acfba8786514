//! Times and durations in the formats that people read and type.
//!
//! chrono, which the driver and the models use, parses dates; jiff would be a second date library beside it. humantime
//! parses ages; it formats durations with all units ("3m 12s 400ms"), too long for a column.

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use pg_workflow_client::State;

/// Formats a time in UTC to the second.
pub fn format_time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats a time if there is one.
pub fn format_optional_time(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(format_time)
}

/// Formats the time from start to end, or until now while it is running.
pub fn format_elapsed(state: State, start: Option<DateTime<Utc>>, end: Option<DateTime<Utc>>) -> Option<String> {
    let end = end.or_else(|| (state == State::Running).then(Utc::now))?;
    Some(format_duration((end - start?).as_seconds_f64()))
}

/// Formats seconds with two units at most. If the clock of the database is ahead, the duration is 0, not negative.
pub fn format_duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).floor() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match whole {
        0 => format!("{:.0}ms", (seconds.max(0.0) * 1000.0).floor()),
        1..10 => format!("{:.1}s", (seconds * 10.0).floor() / 10.0),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{minutes}m{:02}s", whole % 60),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// Parses a time: RFC 3339, a date (its midnight in UTC), or an age: 90s, 30m, 2h, 7d.
pub fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let date = || Some(text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc());
    let exact = || Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc());
    let time = exact().or_else(date).or_else(|| parse_age(text));
    time.ok_or_else(|| "expected 2026-11-24, 2026-11-24T03:00:00Z, or an age: 90s, 30m, 2h, 7d".to_owned())
}

fn parse_age(text: &str) -> Option<DateTime<Utc>> {
    let age = humantime::parse_duration(text).ok()?;
    Utc::now().checked_sub_signed(TimeDelta::from_std(age).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let cases = [(0.0, "0ms"), (0.0129, "12ms"), (-3.0, "0ms"), (4.27, "4.2s"), (59.9, "59s"), (192.0, "3m12s")];
        let longer = [(3720.0, "1h02m"), (90_000.0, "1d01h")];
        for (seconds, text) in cases.into_iter().chain(longer) {
            assert_eq!(format_duration(seconds), text);
        }
    }

    #[test]
    fn times_are_parsed_as_dates_or_ages() {
        assert_eq!(format_time(parse_time("2026-11-24").unwrap()), "2026-11-24T00:00:00Z");
        assert_eq!(format_time(parse_time("2026-11-24T03:00:00+01:00").unwrap()), "2026-11-24T02:00:00Z");
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604_800), ("1h 30m", 5400)] {
            let time = parse_time(text).unwrap();
            let age = Utc::now() - time;
            assert!((seconds..seconds + 10).contains(&age.num_seconds()), "{text}");
        }
        for text in ["", "2", "h", "-2h", "2x", "24.11.2026", "é", "99999999999d"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
