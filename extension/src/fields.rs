//! Bounds of the values that callers write: the size of a text or a jsonb, and dates that are finite.
//!
//! A stored value stays valid: an UPDATE that leaves it as it is succeeds, whatever the bound is now.

use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::session;
use crate::ffi::trigger::{BEFORE_INSERT, Row, Trigger, Use};
use crate::rights::export_trigger;
use crate::settings;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Datum;

/// Checks the size of a text.
pub fn check_text(name: &str, text: &str) {
    if text.len() > settings::max_field_size() {
        errors::too_long(name, settings::max_field_size());
    }
}

/// Checks the size of a jsonb as text.
pub fn check_jsonb(name: &str, value: Jsonb) {
    if !value.fits(settings::max_field_size()) {
        errors::too_long(name, settings::max_field_size());
    }
}

/// Checks that a time is finite, in microseconds since 2000: the infinities are the ends of the range.
pub fn check_date(name: &str, time: i64) {
    if time == i64::MIN || time == i64::MAX {
        errors::infinite(name);
    }
}

/// The rows of a trigger; no old row if the statement inserts.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    pub old: Option<&'a Row>,
    pub new: &'a Row,
}

impl Written<'_> {
    pub fn check_text(self, name: &str, column: usize) {
        self.check_size(name, column, |new| new.text_size(column) <= settings::max_field_size());
    }

    pub fn check_jsonb(self, name: &str, column: usize) {
        self.check_size(name, column, |new| {
            new.jsonb(column).is_none_or(|value| value.fits(settings::max_field_size()))
        });
    }

    pub fn check_date(self, name: &str, column: usize) {
        if let Some(time) = self.new.i64(column)
            && self.old.is_none_or(|old| old.i64(column) != Some(time))
        {
            check_date(name, time);
        }
    }

    /// Most statements leave the column as it is: its bytes are then the same, also if it refers to a value elsewhere.
    fn check_size(self, name: &str, column: usize, fits: impl FnOnce(&Row) -> bool) {
        let is_kept = self.old.is_some_and(|old| self.new.has_same_image(old, column));
        if !is_kept && !fits(self.new) && !self.old.is_some_and(|old| self.new.is_identical(old, column)) {
            errors::too_long(name, settings::max_field_size());
        }
    }
}

export_trigger!(
    check_fields_wrapper,
    pg_finfo_check_fields_wrapper,
    check_fields,
    [Use::new(BEFORE_INSERT, "task_logs").each_row(), Use::new(BEFORE_INSERT, "dags").each_row()]
);

/// BEFORE INSERT FOR EACH ROW, on tables that writers insert into. A restore inserts as the owner, and may hold values
/// that an earlier bound allowed.
fn check_fields(trigger: Trigger) -> Datum {
    if !session::has_privileges_of(trigger.table_owner()) {
        let written = Written { old: None, new: &trigger.inserted() };
        if trigger.is_on("dags") {
            check_dag(trigger, written);
        } else {
            written.check_text("message", trigger.column("message"));
            written.check_date("logged_at", trigger.column("logged_at"));
        }
    }
    trigger.inserted_tuple()
}

#[pgrx::pg_extern(sql = false)]
fn check_text_size(name: Option<&str>, value: Option<&str>) -> bool {
    value.into_iter().for_each(|value| check_text(name.unwrap_or("value"), value));
    true
}

#[pgrx::pg_extern(sql = false)]
fn check_jsonb_size(name: Option<&str>, value: Option<Jsonb>) -> bool {
    value.into_iter().for_each(|value| check_jsonb(name.unwrap_or("value"), value));
    true
}

#[pgrx::pg_extern(sql = false)]
fn check_finite(name: Option<&str>, value: Option<TimestampWithTimeZone>) -> bool {
    value.into_iter().for_each(|value| check_date(name.unwrap_or("value"), value.into()));
    true
}

/// Checks a row of `dags`.
pub fn check_dag(trigger: Trigger, written: Written) {
    for name in ["description", "schedule"] {
        written.check_text(name, trigger.column(name));
    }
    written.check_jsonb("tags", trigger.column("tags"));
    written.check_date("start_date", trigger.column("start_date"));
}
