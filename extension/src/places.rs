//! Where the first task of each lane is: a claim begins there, not at the rows that earlier claims have deleted and VACUUM
//! has not removed yet.
//!
//! A place may rise only to the first row that is visible, also if another transaction takes it, and never above a row that
//! a commit has reported since the place was read. `tests/model/places.rs` tries every order of the steps. Rows that no
//! commit reports are found by a sweep: from time to time a claim looks from the beginning.

use crate::ffi::places::{self, LANES, Places, QUEUES, REPORTS};
use crate::ffi::session;
use crate::ffi::transaction::{self, OfTransaction};
use crate::ffi::values::monotonic;
use crate::ffi::waiters;
use crate::{memory, signals};
use std::cell::RefCell;
use std::time::Duration;

/// Entries in which a queue is looked for.
const WAYS: usize = 8;
/// A sweep comes at most so often, and takes at most 1 % of the time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
const SWEEP_SHARE: i64 = 100;

/// Where a claim begins, for each priority. In a lane without a task that can be claimed: at the end of time.
#[derive(Clone, Copy)]
pub struct Start {
    /// `None`: at the beginning of all lanes.
    pub places: Option<[i64; LANES]>,
    mark: Option<Mark>,
}

/// The entry from which the places were read.
#[derive(Clone, Copy)]
struct Mark {
    entry: usize,
    generation: u64,
    reports: u64,
    began: i64,
}

impl Start {
    pub const BEGINNING: Start = Start { places: None, mark: None };

    /// Reads the places of a queue. Take the snapshot after this.
    pub fn read(queue: i32) -> Start {
        if signals::find().is_none() {
            return Start::BEGINNING;
        }
        let began = monotonic();
        let mut all = places::lock();
        let entry = find(&all, queue).unwrap_or_else(|| claim(&mut all, queue));
        let own = &mut all[entry];
        own.used_at = began;
        let is_sweep = own.next_sweep <= began;
        if is_sweep {
            own.next_sweep = began + SWEEP_INTERVAL.as_micros() as i64;
        }
        let mark = Mark { entry, generation: own.generation, reports: own.reports, began };
        let places = own.places;
        drop(all);
        // Rows that this transaction has deleted come back if it rolls back: they are visible to others only.
        let mark = (!has_claimed(queue)).then_some(mark);
        Start { places: (!is_sweep).then(|| lower_to_own(queue, places)), mark }
    }

    /// Stores the first visible time of each lane in which the claim has looked.
    pub fn finish(self, queue: i32, seen: &[Option<i64>; LANES]) {
        let Some(Mark { reports, began, .. }) = self.mark else { return };
        let mut all = places::lock();
        let Some(own) = self.entry(&mut all, queue) else { return };
        let missed = own.reports.wrapping_sub(reports);
        if missed > REPORTS as u64 {
            return;
        }
        for (lane, first) in seen.iter().enumerate() {
            let Some(first) = first else { continue };
            let since = (0..missed).map(|n| own.reported[(reports.wrapping_add(n) % REPORTS as u64) as usize]);
            let lowest = since.filter(|(of, _)| usize::from(*of) == lane).map(|(_, time)| time).min();
            own.places[lane] = lowest.map_or(*first, |lowest| lowest.min(*first));
        }
        if self.places.is_none() {
            let now = monotonic();
            let pause = SWEEP_SHARE * (now - began);
            own.next_sweep = now + pause.max(SWEEP_INTERVAL.as_micros() as i64);
        }
    }

    /// Lets the next claims find rows that no commit has reported, if this was a look from the beginning.
    pub fn lower(self, queue: i32, seen: &[Option<i64>; LANES]) {
        if self.mark.is_none() || self.places.is_some() {
            return;
        }
        let mut all = places::lock();
        let Some(own) = self.entry(&mut all, queue) else { return };
        for (place, first) in own.places.iter_mut().zip(seen) {
            *place = first.map_or(*place, |first| first.min(*place));
        }
    }

    /// Returns the entry from which the places were read; `None` if they were forgotten, or if another queue has it now.
    fn entry<'a>(&self, all: &'a mut [Places; QUEUES], queue: i32) -> Option<&'a mut Places> {
        let mark = self.mark?;
        let own = &mut all[mark.entry];
        (own.generation == mark.generation && own.queue == queue).then_some(own)
    }
}

/// What a transaction has done to `ready`.
#[derive(Default)]
struct Pending {
    /// The tasks that it has made claimable: for each lane the earliest time, and how many.
    lanes: Vec<(i32, i16, i64, usize)>,
    /// Whether it has made others claimable, which are not counted.
    has_others: bool,
    /// Whether it has set a queue, so that tasks that wait can be claimable now.
    sets_queue: bool,
    /// Queues from which it has deleted rows.
    claimed: Vec<i32>,
}

thread_local! {
    static PENDING: RefCell<OfTransaction<Pending>> = RefCell::default();
}

