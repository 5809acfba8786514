//! Faults. A fault is a value with all its parameters, which the plan has drawn.

use fastrand::Rng;
use std::fmt;
use std::time::Duration;

use super::link::Peer;
use super::proxy::Cut;

/// Every fault, with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    KillRelay {
        which: Which,
        down: Duration,
    },
    /// For longer than its lease: the relay wakes up and believes that it still leads.
    StopRelay {
        which: Which,
        time: Duration,
    },
    CutRelay {
        which: Which,
        peer: Peer,
        how: Cut,
    },
    BlackholeRelay {
        which: Which,
        peer: Peer,
        time: Duration,
        then: Then,
    },
    RefuseRelay {
        which: Which,
        peer: Peer,
        time: Duration,
    },
    CutClients {
        whose: Whose,
        how: Cut,
    },
    BlackholeClients {
        whose: Whose,
        time: Duration,
        then: Then,
    },
    RestartRedis {
        with: Contents,
        down: Duration,
    },
    StopRedis {
        time: Duration,
    },
    FillRedis {
        time: Duration,
    },
    /// While its connections stay open.
    FlushRedis,
    /// The relays refuse to create it again; after this time an operator does.
    DropConsumer {
        down: Duration,
    },
    KillBackend {
        whose: Whose,
        nth: u32,
    },
    /// The backend keeps its locks and its snapshot, and continues after others have done its work.
    StopBackend {
        whose: Whose,
        nth: u32,
        time: Duration,
    },
    TerminateBackends {
        whose: Whose,
    },
    KillPostmaster {
        down: Duration,
    },
    ShutDownAtOnce {
        down: Duration,
    },
    /// Commits wait until the standby is back.
    KillStandby {
        down: Duration,
    },
    Promote,
    /// Ahead by so many hours, or behind, and right again.
    SetClock {
        hours: i64,
        time: Duration,
    },
}

/// One relay, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    One(usize),
    Both,
}

/// The end of a blackhole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The held bytes arrive.
    Arrives,
    IsCut,
}

/// The contents of Redis after its restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    All,
    Nothing,
    /// A copy from this long before it was killed.
    Older(Duration),
}

/// The owner of a database session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Writers,
    /// Those that claim tasks.
    Workers,
    Relays,
    Notifier,
    /// The witnesses.
    Readers,
}

/// The target of a fault. Two faults at once must have different targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Relay,
    Network,
    Redis,
    Postgres,
    Clock,
}

