// Applies events to the rows that a view shows.

/** Applies an event to a row, as the database does; false if the row has it already. */
function applyEvent(row, event) {
  if (event.version <= row.version) return false;
  const [at, error] = [event.changed_at, event.metadata?.error];
  const isTask = event.entity_type === "task_instance";
  // A queued task has no attempt. In 0.2.0 it kept the dates of an earlier one.
  if (isTask && row.state === "queued") Object.assign(row, { start_date: null, end_date: null });
  Object.assign(row, { state: event.new_state, version: event.version });
  if (row.state === "running") {
    Object.assign(row, { start_date: at, end_date: null, error: null, try_number: row.try_number + 1 });
  } else {
    if (row.state === "queued") Object.assign(row, { start_date: null, end_date: null, error: null });
    else if (!isTask) row.end_date = ENDS.has(row.state) ? at : null;
    else if (event.old_state === "running" || (ENDS.has(row.state) && !(row.start_date && row.end_date))) row.end_date = at;
    if (error != null) row.error = typeof error === "string" ? error : JSON.stringify(error);
  }
  return true;
}

/** Deleted runs and tasks: a response that is older than the event can still have them. */
const deletedIds = new Set();
const exists = (row) => !deletedIds.has(row.id);

/** Applies events to rows by id; returns the changed and the deleted rows, and the events of unknown ones. */
function applyEvents(rows, events) {
  const [changed, deleted, unknown] = [new Set(), new Set(), []];
  for (const event of events) {
    const row = rows.get(event.entity_id);
    if (event.new_state === null) {
      deletedIds.add(event.entity_id);
      if (rows.delete(event.entity_id)) deleted.add(row);
    } else if (!row) unknown.push(event);
    else if (applyEvent(row, event)) changed.add(row);
  }
  for (const row of deleted) changed.delete(row);
  return { changed, deleted, unknown };
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
