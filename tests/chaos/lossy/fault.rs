//! Faults that lose events, and faults beside them. Each is a value with all its parameters, which the plan has drawn.

use fastrand::Rng;
use std::fmt;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Loss(Loss),
    /// A relay of another database on the same stream, for this time.
    Intruder {
        cluster: Cluster,
        stay: Duration,
    },
}

/// The database is replaced by one that lacks the events of the last seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    pub by: By,
    /// The time between the backup and its restore.
    pub age: Duration,
    /// The relay's consumer is dropped, too.
    pub dropped: Option<Dropped>,
}

/// The way in which the database is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// An asynchronous standby that no longer received the log; perhaps it had not replayed all that it received.
    Promotion {
        is_paused: bool,
    },
    ColdCopy,
    PointInTime,
    /// Into a new database of this cluster or of another one.
    Dump(Cluster),
}

/// The database from which the relay's consumer is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The one that is lost: the other still has the consumer.
    Before,
    /// The one that takes its place. After this time an operator creates the consumer again.
    After(Duration),
}

/// The cluster of another database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    Same,
    Other,
}

const KINDS: &[fn(&mut Rng) -> Fault] = &[
    |random| {
        let by = By::Promotion { is_paused: random.bool() };
        loss(random, by)
    },
    |random| loss(random, By::ColdCopy),
    |random| loss(random, By::PointInTime),
    |random| loss(random, By::Dump(Cluster::Same)),
    |random| loss(random, By::Dump(Cluster::Other)),
    |random| intruder(random, Cluster::Same),
    |random| intruder(random, Cluster::Other),
];

fn loss(random: &mut Rng, by: By) -> Fault {
    let dropped = match random.u32(0..4) {
        0 => Some(Dropped::Before),
        // After a dump, the relays refuse the stream at first.
        1 if !matches!(by, By::Dump(_)) => Some(Dropped::After(millis(random, 0..2000))),
        _ => None,
    };
    Fault::Loss(Loss { by, age: millis(random, 1000..4000), dropped })
}

fn intruder(random: &mut Rng, cluster: Cluster) -> Fault {
    Fault::Intruder { cluster, stay: millis(random, 1000..3000) }
}

fn millis(random: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

/// One step: a quiet time, then a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub quiet: Duration,
    pub fault: Fault,
}

/// An endless sequence of steps, which the seed determines. Every kind is drawn once before any kind is drawn again.
#[derive(Debug)]
pub struct Plan {
    random: Rng,
    kinds: Vec<fn(&mut Rng) -> Fault>,
    deck: Vec<usize>,
}

impl Plan {
    /// A plan of the faults whose name contains this; it is empty if there are none.
    pub fn new(seed: u64, only: &str) -> Plan {
        let matches = |kind: &fn(&mut Rng) -> Fault| kind(&mut Rng::with_seed(0)).kind().contains(only);
        let kinds = KINDS.iter().copied().filter(matches).collect();
        Plan { random: Rng::with_seed(seed), kinds, deck: Vec::new() }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.deck.is_empty() {
            self.deck = (0..self.kinds.len()).collect();
            self.random.shuffle(&mut self.deck);
        }
        let kind = self.kinds[self.deck.pop()?];
        let quiet = millis(&mut self.random, 500..2000);
        Some(Step { quiet, fault: kind(&mut self.random) })
    }
}

impl Fault {
    /// Returns the name of its kind, which is one line of the table.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Loss(loss) => match loss.by {
                By::Promotion { .. } => "lagging standby promoted",
                By::ColdCopy => "older cold copy started",
                By::PointInTime => "recovered to a point in time",
                By::Dump(Cluster::Same) => "older dump restored",
                By::Dump(Cluster::Other) => "older dump in another cluster",
            },
            Fault::Intruder { cluster: Cluster::Same, .. } => "relay of another database",
            Fault::Intruder { cluster: Cluster::Other, .. } => "relay of another cluster",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Fault::Loss(Loss { by, age, dropped }) => {
                write!(f, ", of {age:?} ago")?;
                if *by == (By::Promotion { is_paused: true }) {
                    f.write_str(", replay paused")?;
                }
                match dropped {
                    Some(Dropped::Before) => f.write_str("; consumer dropped before"),
                    Some(Dropped::After(down)) => write!(f, "; consumer dropped afterwards, for {down:?}"),
                    None => Ok(()),
                }
            }
            Fault::Intruder { stay, .. } => write!(f, ", for {stay:?}"),
        }
    }
}
