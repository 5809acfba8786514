//! Dates in the formats that workflow systems write.
//!
//! chrono parses each format. Crates that guess formats read 03-23-21 and times without an offset differently.

use chrono::{DateTime, NaiveDateTime, Utc};

const FORMATS: [&str; 4] = [
    "%Y-%m-%dT%H:%M:%S%.f", // 2023-03-21T11:10:20
    "%Y-%m-%d %H:%M:%S%.f", // 2023-03-21 11:10:20
    "%Y%m%dT%H%M%S%.f",     // 20200402T023752
    "%m-%d-%yT%H:%M:%S%.f", // 03-23-21T05:57:15
];

/// Parses a date in any of these formats, with an offset (`Z`, `-10:00`, `+0000`) or in UTC.
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let local = text.strip_suffix(['Z', 'z']).unwrap_or(text).trim_end();
    FORMATS.iter().find_map(|format| {
        let in_utc = NaiveDateTime::parse_from_str(local, format).ok().map(|date| date.and_utc());
        in_utc.or_else(|| DateTime::parse_from_str(text, &format!("{format}%#z")).ok().map(|date| date.to_utc()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_found_in_traces_are_parsed() {
        for (text, utc) in [
            ("2023-03-21T11:10:20-10:00", "2023-03-21T21:10:20+00:00"),
            ("2023-03-21T21:10:29.882550+00:00", "2023-03-21T21:10:29.882550+00:00"),
            ("2020-12-26T01:35:40+00:00", "2020-12-26T01:35:40+00:00"),
            ("20200402T023752+0000", "2020-04-02T02:37:52+00:00"),
            ("20200402T023752Z", "2020-04-02T02:37:52+00:00"),
            ("03-23-21T05:57:15Z", "2021-03-23T05:57:15+00:00"),
            ("2020-04-03T12:05:15.376151Z", "2020-04-03T12:05:15.376151+00:00"),
            ("2021-03-23T06:27:33.328018", "2021-03-23T06:27:33.328018+00:00"),
            ("2021-03-23 06:27:33", "2021-03-23T06:27:33+00:00"),
        ] {
            assert_eq!(parse(text).map(|date| date.to_rfc3339()).as_deref(), Some(utc), "{text}");
        }
    }

    #[test]
    fn other_formats_are_none() {
        for text in ["", "Z", "yesterday", "2021-13-23T06:27:33", "1616480853", "2021-03-23", "é2021"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
