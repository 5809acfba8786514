//! Cursors: the position of a row in each order of its list.
//!
//! A cursor holds the keys of the last row, joined by dots, the text last. The row need not exist any more, so
//! deletions do no harm. A cursor is valid for each order of its list.

use std::error::Error as StdError;

use tokio_postgres::Row;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use crate::Error;
use crate::record::Column;

/// The value of a row in a [`Column`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Uuid(Uuid),
    Number(i64),
    Text(String),
    Timestamp(Timestamp),
}

/// A timestamp as the database stores it, in microseconds since 2000: exact in each year, and possibly infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 4714-11-24 BC and 294276-12-31, the limits of PostgreSQL.
    const FIRST: i64 = -211_813_488_000_000_000;
    const LAST: i64 = 9_223_371_331_199_999_999;

    /// Returns this time, or the nearest one within the limits.
    fn nearest(microseconds: i64) -> Timestamp {
        Timestamp(match microseconds {
            i64::MIN | i64::MAX => microseconds,
            finite => finite.clamp(Timestamp::FIRST, Timestamp::LAST),
        })
    }
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Timestamp, Box<dyn StdError + Sync + Send>> {
        Ok(Timestamp(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl Key {
    fn of(row: &Row, place: usize, kind: &Type) -> Result<Key, Error> {
        Ok(match *kind {
            Type::UUID => Key::Uuid(row.try_get(place)?),
            Type::TIMESTAMPTZ => Key::Timestamp(row.try_get(place)?),
            Type::TEXT => Key::Text(row.try_get(place)?),
            _ => Key::Number(row.try_get(place)?),
        })
    }

    fn write(&self) -> String {
        match self {
            Key::Uuid(id) => id.to_string(),
            Key::Number(number) | Key::Timestamp(Timestamp(number)) => number.to_string(),
            Key::Text(text) => text.clone(),
        }
    }

    fn read(text: &str, kind: &Type) -> Option<Key> {
        Some(match *kind {
            Type::UUID => Key::Uuid(text.parse().ok()?),
            Type::TIMESTAMPTZ => Key::Timestamp(Timestamp::nearest(text.parse().ok()?)),
            // PostgreSQL text cannot hold a null character.
            Type::TEXT => Key::Text((!text.contains('\0')).then(|| text.to_owned())?),
            _ => Key::Number(text.parse().ok()?),
        })
    }

    pub fn value(&self) -> &(dyn ToSql + Sync) {
        match self {
            Key::Uuid(id) => id,
            Key::Number(number) => number,
            Key::Text(text) => text,
            Key::Timestamp(timestamp) => timestamp,
        }
    }
}

/// Writes the cursor of a row, whose last columns are these keys.
pub fn write(row: &Row, keys: &[Column]) -> Result<String, Error> {
    let first = row.len().saturating_sub(keys.len());
    let words = keys.iter().enumerate().map(|(place, key)| Ok(Key::of(row, first + place, &key.kind)?.write()));
    Ok(words.collect::<Result<Vec<_>, Error>>()?.join("."))
}

/// Reads the keys of a cursor.
pub fn read(cursor: &str, keys: &[Column]) -> Result<Vec<Key>, Error> {
    let words: Vec<&str> = cursor.splitn(keys.len(), '.').collect();
    let read = words.iter().zip(keys).map(|(word, key)| Key::read(word, &key.kind));
    let read = if words.len() == keys.len() { read.collect() } else { None };
    read.ok_or_else(|| Error::Cursor(cursor.chars().take(100).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [Column; 3] = [
        Column { name: "execution_date", kind: Type::TIMESTAMPTZ },
        Column { name: "id", kind: Type::UUID },
        Column { name: "task_id", kind: Type::TEXT },
    ];

    #[test]
    fn cursor_parses_from_its_text() {
        let keys = [Key::Timestamp(Timestamp(i64::MAX)), Key::Uuid(Uuid::nil()), Key::Text("a.b".to_owned())];
        let cursor = keys.each_ref().map(Key::write).join(".");
        assert_eq!(read(&cursor, &KEYS).unwrap(), keys);
    }

    #[test]
    fn invalid_cursor_is_rejected() {
        let nil = Uuid::nil();
        for bad in ["", "x", "7", ".", &format!("7.{nil}"), &format!("7.x.{nil}"), &format!("7.{nil}.\0")] {
            assert!(read(bad, &KEYS).is_err(), "{bad}");
        }
    }

    #[test]
    fn timestamp_stays_within_limits_of_postgresql() {
        assert_eq!(Timestamp::nearest(i64::MIN), Timestamp(i64::MIN), "-infinity");
        assert_eq!(Timestamp::nearest(i64::MIN + 1), Timestamp(Timestamp::FIRST));
        assert_eq!(Timestamp::nearest(i64::MAX - 1), Timestamp(Timestamp::LAST));
    }
}