/// The kinds of faults that a plan shuffles; each function draws its parameters.
pub const KINDS: &[fn(&mut Rng) -> Fault] = &[
    |random| Fault::KillRelay { which: which(random), down: millis(random, 100..3000) },
    |random| Fault::StopRelay { which: which(random), time: millis(random, 6000..7500) },
    |random| Fault::CutRelay { which: which(random), peer: Peer::Postgres, how: cut(random) },
    |random| Fault::CutRelay { which: which(random), peer: Peer::Redis, how: cut(random) },
    |random| blackhole(random, Peer::Postgres),
    |random| blackhole(random, Peer::Redis),
    |random| Fault::RefuseRelay { which: which(random), peer: peer(random), time: millis(random, 500..4000) },
    |random| Fault::CutClients { whose: Whose::Writers, how: cut(random) },
    |random| Fault::CutClients { whose: Whose::Workers, how: cut(random) },
    |random| Fault::CutClients { whose: Whose::Readers, how: cut(random) },
    |random| blackhole_clients(random, Whose::Writers),
    |random| blackhole_clients(random, Whose::Workers),
    |random| blackhole_clients(random, Whose::Readers),
    |random| Fault::RestartRedis { with: Contents::All, down: millis(random, 0..3000) },
    |random| Fault::RestartRedis { with: Contents::Nothing, down: millis(random, 0..3000) },
    |random| Fault::RestartRedis { with: Contents::Older(millis(random, 500..4000)), down: millis(random, 0..2000) },
    |random| Fault::StopRedis { time: millis(random, 2000..6000) },
    |random| Fault::FillRedis { time: millis(random, 2000..5000) },
    |_| Fault::FlushRedis,
    |random| Fault::DropConsumer { down: millis(random, 0..4000) },
    |random| Fault::KillBackend { whose: Whose::Writers, nth: nth(random) },
    |random| Fault::KillBackend { whose: Whose::Workers, nth: nth(random) },
    |random| Fault::KillBackend { whose: Whose::Relays, nth: nth(random) },
    |_| Fault::KillBackend { whose: Whose::Notifier, nth: 0 },
    |random| stop_backend(random, Whose::Writers),
    |random| stop_backend(random, Whose::Workers),
    |random| stop_backend(random, Whose::Relays),
    |random| stop_backend(random, Whose::Notifier),
    |random| stop_backend(random, Whose::Readers),
    |random| Fault::TerminateBackends { whose: [Whose::Relays, Whose::Notifier, Whose::Readers][random.usize(0..3)] },
    |random| Fault::KillPostmaster { down: millis(random, 0..3000) },
    |random| Fault::ShutDownAtOnce { down: millis(random, 0..3000) },
    |random| Fault::KillStandby { down: millis(random, 500..5000) },
    |_| Fault::Promote,
    |random| Fault::SetClock { hours: 1, time: millis(random, 2000..8000) },
    |random| Fault::SetClock { hours: -1, time: millis(random, 2000..8000) },
];

fn which(random: &mut Rng) -> Which {
    // One relay more often than both: a takeover is more interesting.
    [Which::One(0), Which::One(1), Which::Both][random.choice([0, 0, 1, 1, 2]).unwrap_or_default()]
}

fn peer(random: &mut Rng) -> Peer {
    if random.bool() { Peer::Postgres } else { Peer::Redis }
}

fn cut(random: &mut Rng) -> Cut {
    if random.bool() { Cut::Finish } else { Cut::Reset }
}

fn then(random: &mut Rng) -> Then {
    if random.bool() { Then::Arrives } else { Then::IsCut }
}

fn blackhole(random: &mut Rng, peer: Peer) -> Fault {
    Fault::BlackholeRelay { which: which(random), peer, time: millis(random, 3000..12_000), then: then(random) }
}

fn blackhole_clients(random: &mut Rng, whose: Whose) -> Fault {
    Fault::BlackholeClients { whose, time: millis(random, 1000..3000), then: then(random) }
}

fn stop_backend(random: &mut Rng, whose: Whose) -> Fault {
    Fault::StopBackend { whose, nth: nth(random), time: millis(random, 1000..6000) }
}

/// Draws an index from a range that covers all backends.
fn nth(random: &mut Rng) -> u32 {
    random.u32(0..60)
}

