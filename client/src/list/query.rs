//! Putting a list's query together. Its text is made of constants of this crate only; values are parameters.

use pg_workflow_state_machine::State;
use tokio_postgres::types::{ToSql, Type};

use super::cursor;
use super::{List, OrderBy, Page, Sort};
use crate::Error;
use crate::model::Record;
use crate::session::{self, Session};

/// A column that rows are ordered by. The last of an order is unique.
#[derive(Clone)]
pub struct Column {
    pub name: &'static str,
    pub kind: Type,
}

impl Column {
    pub const ID: Column = Column { name: "id", kind: Type::UUID };
    pub const NUMBER: Column = Column { name: "id", kind: Type::INT8 };
}

/// How a page is found.
pub struct Plan<S> {
    pub order: OrderBy<S>,
    /// What the order compares.
    pub columns: &'static [Column],
    /// The filter names few rows, found by an index of its own, to be sorted afterwards. Without being told, the
    /// planner walks along the order until it has met enough of them, which may be the whole table.
    pub sorts_few: bool,
}

/// Conditions and their parameters.
#[derive(Default)]
pub struct Query<'a> {
    conditions: Vec<String>,
    parameters: Vec<session::Parameter<'a>>,
}

impl<'a> Query<'a> {
    /// Adds a condition, whose `$` stands for the value, where there is a value.
    pub fn and(&mut self, condition: &'static str, value: &'a Option<impl ToSql + Sync>, kind: Type) {
        if let Some(value) = value {
            let number = bind(&mut self.parameters, value, kind);
            self.conditions.push(condition.replace('$', &format!("${number}")));
        }
    }

    /// Runs the query. It reads one row more than asked for, to know whether there are more.
    pub async fn list<T: Record, S: Sort>(
        self,
        session: &impl Session,
        states: &[State],
        page: &Page<S>,
        plan: Plan<S>,
    ) -> Result<List<T>, Error> {
        let order = plan.order.to_string();
        let kinds: Vec<Type> = plan.columns.iter().map(|column| column.kind.clone()).collect();
        let after = page.cursor.as_deref().map(|cursor| cursor::read(&order, &kinds, cursor)).transpose()?;
        let one_more = i64::from(page.limit) + 1;
        let mut names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        names.sort_unstable();
        names.dedup();

        let mut parameters = self.parameters;
        let places = Places {
            after: after.iter().flatten().map(|key| bind(&mut parameters, key.value(), key.kind())).collect(),
            states: (!names.is_empty()).then(|| bind(&mut parameters, &names, Type::TEXT_ARRAY)),
            limit: bind(&mut parameters, &one_more, Type::INT8),
        };
        let rows = session::once(session, &sql::<T, S>(&self.conditions, &plan, &places), &parameters).await?;

        let limit = page.limit as usize;
        let items = rows.iter().take(limit).map(T::from_row).collect::<Result<_, _>>()?;
        let last = limit.checked_sub(1).and_then(|last| rows.get(last)).filter(|_| rows.len() > limit);
        let next_cursor = last.map(|row| cursor::write(&order, row, plan.columns.len())).transpose()?;
        Ok(List { items, next_cursor })
    }
}

/// The numbers of the parameters that are not conditions of the filter.
struct Places {
    /// The keys of the last row of the page before.
    after: Vec<usize>,
    states: Option<usize>,
    limit: usize,
}

fn bind<'a>(parameters: &mut Vec<session::Parameter<'a>>, value: &'a (dyn ToSql + Sync), kind: Type) -> usize {
    parameters.push((value, kind));
    parameters.len()
}

fn sql<T: Record, S: Sort>(conditions: &[String], plan: &Plan<S>, places: &Places) -> String {
    let (columns, table) = (T::COLUMNS, T::TABLE);
    let (direction, beyond) = if plan.order.descending { (" DESC", "<") } else { ("", ">") };
    let keys: Vec<String> = plan.columns.iter().map(|column| format!("t.{}", column.name)).collect();
    let order: Vec<String> = keys.iter().map(|key| format!("{key}{direction}")).collect();
    let (keys, order) = (keys.join(", "), order.join(", "));
    let filter = all(conditions.to_vec());
    let after: Vec<String> = places.after.iter().map(|number| format!("${number}")).collect();
    let after = (!after.is_empty()).then(|| format!("({keys}) {beyond} ({})", after.join(", ")));
    let limit = format!("ORDER BY {order} LIMIT ${}", places.limit);
    let in_states = places.states.map(|number| format!("t.state = ANY (${number})"));
    let rest = all(after.clone().into_iter().chain(in_states).collect());

    match places.states {
        _ if plan.sorts_few => format!(
            // OFFSET 0 keeps the planner from joining the two levels.
            "SELECT {columns}, {keys} FROM (SELECT * FROM {table} AS t WHERE {filter} OFFSET 0) AS t WHERE {rest} {limit}"
        ),
        // The newest of each state from the index on (state, id), then the newest of those. With "state = ANY" the
        // planner walks back through every newer row, or sorts all rows of the states.
        Some(states) if plan.columns.len() == 1 && plan.columns[0].name == "id" => {
            let after = all(after.into_iter().collect());
            format!(
                "SELECT {columns}, {keys} FROM unnest(${states}) AS wanted (name) \
                 CROSS JOIN LATERAL (SELECT * FROM {table} AS t WHERE t.state = wanted.name AND {filter} AND {after} \
                 {limit}) AS t {limit}"
            )
        }
        _ => format!("SELECT {columns}, {keys} FROM {table} AS t WHERE {filter} AND {rest} {limit}"),
    }
}

fn all(conditions: Vec<String>) -> String {
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}
