//! SQL statements, planned once in each backend, and their rows.

use super::guc::{self, Settings};
use super::jsonb::Jsonb;
use super::uuid::Uuid;
use super::values;
use pgrx::FromDatum;
use pgrx::datum::Interval;
use pgrx::pg_sys::{self, CachedPlanSource, Datum, Oid};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};

/// A statement with its argument types. The first run makes a generic plan, so that no later run plans again.
/// PostgreSQL itself replans after DDL.
pub struct Plan {
    sql: String,
    types: &'static [Oid],
    settings: Settings,
    plan: Cell<pg_sys::SPIPlanPtr>,
    chosen: RefCell<Option<Chosen>>,
}

/// A plan that was made with our settings.
struct Chosen {
    generation: i32,
    /// The role, whether it has row security, and the search path. With others PostgreSQL makes another plan.
    environment: (Oid, bool, CString),
}

/// A session keeps its plans while the tables grow, so the size of the tables must not choose them. If a table has no index
/// for a query, `enable_seqscan = off` makes its plan seem so dear that PostgreSQL would compile it.
const BY_INDEX: Settings =
    &[(c"enable_seqscan", c"off"), (c"enable_hashjoin", c"off"), (c"enable_mergejoin", c"off"), (c"jit", c"off")];
const BY_SCAN: Settings = &[(c"enable_seqscan", c"on")];

/// The snapshot of a statement.
enum Sight {
    /// That of the transaction's next statement.
    Transaction,
    /// That of the statement in progress.
    Statement,
    /// A new one, at any isolation level.
    Latest,
}

impl Plan {
    /// Creates a statement that finds its rows by indexes. It is not planned yet.
    pub fn new(sql: String, types: &'static [Oid]) -> Plan {
        Plan { sql, types, settings: BY_INDEX, plan: Cell::new(std::ptr::null_mut()), chosen: RefCell::new(None) }
    }

    /// Creates a statement that reads whole tables. It is not planned yet.
    pub fn of_whole_tables(sql: String, types: &'static [Oid]) -> Plan {
        Plan { settings: BY_SCAN, ..Plan::new(sql, types) }
    }

    /// Runs the statement and calls `read` with its rows, which live only during the call. `None` is SQL null.
    pub fn run<R>(&self, args: &[Option<Datum>], read: impl FnOnce(Rows) -> R) -> R {
        self.execute(args, Sight::Transaction, read)
    }

    /// Runs the statement with all that has been committed, at any isolation level, as PostgreSQL runs the checks of foreign
    /// keys.
    pub fn run_with_latest<R>(&self, args: &[Option<Datum>], read: impl FnOnce(Rows) -> R) -> R {
        self.execute(args, Sight::Latest, read)
    }

    /// Runs a query with the snapshot of the statement that calls this function, as a STABLE function does.
    pub fn run_in_snapshot<R>(&self, args: &[Option<Datum>], read: impl FnOnce(Rows) -> R) -> R {
        self.execute(args, Sight::Statement, read)
    }

    fn execute<R>(&self, args: &[Option<Datum>], sight: Sight, read: impl FnOnce(Rows) -> R) -> R {
        assert_eq!(args.len(), self.types.len());
        let mut values: Vec<Datum> = args.iter().map(|arg| arg.unwrap_or(Datum::null())).collect();
        let nulls: Vec<u8> = args.iter().map(|arg| if arg.is_some() { b' ' } else { b'n' }).collect();
        // SAFETY: values and nulls have as many entries as the plan has arguments, of its types. An error
        // unwinds, and the end of the (sub)transaction finishes SPI.
        unsafe {
            check(pg_sys::SPI_connect(), "SPI_connect");
            self.choose();
            let (values, nulls) = (values.as_mut_ptr(), nulls.as_ptr().cast());
            let (plan, none) = (self.plan.get(), std::ptr::null_mut());
            let code = match sight {
                Sight::Transaction => pg_sys::SPI_execute_plan(plan, values, nulls, false, 0),
                Sight::Statement => pg_sys::SPI_execute_plan(plan, values, nulls, true, 0),
                Sight::Latest => {
                    pg_sys::CommandCounterIncrement();
                    let snapshot = pg_sys::GetLatestSnapshot();
                    pg_sys::SPI_execute_snapshot(plan, values, nulls, snapshot, none, false, true, 0)
                }
            };
            check(code, "SPI_execute_plan");
            let result = read(Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize });
            pg_sys::SPI_finish();
            result
        }
    }

    unsafe fn prepare(&self) -> pg_sys::SPIPlanPtr {
        let sql = CString::new(self.sql.as_str()).unwrap_or_default();
        let mut types = self.types.to_vec();
        // SAFETY: called between SPI_connect and SPI_finish; keepplan moves the plan to memory that lasts.
        unsafe {
            let plan = pg_sys::SPI_prepare_cursor(
                sql.as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
            );
            let code = pg_sys::SPI_result;
            assert!(!plan.is_null(), "SPI_prepare failed: {code}");
            check(pg_sys::SPI_keepplan(plan), "SPI_keepplan");
            plan
        }
    }

    /// Makes the plan, if PostgreSQL would make one, with the settings only for that: triggers of the statement run
    /// without them.
    ///
    /// # Safety
    /// SPI must be connected.
    unsafe fn choose(&self) {
        // SAFETY: the caller's promise. A kept plan is never freed.
        unsafe {
            if self.plan.get().is_null() {
                self.plan.set(self.prepare());
            }
            let source = source(self.plan.get());
            if let (Some(chosen), Some(plan)) = (self.chosen.borrow().as_ref(), (*source).gplan.as_mut()) {
                let is_ours = chosen.generation == (*source).generation;
                let (user, has_row_security, path) = &chosen.environment;
                let is_same = environment() == (*user, *has_row_security, path);
                if is_ours && is_same && (*source).is_valid && plan.is_valid {
                    return;
                }
                // If it was made while the statement ran, it was made without the settings.
                plan.is_valid &= is_ours;
            }
            guc::with_settings(self.settings, || {
                let plan = pg_sys::SPI_plan_get_cached_plan(self.plan.get());
                if !plan.is_null() {
                    pg_sys::ReleaseCachedPlan(plan, pg_sys::CurrentResourceOwner);
                }
            });
            let (user, has_row_security, path) = environment();
            let environment = (user, has_row_security, path.to_owned());
            self.chosen.replace(Some(Chosen { generation: (*source).generation, environment }));
        }
    }
}

