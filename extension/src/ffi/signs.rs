//! Signs of life of a database's workers, and the silences between them.

/// A shorter time without a sign is no silence.
const SHORTEST: i64 = 1_000_000;
/// Lengths of silences that are told apart: from 1 s, 2 s, 4 s and so on.
const LENGTHS: usize = 20;
/// A silence of length s counts for leases of up to 2 s, and so for this time. Until then at most so many follow that are
/// half as long or longer: 5 between signs, and 5 between questions.
const KEPT: usize = 10;

/// All times are in microseconds of the host's clock.
#[derive(Clone, Copy)]
pub struct Signs {
    /// When a worker gave the last sign, and when a worker did so or a session asked for a lease.
    last: i64,
    pub seen: i64,
    /// The last silences of each length, the newest first: when each began and ended.
    silences: [[(i64, i64); KEPT]; LENGTHS],
    /// The time of the system less the host's clock; and when that last changed: it was set, or the server has started.
    offset: i64,
    pub stepped_at: i64,
}

impl Default for Signs {
    fn default() -> Signs {
        Signs { last: 0, seen: 0, silences: [[(0, 0); KEPT]; LENGTHS], offset: 0, stepped_at: 0 }
    }
}

/// Returns the place of silences of this length.
fn place(length: i64) -> usize {
    let power = (length / SHORTEST).checked_ilog2().unwrap_or(0) as usize;
    power.min(LENGTHS - 1)
}

impl Signs {
    /// Notes that a worker gave a sign.
    pub fn note(&mut self, now: i64) {
        self.add(self.last, now);
        (self.last, self.seen) = (now, now);
    }

    /// Notes that a session asks for a lease: the server does not stand still.
    pub fn look(&mut self, now: i64) {
        self.add(self.seen, now);
        self.seen = now;
    }

    fn add(&mut self, began: i64, ended: i64) {
        if ended - began >= SHORTEST {
            let kept = &mut self.silences[place(ended - began)];
            kept.rotate_right(1);
            kept[0] = (began, ended);
        }
    }

    /// Notes the time of the system.
    pub fn note_offset(&mut self, system: i64, now: i64) {
        const MOST: i64 = 1_000_000;
        if (system - now - self.offset).abs() > MOST {
            self.stepped_at = now;
        }
        self.offset = system - now;
    }

    /// Returns the end of a lease, by all that has been seen. If it ended in a silence of at least half of it, or since then,
    /// there is another one from the end of the silence.
    pub fn end(&self, expires_at: i64, duration: i64) -> i64 {
        let half = (duration / 2).max(SHORTEST);
        let counts = |(began, ended): &(i64, i64)| *began <= expires_at && ended - began >= half;
        let past = self.silences[place(half)..].iter().flatten().filter(|silence| counts(silence));
        // The current one ends as soon as it counts, so that the claim of a lone worker that is gone ends.
        let current = Some((self.last, self.seen)).filter(counts).map(|(began, _)| began + half);
        let ended = past.map(|(_, ended)| *ended).chain(current).max();
        ended.map_or(expires_at, |ended| expires_at.max(ended.saturating_add(duration)))
    }
}
