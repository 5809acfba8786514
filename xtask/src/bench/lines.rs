//! Throughput beside the same work by hand, with a goal for each number of clients.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use super::pgbench::Pgbench;
use super::ratio::{Ratio, median, pairs};
use super::{Bench, Options, Report, events, listener};
use crate::command::step;

/// A pgbench script in `xtask/bench`, and the receiver of its events while it runs.
#[derive(Clone, Copy)]
pub struct Side {
    script: &'static str,
    told: Told,
}

#[derive(Clone, Copy)]
enum Told {
    /// Notifications are off.
    Off,
    /// Notifications are on, and no session has listened since the server's start.
    Unheard,
    /// A session that listens, by the notifier (or by the script's own pg_notify).
    Listener,
    /// Notifications are on, and a session has listened before.
    Formerly,
    /// Redis, by a relay; the time until it has everything counts.
    Redis,
}

/// Without notifications, or by hand.
const fn side(script: &'static str) -> Side {
    Side { script, told: Told::Off }
}

/// With notifications, which no session hears.
pub const fn unheard(script: &'static str) -> Side {
    Side { script, told: Told::Unheard }
}

/// A session also listens to the notifications that the script itself sends.
pub const fn heard(script: &'static str) -> Side {
    Side { script, told: Told::Listener }
}

/// A figure to reach: `ours` at least so many times as fast as `theirs`.
struct Line {
    name: &'static str,
    ours: Side,
    theirs: Side,
    /// Clients, and the ratio to reach with them.
    goals: &'static [(u32, f64)],
    /// Microseconds added to each commit, as on a cloud disk.
    commit_delay: u32,
}

const TRANSITION: Side = side("transition");
const WITH_EVENT: Side = heard("transition");
const WITH_REDIS: Side = Side { script: "transition", told: Told::Redis };
const LIFE: Side = side("life");
/// The baseline with fewer indexes, two history rows a life and no foreign key.
pub const LEAN: Side = side("life_lean");
const FORMERLY_HEARD: Side = Side { script: "life", told: Told::Formerly };

const LINES: &[Line] = &[
    line(
        "transition, no reader / UPDATE + INSERT by hand",
        TRANSITION,
        side("transition_bare"),
        &[(1, 1.0), (8, 1.0), (32, 1.0)],
    ),
    line(
        "transition, all events in Redis / by hand, no event",
        WITH_REDIS,
        side("transition_bare"),
        &[(1, 0.95), (8, 0.95), (32, 0.95)],
    ),
    line("a task's life, no reader / by hand", LIFE, side("life_bare"), &[(1, 1.05), (8, 1.05), (32, 1.05)]),
    line("a life, no listener / lean by hand", unheard("life"), LEAN, &[(1, 0.98), (8, 0.98), (32, 1.0)]),
    line("a life, every event heard / lean by hand", heard("life"), LEAN, &[(1, 0.95), (8, 0.87), (32, 0.83)]),
    line(
        "a life after the listener has gone / before it came",
        FORMERLY_HEARD,
        unheard("life"),
        &[(1, 0.98), (8, 0.98), (32, 0.98)],
    ),
    line("1,000 tasks in one call / set-based by hand", side("create"), side("create_bare"), &[(1, 1.4)]),
    line("transition_many of 10,000, no reader / by hand", side("many"), side("many_bare"), &[(1, 2.4)]),
    line("transition with its event / by hand with pg_notify", WITH_EVENT, heard("transition_notify"), &[(32, 3.5)]),
    slow_commit(
        "transition with its event / by hand with pg_notify, 2 ms commit",
        heard("transition_notify"),
        &[(32, 25.0)],
    ),
    line("transition with its event / as an ORM does it", WITH_EVENT, heard("transition_orm"), &[(32, 4.0)]),
];

const fn line(name: &'static str, ours: Side, theirs: Side, goals: &'static [(u32, f64)]) -> Line {
    Line { name, ours, theirs, goals, commit_delay: 0 }
}

