//! Two databases of one cluster, alike but for the direct path.

use super::side::{Calls, Side};
use super::step::Step;
use std::sync::atomic::{AtomicU32, Ordering};
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};

const SETTINGS: &[(&str, &str)] = &[
    PRELOADED,
    ("max_prepared_transactions", "20"),
    ("max_connections", "200"),
    ("max_worker_processes", "40"),
    ("track_functions", "all"),
    // A session that would be in a deadlock is canceled long before.
    ("deadlock_timeout", "60s"),
    ("autovacuum", "off"),
    // An UPDATE of several rows takes them in the same order, whatever size the tables have.
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
];

/// A cluster for pairs.
pub struct Stage {
    cluster: Postgres,
    count: AtomicU32,
}

pub struct Pair<'a> {
    stage: &'a Stage,
    names: [String; 2],
    /// By the direct path, and by SQL statements.
    sides: [Side; 2],
}

/// What each side saw, line by line.
pub struct Seen([Vec<String>; 2]);

impl Stage {
    pub fn start(name: &str) -> Stage {
        let cluster = Postgres::start(name, &[FAST, SETTINGS].concat()).expect("a cluster");
        cluster.psql("postgres", include_str!("roles.sql")).expect("roles");
        cluster.psql("postgres", "CREATE DATABASE fresh").expect("a template");
        cluster.psql("fresh", include_str!("database.sql")).expect("the extension");
        Stage { cluster, count: AtomicU32::new(0) }
    }

    /// Creates a pair of databases.
    pub fn pair(&self) -> Pair<'_> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let names = ["direct", "statement"].map(|path| format!("by_{path}_{number}"));
        let sides = [(0, "on"), (1, "off")].map(|(side, setting)| {
            let name = &names[side];
            let sql = format!(
                "CREATE DATABASE {name} TEMPLATE fresh; ALTER DATABASE {name} SET pg_workflow.direct_path = {setting}"
            );
            sql.split(';').for_each(|sql| drop(self.cluster.psql("postgres", sql).expect("a database")));
            Side::connect(&self.cluster.url(name), name)
        });
        Pair { stage: self, names, sides }
    }
}

impl Pair<'_> {
    /// Plays a sequence in both databases at once.
    pub fn play(&mut self, steps: &[Step]) -> Seen {
        let [direct, statement] = &mut self.sides;
        std::thread::scope(|scope| {
            let direct = scope.spawn(|| direct.play(steps));
            let statement = statement.play(steps);
            Seen([direct.join().expect("its own panic is shown"), statement])
        })
    }

    /// Returns the calls of triggers between the steps that measure, for each side, and forgets them.
    pub fn measured(&mut self) -> [Vec<Calls>; 2] {
        self.sides.each_mut().map(|side| {
            let between = |calls: &[Calls]| [calls[1][0] - calls[0][0], calls[1][1] - calls[0][1]];
            std::mem::take(&mut side.measured).windows(2).map(between).collect()
        })
    }

    /// How many times each side has called the triggers of UPDATE and of INSERT.
    pub fn calls(&mut self) -> [Calls; 2] {
        self.sides.each_mut().map(Side::calls)
    }

    /// Whether a change was applied that cannot be undone in full.
    pub fn is_spoiled(&self) -> bool {
        self.sides.iter().any(Side::is_spoiled)
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        for name in self.names.iter().filter(|_| !std::thread::panicking()) {
            self.stage.cluster.psql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).expect("it exists");
        }
    }
}

impl Seen {
    pub fn by_direct_path(&self) -> &[String] {
        &self.0[0]
    }

    pub fn by_statements(&self) -> &[String] {
        &self.0[1]
    }

    /// Returns the lines in which the sides differ; empty if none.
    pub fn difference(&self) -> Vec<String> {
        let [direct, statement] = &self.0;
        let line = |lines: &[String], n: usize| lines.get(n).cloned().unwrap_or_default();
        let pair = |n| [format!("  direct:    {}", line(direct, n)), format!("  statement: {}", line(statement, n))];
        let differ = |n: &usize| line(direct, *n) != line(statement, *n);
        (0..direct.len().max(statement.len())).filter(differ).take(5).flat_map(pair).collect()
    }
}
