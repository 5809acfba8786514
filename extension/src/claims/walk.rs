//! Stepping through the rows of `ready` of a queue, by priority and then by time.

use crate::ffi::heap::Heap;
use crate::ffi::lane::{Begin, Lanes, Sight};
use crate::ffi::places::LANES;
use crate::places::Start;
use crate::ready::{self, LOWEST_PRIORITY, Ready, ReadyColumns};
use pgrx::pg_sys::ItemPointerData;

/// A walk through the lanes of a queue.
pub struct Walk {
    lanes: Lanes,
    columns: ReadyColumns,
    queue_id: i32,
    now: i64,
    /// Where each lane begins; `None`: unknown, so that one scan goes through all of them.
    places: Option<[i64; LANES]>,
    priority: i16,
    /// Whether the scan is within this lane, and whether it has returned a row of it.
    is_scanning: bool,
    has_row: bool,
    /// The time of the first row that was visible in each lane; the end of time: there was none.
    pub seen: [Option<i64>; LANES],
}

/// A row that can be claimed, and whether a transaction in progress deletes it.
pub struct Candidate {
    pub found: Ready,
    pub place: ItemPointerData,
    pub is_being_deleted: bool,
}

impl Walk {
    pub fn begin(heap: &Heap, columns: ReadyColumns, queue_id: i32, start: &Start, now: i64, sight: Sight) -> Walk {
        let from = columns.begin(queue_id);
        Walk {
            lanes: ready::lanes(heap, &from, sight),
            columns,
            queue_id,
            now,
            places: start.places,
            priority: 0,
            is_scanning: false,
            has_row: false,
            seen: [None; LANES],
        }
    }

    /// Steps to the next row, perhaps in a later lane.
    pub fn next(&mut self) -> Option<Candidate> {
        loop {
            if !self.is_scanning {
                self.enter_lane()?;
            }
            match self.lanes.next() {
                Some((row, place)) => {
                    let found = self.columns.read(&row);
                    self.reach(found.priority, found.ready_at);
                    return Some(Candidate { found, place, is_being_deleted: self.lanes.is_being_deleted() });
                }
                // One lane, or all of them.
                None => self.reach(if self.places.is_some() { self.priority + 1 } else { LANES as i16 }, i64::MAX),
            }
        }
    }

    /// Continues with a lane.
    pub fn go_to(&mut self, priority: i16) {
        (self.priority, self.is_scanning, self.has_row) = (priority, false, false);
    }

    /// Continues with the next lane.
    pub fn leave_lane(&mut self) {
        self.go_to(self.priority + 1);
    }

    pub fn close(self) {
        self.lanes.close();
    }

    /// Begins a scan in this lane, or in the next one that can have tasks that are due.
    fn enter_lane(&mut self) -> Option<()> {
        while self.priority <= LOWEST_PRIORITY {
            let mut from = Begin { priority: self.priority, ..self.columns.begin(self.queue_id) };
            match self.places.map(|places| places[self.priority as usize]) {
                Some(place) if place > self.now => {
                    self.priority += 1;
                    continue;
                }
                place => from.ready_at = place,
            }
            self.lanes.restart(&from);
            self.is_scanning = true;
            return Some(());
        }
        None
    }

    /// Notes that the scan has reached a row of a lane, or the end of all rows before it.
    fn reach(&mut self, priority: i16, ready_at: i64) {
        if priority != self.priority {
            for lane in self.priority + i16::from(self.has_row)..priority {
                self.seen[lane as usize] = Some(i64::MAX);
            }
            self.go_to(priority);
            self.is_scanning = self.places.is_none() && priority <= LOWEST_PRIORITY;
        }
        if !self.has_row && ready_at != i64::MAX {
            self.seen[priority as usize] = Some(ready_at);
            self.has_row = true;
        }
    }
}
