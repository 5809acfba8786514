//! Appending the events of a statement to the history, and notifying of them.

use crate::event::Event;
use crate::history::{History, Origin};
use crate::notifications::Notifications;

/// Appends an event for each entity that a statement created, moved or deleted. `event` builds it from its new ID.
pub fn append<'a, T>(entities: impl IntoIterator<Item = T>, origin: Origin, event: impl Fn(i64, T) -> Event<'a>) {
    let history = History::open();
    let (table, owner) = history.table();
    let notifications = Notifications::of_transaction(table, owner);
    for entity in entities {
        let event = event(history.next_id(), entity);
        history.write(&event, origin);
        notifications.send(&event);
    }
    history.close();
}
