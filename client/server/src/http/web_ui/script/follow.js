// Shows a view and follows its events, through interruptions.

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Milliseconds from the response to the first message of a stream. */
const START_LIMIT = 4_000;
const MAX_PAUSE = 10_000;

/**
 * Shows a view and keeps it up to date until `signal`. After an interruption it resumes after the last event, or reloads
 * if it has none.
 */
async function follow(view, signal) {
  let failures = 0;
  Object.assign(view, { lastId: null, shown: false });
  // If a later request of a view fails, the view starts over.
  view.failed = (problem) => {
    view.lastId = null;
    view.attempt.abort(problem);
  };
  while (!signal.aborted) {
    view.attempt = new AbortController();
    view.signal = AbortSignal.any([signal, view.attempt.signal]);
    const queue = new EventQueue((events) => view.apply(events));
    try {
      await connect(view, queue, () => (failures = 0));
    } catch (error) {
      if (signal.aborted) return;
      const reasons = [error, view.attempt.signal.reason].filter((reason) => reason instanceof Problem);
      const problem = reasons[0] ?? new Problem(null, error.message);
      if (problem.status === null) console.error(error);
      // The last event is no basis to resume from unless all rows before it were loaded.
      if (!queue.isOpen || (problem.status >= 400 && problem.status < 500)) view.lastId = null;
      queue.close();
      view.attempt.abort();
      if (problem.status === 401) await askForToken();
      else await showProblem(view, problem, ++failures, signal);
    }
  }
}

/** Opens the stream, loads the rows, then applies the events: in this order, so that no event is missed. */
async function connect(view, queue, succeeded) {
  const resumed = view.lastId !== null;
  const filter = await view.filter(view.signal);
  const response = await request("events", filter, view.signal, resumed ? { "Last-Event-ID": view.lastId } : {});
  let begin;
  const begun = new Promise((resolve) => (begin = resolve));
  const reading = read(response.body, view.attempt, (id, event) => {
    view.lastId = id ?? view.lastId;
    if (event) queue.add(event);
    begin();
  });
  const late = pause(START_LIMIT).then(() => {
    throw new Problem(503, "event stream unavailable; see /health");
  });
  // The server responds before it follows the feed. Its first message shows that it does.
  const loading = begun.then(() => !resumed && view.load(view.signal));
  // Only the first failure is handled.
  for (const one of [reading, late, loading]) one.catch(() => {});
  await Promise.race([begun, late, reading]);
  const show = await Promise.race([loading, reading]);
  if (show) display(view, show);
  queue.open();
  succeeded();
  showStatus("live");
  await reading;
}

function display(view, show) {
  keepPosition(show, view.shown ? currentPosition() : positions.get(location.hash) ?? currentPosition());
  // After a link was followed, the focus is on the heading of the new view.
  const isNew = !view.shown && view.navigated && !$("view").contains(document.activeElement);
  if (isNew) $("view").querySelector("h1")?.focus({ preventScroll: true });
  view.shown = true;
}

/** Shows a problem and waits before the next attempt. */
async function showProblem(view, problem, failures, signal) {
  // Without a stream (for example, all slots are in use) the current rows are still useful.
  if (!view.shown && problem.status >= 500) await view.load(signal).then((show) => display(view, show)).catch(() => {});
  if (!view.shown) view.root.replaceChildren(h("p", h("a", { href: "#/dags" }, "All DAGs")));
  const hopeless = !view.shown && problem.status >= 400 && problem.status < 500;
  showStatus(hopeless ? "not available" : "reconnecting");
  // A restart of the server is too short for a message.
  if (!view.shown || failures > 3 || problem.status === null) {
    const rest = [view.shown && "Showing the last known state.", !hopeless && "Retrying."].filter(Boolean);
    $("problem").firstChild.textContent = [problem.words, ...rest].join(" ");
    $("problem").hidden = false;
  }
  // 25 % jitter: not all pages reconnect to a restarted server at once.
  const delay = Math.min(MAX_PAUSE, 250 * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
  const requested = new Promise((resolve) => (tryNow = resolve));
  const left = new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  await Promise.race([requested, left, ...(hopeless ? [] : [pause(delay)])]);
}