/// Returns what PostgreSQL knows of the one statement of a plan.
///
/// # Safety
/// The plan must live.
unsafe fn source(plan: pg_sys::SPIPlanPtr) -> *mut CachedPlanSource {
    // SAFETY: the caller's promise. The list has an item for each statement.
    unsafe { (*(*pg_sys::SPI_plan_get_plan_sources(plan)).elements).ptr_value.cast() }
}

fn environment<'a>() -> (Oid, bool, &'a CStr) {
    // SAFETY: values of this process; the setting is never null. The result is used before it changes.
    unsafe { (pg_sys::GetUserId(), pg_sys::row_security, CStr::from_ptr(pg_sys::namespace_search_path)) }
}

fn check(code: i32, what: &str) {
    assert!(code >= 0, "{what} failed: {code}");
}

/// The rows that a statement returned.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
}

impl Rows {
    /// Returns how many rows the statement returned or changed.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns the value in a row (from 0) and column (from 1); `None` if it is null.
    pub fn get(&self, row: usize, column: i32) -> Option<Datum> {
        assert!(row < self.count && !self.table.is_null());
        let mut is_null = false;
        // SAFETY: the row exists, and a column that does not exist is null.
        let value = unsafe {
            let table = &*self.table;
            pg_sys::SPI_getbinval(*table.vals.add(row), table.tupdesc, column, &mut is_null)
        };
        (!is_null).then_some(value)
    }

    /// Returns a bigint or xid8; 0 if it is null.
    pub fn i64(&self, row: usize, column: i32) -> i64 {
        self.get(row, column).map_or(0, |value| value.value() as i64)
    }

    /// Returns a uuid. Panics if the column has another type.
    pub fn uuid(&self, row: usize, column: i32) -> Option<Uuid> {
        // SAFETY: the value has the column's type.
        self.get_typed(row, column, pg_sys::UUIDOID).map(|value| unsafe { Uuid::from_datum(value) })
    }

    /// Returns a text. Panics if the column has another type.
    pub fn text(&self, row: usize, column: i32) -> Option<&str> {
        // SAFETY: the value has the column's type and lives as long as the rows.
        self.get_typed(row, column, pg_sys::TEXTOID).map(|value| unsafe { values::text(value) })
    }

    /// Returns a jsonb, which lives as long as the rows. Panics if the column has another type.
    pub fn jsonb(&self, row: usize, column: i32) -> Option<Jsonb> {
        // SAFETY: the value has the column's type.
        self.get_typed(row, column, pg_sys::JSONBOID).map(|value| unsafe { Jsonb::from_raw(value) })
    }

    /// Returns an interval. Panics if the column has another type.
    pub fn interval(&self, row: usize, column: i32) -> Option<Interval> {
        // SAFETY: the value has the column's type; the interval is copied.
        self.get_typed(row, column, pg_sys::INTERVALOID).and_then(|value| unsafe { Interval::from_datum(value, false) })
    }

    fn get_typed(&self, row: usize, column: i32, expected: Oid) -> Option<Datum> {
        let value = self.get(row, column)?;
        // SAFETY: the statement returned a row, and so its description.
        let actual = unsafe { pg_sys::SPI_gettypeid((*self.table).tupdesc, column) };
        assert_eq!(actual, expected, "type of column {column}");
        Some(value)
    }
}
