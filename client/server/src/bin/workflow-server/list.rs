//! `workflow-server list`.

mod claims;
mod dags;
mod queues;
mod runs;
mod tasks;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use pg_workflow_client::list::{ListOptions, OrderBy, Page, Sort};
use pg_workflow_client::{Error, State};
use serde::Serialize;

use crate::output::Output;
use crate::table::{Cell, Table};

pub use runs::{columns as run_columns, row as run_row};
pub use tasks::{columns as task_columns, row as task_row};

/// Number of rows per query.
const PAGE: u32 = 1000;

/// List DAGs, runs, tasks, claims or queues
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    list: List,
}

#[derive(Subcommand)]
enum List {
    #[command(visible_alias = "dag")]
    Dags(dags::Arguments),
    #[command(visible_alias = "run")]
    Runs(runs::Arguments),
    #[command(visible_alias = "task")]
    Tasks(tasks::Arguments),
    #[command(visible_alias = "claim")]
    Claims(claims::Arguments),
    #[command(visible_alias = "queue")]
    Queues(queues::Arguments),
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    match arguments.list {
        List::Dags(arguments) => dags::run(arguments, output).await,
        List::Runs(arguments) => runs::run(arguments, output).await,
        List::Tasks(arguments) => tasks::run(arguments, output).await,
        List::Claims(arguments) => claims::run(arguments, output).await,
        List::Queues(arguments) => queues::run(arguments, output).await,
    }
}

/// The part of a list to print.
#[derive(Args)]
pub struct Part {
    /// Maximum number of rows; 0 for all
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N")]
    limit: u32,

    /// All rows
    #[arg(long, conflicts_with = "limit")]
    all: bool,

    /// Cursor printed by the previous list, after which to continue
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// How to print a list.
pub struct Printed<'a> {
    /// Name of its rows: "runs".
    pub name: &'a str,
    pub is_json: bool,
    pub table: Table,
}

impl Part {
    /// Checks whether this is the start of the list.
    pub fn is_first(&self) -> bool {
        self.cursor.is_none()
    }

    /// Reads page after page and prints each one.
    pub async fn print<T: Serialize, S: Sort>(
        self,
        output: &mut Output,
        mut printed: Printed<'_>,
        order_by: Option<OrderBy<S>>,
        fetch: impl AsyncFn(&ListOptions<S>) -> Result<Page<T>, Error>,
        rows: impl AsyncFn(&[T]) -> Result<Vec<Vec<Cell>>, Error>,
    ) -> Result<()> {
        let limit = Some(self.limit).filter(|limit| *limit > 0 && !self.all);
        let (mut cursor, mut count) = (self.cursor, 0);
        loop {
            let wanted = limit.map_or(PAGE, |limit| PAGE.min(limit - count));
            let page = fetch(&ListOptions { limit: wanted, max_bytes: None, cursor, order_by }).await?;
            if printed.is_json {
                page.items.iter().try_for_each(|item| output.json(item))?;
            } else {
                printed.table.print(output, &rows(&page.items).await?)?;
            }
            // Before the next page: the reader might need no more.
            output.flush()?;
            count += page.items.len() as u32;
            cursor = page.next_cursor;
            if cursor.is_none() || Some(count) == limit {
                break;
            }
        }
        print_note(printed.name, count, cursor.as_deref());
        Ok(())
    }
}

/// Prints to standard error whether the list is empty or has more rows.
fn print_note(name: &str, count: u32, next_cursor: Option<&str>) {
    let name = name.strip_suffix('s').filter(|_| count == 1).unwrap_or(name);
    match next_cursor {
        Some(cursor) if is_plain(cursor) => {
            eprintln!("{count} {name}, more with --all, --limit N or --cursor {cursor}")
        }
        Some(_) => eprintln!("{count} {name}, more with --all or --limit N"),
        None if count == 0 => eprintln!("no {name}"),
        None => (),
    }
}

/// Returns whether a terminal prints it and a shell takes it as it is: a cursor can contain a name from a user.
fn is_plain(cursor: &str) -> bool {
    cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:+,-".contains(&byte))
}

/// Parses an order; the help lists the possible ones.
pub fn order_parser<S: Sort + Send + Sync>() -> impl TypedValueParser<Value = OrderBy<S>> {
    PossibleValuesParser::new(OrderBy::<S>::names()).try_map(|text| text.parse::<OrderBy<S>>())
}

/// Parses a state; the help lists the possible ones.
pub fn state_parser() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::as_str)).try_map(|text| text.parse::<State>())
}
