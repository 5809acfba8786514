//! Without any one of its rules, the design fails.

use crate::check::{assert_fails, holds};
use crate::design::*;
use crate::feed::Feed;
use crate::relay::Relays;
use crate::rules::Rules;

const LOSS: &str = "no event is skipped";
const DISORDER: &str = "order within an entity";
const MISSING: &str = "a window has all that had committed";
const UNDONE: &str = "returned events stay";
const REFUSED: &str = "no position is refused needlessly";
const TWICE: &str = "no entry twice";

macro_rules! fails {
    ($($name:ident: $model:ident($bounds:ident), without $($rule:ident),*: $property:ident;)*) => {
        $(#[test]
        fn $name() {
            let rules = Rules { $($rule: false,)* ..Rules::DESIGN };
            assert_fails($model { bounds: $bounds, rules }, $property);
        })*
    };
}

fails! {
    window_needs_next_transaction_id: Feed(SLOW_CONSUMER), without next_transaction_id: LOSS;
    window_needs_order_of_ids: Feed(CONSUMER), without order_of_ids: DISORDER;
    window_needs_ids_drawn_under_lock: Feed(CONSUMER), without id_under_lock: DISORDER;
    window_needs_fixed_end: Feed(CONSUMER), without fixed_window: LOSS;
    window_must_pass_open_transactions: Feed(CONSUMER), without window_passes_open_transactions: MISSING;
    event_needs_top_level_transaction_id: Feed(SAVEPOINTS), without top_level_transaction_id: LOSS;
    reader_must_count_as_in_progress: Feed(FOLLOWER), without reader_is_in_progress: LOSS;
    acknowledgment_needs_returned_id: Feed(CONSUMER), without returned_id: LOSS;
    returned_id_must_end_with_its_window: Feed(CONSUMER), without returned_id_of_window: LOSS;
    window_must_end_after_all_its_events: Feed(CONSUMER), without whole_window: LOSS;
    acknowledgment_needs_a_look_at_earlier_windows: Feed(CONSUMER), without earlier_windows, returned_id: LOSS;
    events_must_be_durable_before_crash: Feed(CRASH), without durable_events: UNDONE;
    events_must_be_durable_before_promotion: Feed(SYNCHRONOUS), without durable_events: UNDONE;
    position_must_be_durable: Feed(FOLLOWER_AND_CRASH), without durable_position: REFUSED;
    position_needs_lsn: Feed(PREPARED_AND_ASYNCHRONOUS), without position_lsn: LOSS;
    position_needs_lsn_after_snapshot: Feed(PREPARED_AND_ASYNCHRONOUS), without lsn_after_snapshot: LOSS;
    position_needs_lsn_of_its_window: Feed(SYNCHRONOUS), without lsn_of_window: REFUSED;
    position_needs_mark: Feed(COPY), without mark: LOSS;
    position_must_tell_nothing_beyond_mark: Feed(COPY), without bounded_by_mark: LOSS;
    relay_needs_lease_number: Relays(RELAYS), without lease_number: LOSS;
    relay_needs_durable_lease: Relays(RELAYS_AND_CRASH), without durable_lease: LOSS;
    relay_needs_expected_entry: Relays(RELAYS), without expected_entry: TWICE;
    connection_must_end_with_its_destination: Relays(RELAYS), without connection_ends: LOSS;
    relay_must_meet_entries_before_checkpoint: Relays(RELAYS), without checkpoint_when_met: TWICE;
    rewind_must_delete_later_checkpoints: Relays(RELAYS), without rewind_deletes: LOSS;
    rewind_must_be_durable: Relays(REWIND_AND_CRASH), without durable_rewind: LOSS;
}

/// The look at earlier windows then only decides between two answers.
#[test]
fn returned_id_is_enough_for_earlier_windows() {
    let rules = Rules { earlier_windows: false, ..Rules::DESIGN };
    assert!(holds(Feed { bounds: CONSUMER, rules }));
}

/// Only a prepared transaction makes the place in the log necessary.
#[test]
fn mark_is_enough_without_prepared_transactions() {
    let rules = Rules { position_lsn: false, ..Rules::DESIGN };
    assert!(holds(Feed { bounds: ASYNCHRONOUS, rules }));
}

/// The limit of the design: neither the log nor the mark shows that a copy, on the same timeline, still has a prepared
/// transaction which was rolled back before the position was made.
#[test]
fn older_copy_can_skip_prepared_transaction() {
    assert_fails(Feed { bounds: PREPARED_AND_COPY, rules: Rules::DESIGN }, LOSS);
}

/// The order in which a reader takes the numbers of a position matters only twice: the floor comes before
/// next_transaction_id, and the snapshot before the ceiling.
#[test]
fn numbers_can_be_read_in_just_these_orders() {
    use crate::rules::Number::{self, Ceiling, Floor, NextTransactionId, Snapshot};
    let numbers = [Floor, Snapshot, NextTransactionId, Ceiling];
    for code in 0..256 {
        let reads: [Number; 4] = std::array::from_fn(|place| numbers[code >> (2 * place) & 3]);
        let place = |number| reads.iter().position(|other| *other == number);
        let places = numbers.map(place);
        if places.contains(&None) {
            continue;
        }
        let is_right = places[0] < places[2] && places[1] < places[3];
        let model = Feed { bounds: SLOW_CONSUMER, rules: Rules { reads, ..Rules::DESIGN } };
        assert_eq!(holds(model), is_right, "{reads:?}");
    }
}
