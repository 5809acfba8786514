//! The settings `pg_workflow.*`.

use crate::ffi::shared;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;
use std::time::Duration;

/// The content of notifications.
#[derive(Clone, Copy, PartialEq, Eq, pgrx::PostgresGucEnum)]
pub enum Notification {
    /// No notification: readers find the events when they poll.
    #[name = c"off"]
    Off,
    /// An empty payload, which says that there are events to read.
    #[name = c"wakeup"]
    Wakeup,
    /// Each event as JSON.
    #[name = c"events"]
    Events,
}

static MAX_CLAIMS: GucSetting<i32> = GucSetting::<i32>::new(16_384);
static DIRECT_PATH: GucSetting<bool> = GucSetting::<bool>::new(true);
static NOTIFICATION: GucSetting<Notification> = GucSetting::<Notification>::new(Notification::Events);
static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"*"));
static BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1000);
static BATCH_DELAY: GucSetting<i32> = GucSetting::<i32>::new(2);
static POLL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(1000);
/// Read by purge(), in SQL.
static MAX_CONSUMER_LAG: GucSetting<i32> = GucSetting::<i32>::new(30 * 24 * 60);
static MAX_TASKS_PER_RUN: GucSetting<i32> = GucSetting::<i32>::new(100_000);
static MAX_FIELD_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1024 * 1024);

/// Defines the settings.
pub fn define() {
    GucRegistry::define_enum_guc(
        c"pg_workflow.announce",
        c"Sets the content of notifications on the NOTIFY channel workflow_events.",
        c"off: no notifications; wakeup: an empty payload; events: each event as JSON. Every role that can connect to the \
          database can execute LISTEN and NOTIFY: with events it hears the metadata of all transitions, whatever its \
          privileges, and it can send notifications of its own. Set wakeup if that matters, and read the event feed.",
        &NOTIFICATION,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_workflow.databases",
        c"Lists the databases that have a notifier: names separated by commas, or * for all.",
        c"In other databases, and without shared_preload_libraries, each transaction sends its own notifications. After a \
          reload each event is notified once all the same.",
        &DATABASES,
        GucContext::Sighup,
        GucFlags::default(),
    );
    define_number(
        c"pg_workflow.batch_size",
        c"Sets the maximum number of events that the notifier sends in one transaction.",
        &BATCH_SIZE,
        (1, 100_000),
        GucFlags::default(),
    );
    define_number(
        c"pg_workflow.batch_delay",
        c"Sets how long the notifier collects events at least before it sends more of them.",
        &BATCH_DELAY,
        (0, 1000),
        GucFlags::UNIT_MS,
    );
    define_number(
        c"pg_workflow.poll_interval",
        c"Sets how often the notifier looks for events that did not wake it.",
        &POLL_INTERVAL,
        (10, 60_000),
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_workflow.max_field_size",
        c"Sets the maximum size, as text, of metadata, conf, tags and each text that a client writes.",
        c"Longer values are rejected when they are written (22023). A lower value does not affect stored ones.",
        &MAX_FIELD_SIZE,
        1024,
        // Escaped in JSON, a text takes up to six times as much, and no value can exceed 1 GB.
        64 * 1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"pg_workflow.max_tasks_per_run",
        c"Sets how many tasks a run with dependencies can have.",
        c"Creating more of them with depends_on is rejected (54000).",
        &MAX_TASKS_PER_RUN,
        1,
        10_000_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_workflow.max_consumer_lag",
        c"Sets the lag from which on purge() keeps no events for a consumer; 0: it keeps them however long.",
        c"Such a consumer is given up until resume_consumer() is called.",
        &MAX_CONSUMER_LAG,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_bool_guc(
        c"pg_workflow.direct_path",
        c"Lets the functions write rows directly where that does the same as an SQL statement.",
        c"off: they run SQL statements, which are slower. For tests, and for extensions that must see each statement.",
        &DIRECT_PATH,
        GucContext::Suset,
        GucFlags::default(),
    );
    // Without preloading there is nothing that it sets.
    if shared::is_preloading() {
        GucRegistry::define_int_guc(
            c"pg_workflow.max_claims",
            c"Sets how many renewed claims shared memory has room for, of all databases of the server.",
            c"The renewal of a further claim writes the task's row. The setting exists only while the library is preloaded.",
            &MAX_CLAIMS,
            64,
            16 * 1024 * 1024,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
}

/// How many renewed claims shared memory has room for.
pub fn max_claims() -> usize {
    usize::try_from(MAX_CLAIMS.get()).unwrap_or(0)
}

pub fn direct_path() -> bool {
    DIRECT_PATH.get()
}

fn define_number(
    name: &'static std::ffi::CStr,
    description: &'static std::ffi::CStr,
    setting: &'static GucSetting<i32>,
    (least, most): (i32, i32),
    flags: GucFlags,
) {
    GucRegistry::define_int_guc(name, description, c"", setting, least, most, GucContext::Sighup, flags);
}

pub fn notification() -> Notification {
    NOTIFICATION.get()
}

/// The largest metadata, conf, tags or text that a client may write, in bytes of text.
pub fn max_field_size() -> usize {
    usize::try_from(MAX_FIELD_SIZE.get()).unwrap_or(0)
}

pub fn max_tasks_per_run() -> usize {
    usize::try_from(MAX_TASKS_PER_RUN.get()).unwrap_or(0)
}

pub fn batch_size() -> i32 {
    BATCH_SIZE.get()
}

pub fn batch_delay() -> Duration {
    milliseconds(&BATCH_DELAY)
}

pub fn poll_interval() -> Duration {
    milliseconds(&POLL_INTERVAL)
}

fn milliseconds(setting: &'static GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::from(setting.get().unsigned_abs()))
}

/// Whether the database has a notifier. `database` looks up its name, which is seldom needed.
pub fn serves(database: impl FnOnce() -> Option<String>) -> bool {
    let databases = DATABASES.get();
    let list = databases.as_deref().map(|list| list.to_string_lossy()).unwrap_or_default();
    let mut names = list.split(',').map(|name| name.trim().trim_matches('"'));
    names.clone().any(|name| name == "*") || database().is_some_and(|database| names.any(|name| name == database))
}
