//! The whole design holds, in each of these worlds.

use crate::check::assert_holds;
use crate::feed::{Bounds, Feed};
use crate::relay::{self, Relays};
use crate::rules::Rules;
use crate::writers::Writers;

const NO_WRITERS: Writers =
    Writers { transactions: 0, events: 0, entities: 0, rollbacks: 0, savepoints: 0, prepared: 0, hasty: 0 };

const NOTHING: Bounds = Bounds {
    writers: NO_WRITERS,
    windows: 0,
    follower_windows: 0,
    reads_parts: false,
    reads_in_transactions: false,
    reads_slowly: false,
    crashes: 0,
    promotions: 0,
    has_synchronous_standby: false,
    copies: 0,
};

/// Transactions overtake each other between the reads of a position's numbers.
pub const SLOW_CONSUMER: Bounds = Bounds {
    writers: Writers { transactions: 2, events: 3, entities: 2, rollbacks: 1, ..NO_WRITERS },
    windows: 2,
    reads_slowly: true,
    ..NOTHING
};

/// A consumer reads and acknowledges in parts, and acknowledges whatever it likes.
pub const CONSUMER: Bounds = Bounds {
    writers: Writers { transactions: 3, events: 3, entities: 2, ..NO_WRITERS },
    windows: 2,
    reads_parts: true,
    ..NOTHING
};

/// Subtransactions and prepared transactions.
pub const SAVEPOINTS: Bounds = Bounds {
    writers: Writers {
        transactions: 2,
        events: 3,
        entities: 2,
        rollbacks: 1,
        savepoints: 2,
        prepared: 1,
        ..NO_WRITERS
    },
    windows: 2,
    ..NOTHING
};

/// A follower reads, also within transactions that write.
pub const FOLLOWER: Bounds = Bounds {
    writers: Writers { transactions: 2, events: 3, entities: 2, rollbacks: 1, ..NO_WRITERS },
    follower_windows: 3,
    reads_parts: true,
    reads_in_transactions: true,
    ..NOTHING
};

/// The server crashes, and commits that did not wait for the disk are lost; prepared transactions are not.
pub const CRASH: Bounds = Bounds {
    writers: Writers { transactions: 2, events: 2, entities: 1, rollbacks: 1, prepared: 1, hasty: 1, ..NO_WRITERS },
    windows: 2,
    reads_parts: true,
    crashes: 1,
    ..NOTHING
};

/// The same for a follower.
pub const FOLLOWER_AND_CRASH: Bounds = Bounds { windows: 0, follower_windows: 2, ..CRASH };

/// A synchronous standby is promoted.
pub const SYNCHRONOUS: Bounds = Bounds {
    writers: Writers { transactions: 3, events: 3, entities: 1, hasty: 1, ..NO_WRITERS },
    follower_windows: 2,
    reads_parts: true,
    promotions: 1,
    has_synchronous_standby: true,
    ..NOTHING
};

/// The same for a consumer.
pub const CONSUMER_AND_SYNCHRONOUS: Bounds =
    Bounds { windows: 2, follower_windows: 0, reads_parts: false, ..SYNCHRONOUS };

/// Asynchronous standbys are promoted, one after the other.
pub const ASYNCHRONOUS: Bounds = Bounds {
    writers: Writers { transactions: 3, events: 3, entities: 1, ..NO_WRITERS },
    follower_windows: 2,
    promotions: 2,
    ..NOTHING
};

/// The same for a consumer, which goes back with its database.
pub const CONSUMER_AND_ASYNCHRONOUS: Bounds =
    Bounds { writers: CRASH.writers, windows: 2, follower_windows: 0, ..ASYNCHRONOUS };

/// A prepared transaction is rolled back, and an asynchronous standby does not know of it.
pub const PREPARED_AND_ASYNCHRONOUS: Bounds = Bounds {
    writers: Writers { transactions: 2, events: 2, entities: 2, rollbacks: 1, prepared: 1, ..NO_WRITERS },
    reads_slowly: true,
    promotions: 1,
    ..ASYNCHRONOUS
};

/// An operator starts an older copy of the cluster's files, on the same timeline.
pub const COPY: Bounds = Bounds {
    writers: Writers { transactions: 3, events: 3, entities: 1, rollbacks: 1, ..NO_WRITERS },
    follower_windows: 2,
    copies: 1,
    ..NOTHING
};

/// The same with a prepared transaction.
pub const PREPARED_AND_COPY: Bounds = Bounds { writers: PREPARED_AND_ASYNCHRONOUS.writers, ..COPY };

/// Two relays.
pub const RELAYS: relay::Bounds = relay::Bounds {
    writers: Writers { transactions: 2, events: 2, entities: 2, ..NO_WRITERS },
    leases: 2,
    windows: 3,
    checkpoints: 1,
    losses: 1,
    crashes: 0,
    reads_parts: true,
};

/// Two relays, and the server crashes.
pub const RELAYS_AND_CRASH: relay::Bounds = relay::Bounds {
    writers: Writers { transactions: 1, entities: 1, ..RELAYS.writers },
    windows: 2,
    crashes: 1,
    ..RELAYS
};

/// A relay goes back to its checkpoints, while a transaction commits late and the server crashes.
pub const REWIND_AND_CRASH: relay::Bounds = relay::Bounds { leases: 1, crashes: 1, ..RELAYS };

macro_rules! holds {
    ($($name:ident: $model:ident($bounds:ident);)*) => {
        $(#[test]
        fn $name() {
            assert_holds($model { bounds: $bounds, rules: Rules::DESIGN });
        })*
    };
}

holds! {
    consumer_gets_all_whenever_numbers_are_read: Feed(SLOW_CONSUMER);
    consumer_gets_all_in_parts: Feed(CONSUMER);
    consumer_gets_all_of_savepoints_and_prepared_transactions: Feed(SAVEPOINTS);
    follower_gets_all: Feed(FOLLOWER);
    consumer_gets_all_after_crashes: Feed(CRASH);
    follower_gets_all_after_crashes: Feed(FOLLOWER_AND_CRASH);
    consumer_gets_all_after_synchronous_promotion: Feed(CONSUMER_AND_SYNCHRONOUS);
    follower_gets_all_after_synchronous_promotion: Feed(SYNCHRONOUS);
    consumer_gets_all_after_asynchronous_promotions: Feed(CONSUMER_AND_ASYNCHRONOUS);
    follower_gets_all_or_is_told_after_asynchronous_promotions: Feed(ASYNCHRONOUS);
    follower_gets_all_or_is_told_of_prepared_transactions: Feed(PREPARED_AND_ASYNCHRONOUS);
    follower_gets_all_or_is_told_after_older_copy: Feed(COPY);
    relays_write_all: Relays(RELAYS);
    relays_write_all_after_crash: Relays(RELAYS_AND_CRASH);
    relay_writes_all_after_rewind_and_crash: Relays(REWIND_AND_CRASH);
}
