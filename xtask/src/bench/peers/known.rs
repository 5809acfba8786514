//! The job queues to compare with, and the record that each one keeps of a life.

/// A job queue.
pub struct Peer {
    pub package: Package,
    /// In `xtask/bench/peers`: writes its tables and a life, by the statements of the package.
    pub program: &'static str,
    pub sendings: &'static [Sending],
    pub settings: &'static str,
    pub keeps: &'static str,
    pub lacks: &'static str,
}

/// A package with its version.
pub enum Package {
    Npm(&'static str),
    PyPi(&'static str),
}

impl Package {
    /// Its name and version, as its registry's client reads them.
    pub fn spec(&self) -> &'static str {
        let (Self::Npm(spec) | Self::PyPi(spec)) = self;
        spec
    }
}

/// A way to send the statements.
pub struct Sending {
    /// Of pgbench.
    pub protocol: &'static str,
    pub note: &'static str,
}

const AUTOCOMMIT: Sending = Sending { protocol: "prepared", note: "as psycopg sends it: prepared" };
const BEGIN_COMMIT: Sending = Sending { protocol: "prepared", note: "as psycopg sends it: prepared, BEGIN and COMMIT" };

pub const PEERS: &[Peer] = &[
    Peer {
        package: Package::Npm("pg-boss@12.38.0"),
        program: "pg_boss.mjs",
        sendings: &[
            Sending { protocol: "extended", note: "as node-postgres sends it: planned each time" },
            Sending { protocol: "prepared", note: "if it were prepared" },
        ],
        settings: "a queue with the policy standard, one job a fetch, completion fenced by the attempt, no NOTIFY",
        keeps: "the job's row with its state, the times of creation, start and end, and the output",
        lacks: "each change, its actor or events",
    },
    Peer {
        package: Package::Npm("graphile-worker@0.18.0"),
        program: "graphile_worker.mjs",
        // Its addJob() is not prepared, but pgbench sends all statements of a script alike.
        sendings: &[Sending { protocol: "prepared", note: "as node-postgres sends a worker's statements: prepared" }],
        settings: "one job at a time, without batches and local queue, a NOTIFY for each new job",
        keeps: "nothing of a job that succeeded: it is deleted",
        lacks: "states, times, each change, its actor or events",
    },
    Peer {
        package: Package::PyPi("procrastinate==3.10.0"),
        program: "procrastinate.py",
        sendings: &[BEGIN_COMMIT],
        settings: "no locks, finished jobs are kept, a NOTIFY for each new job, without the pool's check of a connection",
        keeps: "the job's row with its state, and a row with type and time for each change",
        lacks: "actor, version and metadata of a change, or events",
    },
    Peer {
        package: Package::PyPi("pgmq==1.1.4"),
        program: "pgmq.py",
        sendings: &[BEGIN_COMMIT],
        settings: "pgmq 1.13.0, one message a read, finished by archive()",
        keeps: "the archived message with the times of sending, the last read and archiving, and the number of reads",
        lacks: "states, each change, its actor or events",
    },
    Peer {
        package: Package::PyPi("absurdctl==0.5.1"),
        program: "absurd.py",
        sendings: &[AUTOCOMMIT],
        settings: "an unpartitioned queue, one task a claim, no steps",
        keeps: "the rows of the task and its run with state, worker, times and result",
        lacks: "each change, its actor or events",
    },
    Peer {
        package: Package::PyPi("oban==0.7.0"),
        program: "oban.py",
        sendings: &[BEGIN_COMMIT],
        settings: "one job a fetch, one acknowledgment a transaction, a NOTIFY for each new job",
        keeps: "the job's row with its state, node, times, attempts and errors",
        lacks: "each change, its actor or events",
    },
];

/// Peers that cannot be installed, and the reason.
pub const UNAVAILABLE: [(&str, &str); 1] =
    [("River", "its tables and its client are Go modules; npm, PyPI and crates.io have only clients that insert jobs")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn peers_are_pinned_and_have_a_program() {
        for Peer { package, program, .. } in PEERS {
            let (name, version) = package.spec().split_once(['@', '=']).unwrap();
            assert!(version.trim_start_matches('=').starts_with(|first: char| first.is_ascii_digit()), "{name}");
            assert!(workspace::root().join("xtask/bench/peers").join(program).is_file(), "{program}");
        }
    }
}
