//! Tables without borders: columns are as wide as their texts, or narrower to fit the terminal.
//!
//! comfy-table cannot do this: it formats a whole table at once, and these print page after page with the same widths.

use std::io;

use clap::builder::styling::Style;
use pg_workflow_client::State;
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::output::{Format, Output, sanitize, style_of};

const GAP: usize = 2;
/// No column becomes narrower than this.
const NARROWEST: usize = 12;

/// A text in a table, with its style.
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Shows "-" for `None`, so that scripts can split lines into columns.
    pub fn optional(text: Option<impl AsRef<str>>) -> Cell {
        Cell::from(text.as_ref().map_or("-", AsRef::as_ref))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        let text = if text.is_empty() { "-".to_owned() } else { sanitize(text) };
        Cell { text, style: Style::new() }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::from(text.as_str())
    }
}

impl From<State> for Cell {
    fn from(state: State) -> Cell {
        Cell { text: state.to_string(), style: style_of(state) }
    }
}

/// A column: its header, and whether its texts can be truncated to fit the terminal.
pub struct Column {
    pub header: &'static str,
    pub is_elastic: bool,
}

/// A column that is never truncated.
pub const fn whole(header: &'static str) -> Column {
    Column { header, is_elastic: false }
}

/// A column that is truncated if the terminal is too narrow.
pub const fn elastic(header: &'static str) -> Column {
    Column { header, is_elastic: true }
}

/// Prints a whole result: as JSON, one object a line, or as a table.
pub fn print_all<T: Serialize>(
    output: &mut Output,
    format: &Format,
    columns: Vec<Column>,
    items: &[T],
    row: impl Fn(&T) -> Vec<Cell>,
) -> io::Result<()> {
    if format.json {
        items.iter().try_for_each(|item| output.json(item))?;
    } else {
        Table::new(columns).print(output, &items.iter().map(row).collect::<Vec<_>>())?;
    }
    output.flush()
}

/// A table that is printed page by page. No column becomes narrower from page to page.
pub struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    has_header: bool,
}

impl Table {
    pub fn new(columns: Vec<Column>) -> Table {
        Table { widths: columns.iter().map(|column| column.header.width()).collect(), columns, has_header: false }
    }

    /// Omits the header: for fields and values.
    pub fn without_header(mut self) -> Table {
        self.has_header = true;
        self.widths.fill(0);
        self
    }

    /// Prints rows, below the header if it has not been printed. Prints nothing if there are no rows.
    pub fn print(&mut self, output: &mut Output, rows: &[Vec<Cell>]) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        if let Some(terminal) = output.width {
            self.fit(terminal);
        }
        if !self.has_header {
            self.has_header = true;
            let bold = |column: &Column| Cell { text: column.header.to_owned(), style: Style::new().bold() };
            let header: Vec<Cell> = self.columns.iter().map(bold).collect();
            self.print_row(output, &header)?;
        }
        rows.iter().try_for_each(|row| self.print_row(output, row))
    }

    /// Narrows the widest elastic column until the table fits.
    fn fit(&mut self, terminal: usize) {
        let total = self.widths.iter().sum::<usize>() + GAP * self.widths.len().saturating_sub(1);
        for _ in terminal..total {
            let elastic = self.widths.iter_mut().zip(&self.columns).filter(|(_, column)| column.is_elastic);
            match elastic.map(|(width, _)| width).filter(|width| **width > NARROWEST).max() {
                Some(widest) => *widest -= 1,
                None => return,
            }
        }
    }

    fn print_row(&self, output: &mut Output, row: &[Cell]) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, width), number) in row.iter().zip(&self.widths).zip(1..) {
            let text = truncate(&cell.text, *width);
            let is_last = number == row.len();
            let padding = if is_last { 0 } else { width.saturating_sub(text.width()) + GAP };
            line += &output.paint(&text, cell.style);
            line += &" ".repeat(padding);
        }
        output.line(&line)
    }
}

/// Truncates a text that is too wide; it then ends in "…".
fn truncate(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut kept, mut used) = (String::new(), 1);
    for letter in text.chars() {
        used += letter.width().unwrap_or(0);
        if used > width {
            break;
        }
        kept.push(letter);
    }
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_truncated_by_screen_width() {
        assert_eq!(truncate("extract", 7), "extract");
        assert_eq!(truncate("extract", 6), "extra…");
        assert_eq!(truncate("抽出する", 5), "抽出…");
    }

    #[test]
    fn fit_narrows_the_widest_elastic_column() {
        let mut table = Table::new(vec![whole("ID"), elastic("NAME"), elastic("ERROR")]);
        table.widths = vec![36, 20, 60];
        table.fit(100);
        assert_eq!(table.widths, [36, 20, 40]);
        table.fit(70);
        assert_eq!(table.widths, [36, 15, 15]);
        table.fit(10);
        assert_eq!(table.widths, [36, 12, 12]);
    }
}
