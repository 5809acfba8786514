//! SQL of lists. The text consists of constants of this crate; values are parameters.

use pg_workflow_state_machine::State;
use tokio_postgres::types::{ToSql, Type};

use super::{ListOptions, OrderBy, Page, Sort, cursor};
use crate::Error;
use crate::record::Record;
use crate::session::{self, RowsRead, Session};

/// The way to find a page.
pub struct Plan<S> {
    pub order: OrderBy<S>,
    /// Indexes of the record's keys that the order compares; the last of them is unique.
    pub keys: &'static [usize],
    pub way: Way,
}

/// The source of the rows. The planner gets no choice if its estimate can be wrong by orders of magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Along the order, from an index that begins with the columns of the filter.
    Order,
    /// All rows that match the filter, sorted: there are few. Otherwise the planner may walk along the order until it
    /// has met enough of them, which can be the whole table.
    Few,
    /// One task of each run, found by its name.
    Runs,
    /// Running tasks, along the index on (state, id); the filter has columns of tasks.
    Running,
}

/// Conditions and their parameters.
#[derive(Default)]
pub struct Query<'a> {
    conditions: Vec<String>,
    parameters: Vec<session::Parameter<'a>>,
}

impl<'a> Query<'a> {
    /// Adds a condition, in which `$` stands for the value, if there is a value.
    pub fn and(&mut self, condition: &'static str, value: &'a Option<impl ToSql + Sync>, kind: Type) {
        if let Some(value) = value {
            let number = bind(&mut self.parameters, value, kind);
            self.conditions.push(condition.replace('$', &format!("${number}")));
        }
    }

    /// Runs the query. Reads one row more than requested, to know whether there is a next page.
    pub async fn list<T: Record, S: Sort>(
        self,
        session: &impl Session,
        states: &[State],
        page: &ListOptions<S>,
        plan: Plan<S>,
    ) -> Result<Page<T>, Error> {
        let after = page.cursor.as_deref().map(|cursor| cursor::read(cursor, T::KEYS)).transpose()?;
        let after =
            after.iter().flat_map(|keys| plan.keys.iter().map(|place| (&keys[*place], T::KEYS[*place].kind.clone())));
        let one_more = i64::from(page.limit) + 1;
        let mut names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        names.sort_unstable();
        names.dedup();

        let mut parameters = self.parameters;
        let places = Places {
            after: after.map(|(key, kind)| bind(&mut parameters, key.value(), kind)).collect(),
            states: (!names.is_empty()).then(|| bind(&mut parameters, &names, Type::TEXT_ARRAY)),
            limit: bind(&mut parameters, &one_more, Type::INT8),
        };
        let sql = sql::<T, S>(&self.conditions, &plan, &places);
        let max_bytes = page.max_bytes.unwrap_or(usize::MAX);
        let RowsRead { mut rows, is_cut } = session::once_within(session, &sql, &parameters, max_bytes).await?;

        if is_cut {
            session.abandon();
        }
        let is_last = !is_cut && rows.len() <= page.limit as usize;
        rows.truncate(page.limit as usize);
        let last = rows.last().filter(|_| !is_last);
        let next_cursor = last.map(|row| cursor::write(row, T::KEYS)).transpose()?;
        // Each row is freed once it is read: the page is not in memory twice.
        let items = rows.into_iter().map(|row| T::from_row(&row)).collect::<Result<_, _>>()?;
        Ok(Page { items, next_cursor })
    }
}

/// The numbers of the parameters that are no conditions of the filter.
struct Places {
    /// The keys of the last row of the previous page.
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
    let all_keys: Vec<String> = T::KEYS.iter().map(|key| format!("t.{}", key.name)).collect();
    let keys: Vec<&str> = plan.keys.iter().map(|place| all_keys[*place].as_str()).collect();
    let select = format!("SELECT {columns}, {}", all_keys.join(", "));
    let order: Vec<String> = keys.iter().map(|key| format!("{key}{direction}")).collect();
    let limit = format!("ORDER BY {} LIMIT ${}", order.join(", "), places.limit);

    let filter = all(conditions);
    let numbers: Vec<String> = places.after.iter().map(|number| format!("${number}")).collect();
    let after = match numbers.is_empty() {
        true => "true".to_owned(),
        false => format!("({}) {beyond} ({})", keys.join(", "), numbers.join(", ")),
    };
    let in_states = places.states.map_or("true".to_owned(), |number| format!("t.state = ANY (${number})"));

    // OFFSET 0 keeps the planner from joining two levels.
    match (plan.way, places.states) {
        (Way::Few, _) => format!(
            "{select} FROM (SELECT * FROM {table} AS t WHERE {filter} OFFSET 0) AS t WHERE {in_states} AND {after} {limit}"
        ),
        (Way::Runs, _) => format!(
            "{select} FROM (SELECT r.id AS run FROM workflow.dag_runs AS r ORDER BY r.id{direction}) AS r \
             CROSS JOIN LATERAL (SELECT * FROM {table} AS t WHERE t.dag_run_id = r.run AND {filter} OFFSET 0) AS t \
             WHERE {in_states} AND {runs_after} ORDER BY r.run{direction} LIMIT ${}",
            places.limit,
            runs_after = after.replace("t.dag_run_id", "r.run"),
        ),
        (Way::Running, _) => format!(
            "{select} FROM (SELECT t.id FROM workflow.task_instances AS t \
             WHERE {in_running} AND t.worker IS NOT NULL AND {filter} \
             ORDER BY t.state{direction}, t.id{direction} LIMIT ${}) AS running \
             CROSS JOIN LATERAL (SELECT * FROM {table} AS t WHERE t.id = running.id OFFSET 0) AS t {limit}",
            places.limit,
            in_running = in_one_state(plan.order.descending, &numbers, "'running'"),
        ),
        (Way::Order, Some(states)) if keys == ["t.id"] => format!(
            "{select} FROM unnest(${states}) AS wanted (name) \
             CROSS JOIN LATERAL (SELECT * FROM {table} AS t WHERE {in_state} AND {filter} \
             ORDER BY t.state{direction}, t.id{direction} LIMIT ${}) AS t {limit}",
            places.limit,
            in_state = in_one_state(plan.order.descending, &numbers, "wanted.name"),
        ),
        (Way::Order, _) => format!("{select} FROM {table} AS t WHERE {filter} AND {in_states} AND {after} {limit}"),
    }
}

/// Returns the condition for rows of one state after the cursor. The newest rows of each state come from the index on
/// (state, id), and the newest of those are the page. With "state = ANY" the planner walks back through every newer
/// row, or sorts all rows of the states. With "state =" it may still walk along the ids, if it believes the state to
/// be frequent. Only that index serves a range of states in their order.
fn in_one_state(is_descending: bool, after: &[String], state: &str) -> String {
    let (beyond, within) = if is_descending { ("<", ">=") } else { (">", "<=") };
    let begin = match after {
        [] => format!("t.state {beyond}= {state}"),
        keys => format!("(t.state, t.id) {beyond} ({state}, {})", keys.join(", ")),
    };
    format!("{begin} AND t.state {within} {state}")
}

fn all(conditions: &[String]) -> String {
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}
