//! Records: rows of a table, as lists and repositories read them.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Error;

/// Rows of a table.
pub trait Record: Sized {
    /// Its name in errors.
    const NAME: &'static str;
    /// The table, with its schema.
    const TABLE: &'static str;
    /// The columns that [`Record::from_row`] expects.
    const COLUMNS: &'static str;
    /// Columns that rows can be ordered by; text last.
    const KEYS: &'static [Column];

    /// Reads a row that begins with [`Record::COLUMNS`].
    fn from_row(row: &Row) -> Result<Self, Error>;
}

/// A column that rows are ordered by.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Type,
}
