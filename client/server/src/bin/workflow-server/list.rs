//! `workflow-server list`.

mod dags;
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

/// As many as one question to the database asks for.
const PAGE: u32 = 1000;

/// List DAGs, runs or tasks.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    #[command(visible_alias = "dag")]
    Dags(dags::Arguments),
    #[command(visible_alias = "run")]
    Runs(runs::Arguments),
    #[command(visible_alias = "task")]
    Tasks(tasks::Arguments),
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    match arguments.what {
        What::Dags(arguments) => dags::run(arguments, output).await,
        What::Runs(arguments) => runs::run(arguments, output).await,
        What::Tasks(arguments) => tasks::run(arguments, output).await,
    }
}

/// Which part of a list.
#[derive(Args)]
pub struct Part {
    /// At most so many; 0 for all.
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N")]
    limit: u32,

    /// All there are, however many.
    #[arg(long, conflicts_with = "limit")]
    all: bool,

    /// Begin after what an earlier list ended with, which has said this cursor.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// What is printed of a list.
pub struct Printed<'a> {
    /// What its rows are called: "runs".
    pub name: &'a str,
    pub is_json: bool,
    pub table: Table,
}

impl Part {
    /// Whether it begins where the list does.
    pub fn is_first(&self) -> bool {
        self.cursor.is_none()
    }

    /// Asks for page after page, and prints each as it comes.
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
            let list = fetch(&ListOptions { limit: wanted, cursor, order_by }).await?;
            if printed.is_json {
                list.items.iter().try_for_each(|item| output.json(item))?;
            } else {
                printed.table.print(output, &rows(&list.items).await?)?;
            }
            // Now, and not with the next page: whoever reads may have seen enough.
            output.flush()?;
            count += list.items.len() as u32;
            cursor = list.next_cursor;
            if cursor.is_none() || Some(count) == limit {
                break;
            }
        }
        note(printed.name, count, cursor.as_deref());
        Ok(())
    }
}

/// Says what the list itself does not: that there is nothing, or more.
fn note(name: &str, count: u32, next_cursor: Option<&str>) {
    match next_cursor {
        Some(cursor) => eprintln!("{count} {name}, and there are more: --all, --limit N, or next --cursor {cursor}"),
        None if count == 0 => eprintln!("no {name}"),
        None => (),
    }
}

/// Reads an order, and lists those that there are in the help.
pub fn order<S: Sort + Send + Sync>() -> impl TypedValueParser<Value = OrderBy<S>> {
    PossibleValuesParser::new(OrderBy::<S>::names()).try_map(|text| text.parse::<OrderBy<S>>())
}

/// Reads a state, and lists those that there are in the help.
pub fn state() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::as_str)).try_map(|text| text.parse::<State>())
}
