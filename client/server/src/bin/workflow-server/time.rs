//! Moments and durations, as people write and read them.

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use pg_workflow_client::State;

/// A moment in UTC to the second.
pub fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A moment that may not have come yet.
pub fn second_or_none(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(second)
}

/// How long something took, or, while it runs, has taken until now.
pub fn taken(state: State, start: Option<DateTime<Utc>>, end: Option<DateTime<Utc>>) -> Option<String> {
    let end = end.or_else(|| (state == State::Running).then(Utc::now))?;
    Some(duration((end - start?).as_seconds_f64()))
}

/// Seconds, with two units at most. A clock that is behind makes no negative durations.
pub fn duration(seconds: f64) -> String {
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

/// Reads a moment: RFC 3339, a date (its beginning in UTC), or how long ago: 90s, 30m, 2h, 7d.
pub fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let date = || Some(text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc());
    let exact = || Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc());
    let moment = exact().or_else(date).or_else(|| ago(text));
    moment.ok_or_else(|| "expected 2026-11-24, 2026-11-24T03:00:00Z, or how long ago: 90s, 30m, 2h, 7d".to_owned())
}

fn ago(text: &str) -> Option<DateTime<Utc>> {
    let unit = text.chars().next_back()?;
    let number: u32 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    Utc::now().checked_sub_signed(TimeDelta::seconds(i64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let cases = [(0.0, "0ms"), (0.0129, "12ms"), (-3.0, "0ms"), (4.27, "4.2s"), (59.9, "59s"), (192.0, "3m12s")];
        let longer = [(3720.0, "1h02m"), (90_000.0, "1d01h")];
        for (seconds, text) in cases.into_iter().chain(longer) {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn moments_are_read() {
        assert_eq!(second(moment("2026-11-24").unwrap()), "2026-11-24T00:00:00Z");
        assert_eq!(second(moment("2026-11-24T03:00:00+01:00").unwrap()), "2026-11-24T02:00:00Z");
        let before = moment("2h").unwrap();
        let age = Utc::now() - before;
        assert!((7200..7210).contains(&age.num_seconds()));
        for text in ["", "2", "h", "-2h", "2w", "24.11.2026", "é", "99999999999d"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