/// Notes rows that this transaction has added: queue, priority and time. Its commit reports them.
pub fn note(rows: impl Iterator<Item = (i32, i16, i64)>) {
    PENDING.with_borrow_mut(|pending| {
        let lanes = &mut pending.get().lanes;
        for (queue, priority, ready_at) in rows {
            let is_of = |lane: &&mut (i32, i16, i64, usize)| (lane.0, lane.1) == (queue, priority);
            match lanes.iter_mut().find(is_of) {
                Some((_, _, time, count)) => (*time, *count) = ((*time).min(ready_at), *count + 1),
                None => memory::push(lanes, (queue, priority, ready_at, 1)),
            }
        }
    });
}

/// Notes that this transaction has added other rows. Its commit forgets all places of the database.
pub fn note_others() {
    PENDING.with_borrow_mut(|pending| pending.get().has_others = true);
}

/// Notes that this transaction has set a queue. Its commit wakes all sessions that wait for tasks.
pub fn note_set_queue() {
    PENDING.with_borrow_mut(|pending| pending.get().sets_queue = true);
}

/// Whether this transaction has something to report.
pub fn has_news() -> bool {
    let has_news =
        |Pending { lanes, has_others, sets_queue, .. }: &mut Pending| *has_others || *sets_queue || !lanes.is_empty();
    PENDING.with_borrow_mut(|pending| pending.known().is_some_and(has_news))
}

/// The rows of the transaction itself are visible to it.
fn lower_to_own(queue: i32, mut places: [i64; LANES]) -> [i64; LANES] {
    PENDING.with_borrow_mut(|pending| {
        let Some(Pending { lanes, has_others, .. }) = pending.known() else { return places };
        if *has_others {
            return [i64::MIN; LANES];
        }
        for (_, priority, time, _) in lanes.iter().filter(|lane| lane.0 == queue) {
            let place = &mut places[*priority as usize % LANES];
            *place = (*place).min(*time);
        }
        places
    })
}

/// Notes that this transaction has deleted rows of a queue, if any: then it has an ID.
pub fn note_claim(queue: i32) {
    if transaction::assigned_id().is_none() {
        return;
    }
    PENDING.with_borrow_mut(|pending| {
        let claimed = &mut pending.get().claimed;
        if !claimed.contains(&queue) {
            memory::push(claimed, queue);
        }
    });
}

fn has_claimed(queue: i32) -> bool {
    PENDING.with_borrow_mut(|pending| pending.known().is_some_and(|pending| pending.claimed.contains(&queue)))
}

/// Reports the rows of the transaction that has just committed, and wakes a waiting session for each. Nothing here may fail.
pub fn report() {
    let pending = PENDING.with_borrow_mut(|pending| pending.known().map(std::mem::take));
    let Some(Pending { lanes, has_others, sets_queue, .. }) = pending else { return };
    if has_others {
        forget();
        return;
    }
    if sets_queue {
        waiters::wake_all();
    }
    if !lanes.is_empty() {
        let mut all = places::lock();
        for (queue, priority, time, _) in &lanes {
            let Some(entry) = find(&all, *queue) else { continue };
            all[entry].report(*priority, *time);
        }
    }
    lanes.iter().for_each(|(queue, _, _, count)| waiters::wake(*queue, *count));
}

/// Forgets the places of this database, and wakes its waiting sessions: rows have come that were not reported.
pub fn forget() {
    let database = session::database().to_u32();
    {
        let mut all = places::lock();
        for own in all.iter_mut().filter(|own| own.database == database) {
            let Places { queue, generation, used_at, refused, .. } = *own;
            *own = Places { database, queue, generation: generation + 1, used_at, refused, ..Places::default() };
        }
    }
    waiters::wake_all();
}

/// Counts a claim that found no free slot.
pub fn note_refusal(queue: i32) {
    if signals::find().is_some() {
        let mut all = places::lock();
        let entry = find(&all, queue).unwrap_or_else(|| claim(&mut all, queue));
        all[entry].refused += 1;
    }
}

/// Returns how many claims found no free slot since the server started; `None`: the library is not preloaded.
pub fn refused(queue: i32) -> Option<u64> {
    signals::find()?;
    let all = places::lock();
    Some(find(&all, queue).map_or(0, |entry| all[entry].refused))
}

fn ways(queue: i32) -> impl Iterator<Item = usize> {
    let mixed = (session::database().to_u32() ^ queue.cast_unsigned().wrapping_mul(0x9e37_79b9)) as usize;
    (0..WAYS).map(move |n| (mixed + n) % QUEUES)
}

fn find(all: &[Places; QUEUES], queue: i32) -> Option<usize> {
    let database = session::database().to_u32();
    ways(queue).find(|entry| (all[*entry].database, all[*entry].queue) == (database, queue))
}

/// Takes an entry for a queue: a free one, or the one that was used least lately.
fn claim(all: &mut [Places; QUEUES], queue: i32) -> usize {
    let key = |entry: &usize| if all[*entry].database == 0 { i64::MIN } else { all[*entry].used_at };
    let entry = ways(queue).min_by_key(key).unwrap_or(0);
    let generation = all[entry].generation + 1;
    all[entry] = Places { database: session::database().to_u32(), queue, generation, ..Places::default() };
    entry
}
