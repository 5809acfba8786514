// Applies events to the rows that a view shows.

/** Applies an event to a row, as the database does; false if the row has it already. */
function applyEvent(row, event) {
  if (event.version <= row.version) return false;
  Object.assign(row, { state: event.new_state, version: event.version });
  if (row.state === "running") {
    Object.assign(row, { start_date: event.changed_at, end_date: null, error: null, try_number: row.try_number + 1 });
  } else {
    if (ENDS.has(row.state)) row.end_date = event.changed_at;
    if (event.metadata?.error !== undefined) row.error = String(event.metadata.error);
  }
  return true;
}

/** Applies events to rows by id; returns the changed rows and the events of unknown ones. */
function applyEvents(rows, events) {
  const [changed, unknown] = [new Set(), []];
  for (const event of events) {
    const row = rows.get(event.entity_id);
    if (!row) unknown.push(event);
    else if (applyEvent(row, event)) changed.add(row);
  }
  return { changed, unknown };
}

/** Returns the newer of a fetched and a known row: events might have changed the known one meanwhile. */
const newer = (fetched, known) => (known?.version >= fetched.version ? known : fetched);

/** Handles events of unknown rows: collects them briefly, fetches their rows together, then applies them. */
function fetchUnknown(view, fetchRows) {
  let [waiting, busy] = [[], false];
  const work = async () => {
    const { signal } = view;
    while (waiting.length) {
      await pause(200);
      signal.throwIfAborted();
      const events = waiting.splice(0);
      await fetchRows(events, signal);
      // Rows that are still unknown are not part of this view, or were deleted.
      view.apply(events, true);
    }
  };
  return (events) => {
    waiting.push(...events);
    if (busy || !waiting.length) return;
    busy = true;
    work().catch(view.failed).finally(() => ([waiting, busy] = [[], false]));
  };
}