fn millis(random: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

impl Fault {
    pub fn subject(&self) -> Subject {
        match self {
            Fault::KillRelay { .. } | Fault::StopRelay { .. } => Subject::Relay,
            Fault::CutRelay { .. } | Fault::BlackholeRelay { .. } | Fault::RefuseRelay { .. } => Subject::Network,
            Fault::CutClients { .. } | Fault::BlackholeClients { .. } => Subject::Network,
            Fault::RestartRedis { .. } | Fault::StopRedis { .. } => Subject::Redis,
            Fault::FillRedis { .. } | Fault::FlushRedis => Subject::Redis,
            Fault::KillBackend { .. } | Fault::StopBackend { .. } | Fault::TerminateBackends { .. } => {
                Subject::Postgres
            }
            Fault::KillPostmaster { .. } | Fault::ShutDownAtOnce { .. } => Subject::Postgres,
            Fault::KillStandby { .. } | Fault::Promote | Fault::DropConsumer { .. } => Subject::Postgres,
            Fault::SetClock { .. } => Subject::Clock,
        }
    }

    /// Returns the name of its kind, which is one line of the table.
    pub fn kind(&self) -> String {
        match self {
            Fault::KillRelay { .. } => "relay killed".into(),
            Fault::StopRelay { .. } => "relay stopped for longer than its lease".into(),
            Fault::CutRelay { peer, .. } => format!("relay's connection to {peer} cut"),
            Fault::BlackholeRelay { peer, .. } => format!("relay's connection to {peer} silent"),
            Fault::RefuseRelay { peer, .. } => format!("{peer} refuses the relay"),
            Fault::CutClients { whose, .. } => format!("{whose}' connections cut"),
            Fault::BlackholeClients { whose, .. } => format!("{whose}' connections silent"),
            Fault::RestartRedis { with, .. } => format!("Redis killed, back {with}"),
            Fault::StopRedis { .. } => "Redis stopped".into(),
            Fault::FillRedis { .. } => "Redis out of memory".into(),
            Fault::FlushRedis => "Redis flushed".into(),
            Fault::DropConsumer { .. } => "relay's consumer dropped".into(),
            Fault::KillBackend { whose, .. } => format!("a backend of the {whose} killed"),
            Fault::StopBackend { whose, .. } => format!("a backend of the {whose} stopped"),
            Fault::TerminateBackends { whose } => format!("backends of the {whose} terminated"),
            Fault::KillPostmaster { .. } => "postmaster killed".into(),
            Fault::ShutDownAtOnce { .. } => "PostgreSQL shut down immediately".into(),
            Fault::KillStandby { .. } => "standby killed".into(),
            Fault::SetClock { hours, .. } => format!("clock set by {hours:+} h"),
            Fault::Promote => "primary killed, standby promoted".into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind())?;
        match self {
            Fault::KillRelay { which, down } => write!(f, ": {which}, for {down:?}"),
            Fault::StopRelay { which, time } => write!(f, ": {which}, for {time:?}"),
            Fault::CutRelay { which, how, .. } => write!(f, ": {which}, {how:?}"),
            Fault::BlackholeRelay { which, time, then, .. } => write!(f, ": {which}, for {time:?}, then {then:?}"),
            Fault::RefuseRelay { which, time, .. } => write!(f, ": {which}, for {time:?}"),
            Fault::CutClients { how, .. } => write!(f, ": {how:?}"),
            Fault::BlackholeClients { time, then, .. } => write!(f, ": for {time:?}, then {then:?}"),
            Fault::RestartRedis { with: Contents::Older(age), down } => write!(f, " of {age:?} before, after {down:?}"),
            Fault::RestartRedis { down, .. } => write!(f, ", after {down:?}"),
            Fault::StopRedis { time } | Fault::FillRedis { time } | Fault::SetClock { time, .. } => {
                write!(f, " for {time:?}")
            }
            Fault::KillBackend { nth, .. } => write!(f, ": number {nth} modulo the number of backends"),
            Fault::StopBackend { nth, time, .. } => {
                write!(f, " for {time:?}: number {nth} modulo the number of backends")
            }
            Fault::KillPostmaster { down }
            | Fault::ShutDownAtOnce { down }
            | Fault::KillStandby { down }
            | Fault::DropConsumer { down } => write!(f, " for {down:?}"),
            Fault::TerminateBackends { .. } | Fault::Promote | Fault::FlushRedis => Ok(()),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::One(number) => write!(f, "relay {number}"),
            Which::Both => f.write_str("both"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Peer::Postgres => "PostgreSQL",
            Peer::Redis => "Redis",
        })
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Contents::All => "with everything",
            Contents::Nothing => "empty",
            Contents::Older(_) => "with a copy",
        })
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Whose::Writers => "writers",
            Whose::Workers => "workers",
            Whose::Relays => "relays",
            Whose::Notifier => "notifier",
            Whose::Readers => "readers",
        })
    }
}