const fn slow_commit(name: &'static str, theirs: Side, goals: &'static [(u32, f64)]) -> Line {
    Line { commit_delay: 2000, ..line(name, WITH_EVENT, theirs, goals) }
}

/// A result of the measurement.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    clients: u32,
    /// Ours to theirs.
    #[serde(flatten)]
    ratio: Ratio,
    goal: f64,
    reached: bool,
    /// Medians, in transactions of the script per second.
    ours_tps: f64,
    theirs_tps: f64,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let mut figures = Vec::new();
    for delay in [0, 2000] {
        let lines = LINES.iter().filter(|line| line.commit_delay == delay && options.selects(line.name));
        let lines: Vec<&Line> = lines.collect();
        if !lines.is_empty() {
            set_commit_delay(bench, delay)?;
        }
        for line in lines {
            for &(clients, goal) in line.goals {
                let name =
                    format!("{}, {clients} clients, {} pairs of {} s", line.name, options.rounds, options.seconds);
                figures.push(step(&name, || compare(bench, line, clients, goal, options))?);
            }
        }
    }
    set_commit_delay(bench, 0)?;
    Report::new("ratios", &figures, table(&figures))
}

/// With commit_siblings 0 every commit waits this long before it flushes.
pub fn set_commit_delay(bench: &Bench, microseconds: u32) -> Result<()> {
    bench.restart_with(&[("commit_delay", &microseconds.to_string()), ("commit_siblings", "0")])
}

fn compare(bench: &Bench, line: &Line, clients: u32, goal: f64, options: &Options) -> Result<Figure> {
    let run = |side: Side| move || side.throughput(bench, clients, options.seconds);
    let pairs = pairs(options.rounds, run(line.ours), run(line.theirs))?;
    let ratio = Ratio::of(&pairs);
    Ok(Figure {
        name: line.name,
        clients,
        ratio,
        goal,
        reached: ratio.median >= goal,
        ours_tps: median(pairs.iter().map(|pair| pair.0).collect()),
        theirs_tps: median(pairs.iter().map(|pair| pair.1).collect()),
    })
}

impl Side {
    /// One run; transactions per second.
    pub fn throughput(self, bench: &Bench, clients: u32, seconds: u32) -> Result<f64> {
        match self.told {
            Told::Unheard => bench.forget_listeners()?,
            Told::Formerly => listener::come_and_go(bench)?,
            Told::Off | Told::Listener | Told::Redis => {}
        }
        bench.reset()?;
        let pgbench = Pgbench::of(self.script, clients, seconds);
        match self.told {
            Told::Off => pgbench.run(bench, "off"),
            Told::Unheard | Told::Formerly => pgbench.run(bench, "events"),
            Told::Listener => listener::while_listening(bench, || pgbench.run(bench, "events")),
            Told::Redis => {
                let relay = events::Relay::start(bench)?;
                let tps = pgbench.run(bench, "off")?;
                let transactions = tps * f64::from(seconds);
                let late = relay.wait_until_in_redis(bench)?;
                Ok(transactions / (f64::from(seconds) + late.as_secs_f64()))
            }
        }
    }
}

fn table(figures: &[Figure]) -> String {
    let mut table = String::new();
    if !figures.is_empty() {
        let (ratio, ours, hand) = ("ratio (lowest-highest)", "ours/s", "hand/s");
        let _ = writeln!(table, "{:66} {:>7} {ratio:>22} {:>6}  {ours:>7} {hand:>7}", "", "clients", "goal");
    }
    for figure in figures {
        let Figure { name, clients, ratio, goal, ours_tps, theirs_tps, .. } = figure;
        let verdict = if figure.reached { "" } else { "  below target" };
        let _ = writeln!(
            table,
            "{name:66} {clients:>7} {ratio:>22} {goal:>6.2}  {ours_tps:>7.0} {theirs_tps:>7.0}{verdict}"
        );
    }
    table
}
