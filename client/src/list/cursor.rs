//! Cursors: the place of a row in an order, as a text that means nothing to whoever passes it on.

use std::error::Error as StdError;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Column, Row};
use uuid::Uuid;

use crate::Error;

/// What rows are ordered by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    #[serde(rename = "u")]
    Uuid(Uuid),
    #[serde(rename = "n")]
    Number(i64),
    #[serde(rename = "t")]
    Text(String),
    #[serde(rename = "m")]
    Moment(Moment),
}

/// A timestamp as the database keeps it: exact, whatever the year, and infinite too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment(i64);

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Moment, Box<dyn StdError + Sync + Send>> {
        Ok(Moment(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

impl ToSql for Moment {
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
    /// Reads the key in this column of a row.
    fn of(row: &Row, column: usize) -> Result<Key, Error> {
        Ok(match row.columns().get(column).map(Column::type_) {
            Some(&Type::UUID) => Key::Uuid(row.try_get(column)?),
            Some(&Type::TIMESTAMPTZ) => Key::Moment(row.try_get(column)?),
            Some(&Type::TEXT) => Key::Text(row.try_get(column)?),
            _ => Key::Number(row.try_get(column)?),
        })
    }

    pub fn kind(&self) -> Type {
        match self {
            Key::Uuid(_) => Type::UUID,
            Key::Number(_) => Type::INT8,
            Key::Text(_) => Type::TEXT,
            Key::Moment(_) => Type::TIMESTAMPTZ,
        }
    }

    pub fn value(&self) -> &(dyn ToSql + Sync) {
        match self {
            Key::Uuid(id) => id,
            Key::Number(number) => number,
            Key::Text(text) => text,
            Key::Moment(moment) => moment,
        }
    }
}

/// Writes the cursor behind a row, whose last columns are the keys of this order.
pub fn write(order: &str, row: &Row, keys: usize) -> Result<String, Error> {
    let first = row.len().saturating_sub(keys);
    let keys: Vec<Key> = (first..row.len()).map(|column| Key::of(row, column)).collect::<Result<_, _>>()?;
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(order, keys))?))
}

/// Reads a cursor of this order, whose keys are of these kinds.
pub fn read(order: &str, kinds: &[Type], cursor: &str) -> Result<Vec<Key>, Error> {
    let read = || {
        let text = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (written_for, keys): (String, Vec<Key>) = serde_json::from_slice(&text).ok()?;
        let is_text = |key: &Key| matches!(key, Key::Text(text) if text.contains('\0'));
        let fits = written_for == order && keys.iter().map(Key::kind).eq(kinds.iter().cloned());
        // PostgreSQL has no text with a null character.
        (fits && !keys.iter().any(is_text)).then_some(keys)
    };
    read().ok_or_else(|| Error::Cursor(cursor.chars().take(100).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(of: impl Serialize) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&of).unwrap())
    }

    #[test]
    fn only_a_cursor_of_this_order_is_read() {
        let keys = vec![Key::Moment(Moment(i64::MAX)), Key::Uuid(Uuid::nil())];
        let kinds = [Type::TIMESTAMPTZ, Type::UUID];
        let good = cursor(("-execution_date", &keys));
        assert_eq!(read("-execution_date", &kinds, &good).unwrap(), keys);
        assert!(read("execution_date", &kinds, &good).is_err());
        assert!(read("-execution_date", &kinds[..1], &good).is_err());
        let null = cursor(("name", [Key::Text("a\0".into())]));
        for bad in ["", "x", "7", "é", &good[1..], null.as_str()] {
            assert!(read("name", &[Type::TEXT], bad).is_err(), "{bad}");
        }
    }
}
