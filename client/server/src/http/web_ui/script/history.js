// View: the history of a run or a task, and the claim and the log of a task.

const LINES = 200;
/** Seconds between two looks at a claim: no event tells of renewals and of requests to stop. */
const RENEWAL = 5;
const TROUBLE = new Set(["failed", "retrying", "upstream_failed"]);

function historyView(root, type, id) {
  const isTask = type === "task_instance";
  const entity = { entity_type: type, entity_id: id };
  let [events, cursor] = [[], null]; // the newest first
  let [newestLine, olderLines] = [0, null];
  let [isRunDeleted, ticks] = [false, 0];
  const now = h("span");
  const failure = h(".problem", { hidden: "" });
  const claim = h("dl.panel", { "aria-label": "Claim", hidden: "" });
  const body = h("tbody", { role: "rowgroup" });
  const moreEvents = button("Older events", () => page().catch(view.failed));
  const log = h(".log.panel", { role: "log", "aria-label": "Log", tabindex: 0 });
  const noLog = h("p.soft", "No log lines yet.");
  const moreLines = button("Older lines", () => lines(olderLines).catch(view.failed));

  async function page() {
    const { items, next_cursor } = await get("history", { ...entity, cursor }, view.signal);
    [events, cursor] = [[...events, ...items], next_cursor];
    draw();
  }

  function draw() {
    body.replaceChildren(...events.map((event, i) => {
      const before = events[i + 1];
      const after = before && h(".soft", `after ${duration(seconds(before.changed_at, event.changed_at))}`);
      const from = event.old_state && [stateOf(event.old_state), h("span.arrow", "→")];
      const metadata = Object.keys(event.metadata ?? {}).length ? json(event.metadata) : null;
      return h("tr", { role: "row" }, cell(null, at(event.changed_at), after),
        cell(null, from, stateOf(event.new_state), !from && h(".soft", "created")),
        cell("version", String(event.version)), cell("actor", event.actor ?? MINUS), cell(null, metadata));
    }));
    moreEvents.hidden = !cursor;
    // A task is deleted with its run, which alone has an event.
    now.replaceChildren(stateOf(isRunDeleted ? null : events[0].new_state));
    const error = events.find((event) => event.metadata?.error !== undefined)?.metadata.error;
    failure.hidden = error === undefined || !TROUBLE.has(events[0].new_state);
    failure.textContent = `Error: ${typeof error === "string" ? error : JSON.stringify(error)}`;
  }

  /** Fetches the newest lines, or those before a cursor. Logs are not in the event feed. */
  async function lines(before) {
    const wanted = { order_by: "-id", limit: LINES, cursor: before };
    const page = await get(`task-instances/${id}/logs`, wanted, view.signal).catch(nullIfGone);
    if (!page) return;
    if (before || !newestLine) olderLines = page.next_cursor;
    const fresh = page.items.filter((line) => before || line.id > newestLine).reverse();
    newestLine = Math.max(newestLine, ...fresh.map((line) => line.id));
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 20;
    const elements = fresh.map((line) => h("div", { "data-level": line.level }, at(line.logged_at), h("b", line.level),
      h("span.soft", { title: "attempt" }, `#${line.try_number}`), h("pre", line.message)));
    log[before ? "prepend" : "append"](...elements);
    [log.hidden, noLog.hidden, moreLines.hidden] = [!newestLine, newestLine > 0, !olderLines];
    if (isAtEnd && !before) log.scrollTop = log.scrollHeight;
  }

  /** Shows who holds the task. */
  async function holder() {
    const isRunning = events[0].new_state === "running";
    const page = isRunning && (await get("claims", { id }, view.signal).catch(nullIfGone));
    const held = page && page.items[0];
    claim.hidden = !held;
    if (!held) return;
    claim.replaceChildren(
      fact("Worker", held.worker),
      fact("Queue", held.queue ?? MINUS),
      fact("Claimed", at(held.claimed_at)),
      fact("Lease expires", at(held.lease_expires_at)),
      held.times_out_at ? fact("Times out", at(held.times_out_at)) : "",
      held.cancel_requested_at ? fact("Cancel requested", at(held.cancel_requested_at)) : "",
    );
  }

  /** Fetches all that has no event. */
  function fetchRest() {
    lines(null).catch(view.failed);
    holder().catch(view.failed);
  }

  const view = {
    // The history has the run of an entity even if the entity was deleted.
    async filter(signal) {
      const { items } = await get("history", { ...entity, limit: 1 }, signal);
      if (!items.length) throw new Problem(404, `no history of ${isTask ? "task" : "run"} ${id}`);
      view.of = items[0];
      return { dag_run_id: view.of.dag_run_id };
    },
    async load(signal) {
      const { dag_id, dag_run_id, task_id } = view.of;
      const run = get(`dag-runs/${dag_run_id}`, {}, signal).catch(nullIfGone);
      const name = dagName(dag_id, signal).catch(nullIfGone);
      const first = await get("history", entity, signal);
      const [dag, date] = [(await name) ?? "deleted DAG", (await run)?.execution_date];
      return () => {
        [events, cursor, isRunDeleted] = [first.items, first.next_cursor, !date];
        draw();
        const title = date ? minute(date) : "deleted run";
        crumbs([dag, `#/dags/${dag_id}`], [title, `#/runs/${dag_run_id}`], [isTask ? task_id : "history", location.hash]);
        if (isTask) fetchRest();
        if (body.isConnected) return;
        const list = table("Transitions", ["Time", "Transition", "Version", "Actor", "Metadata"], body);
        const head = heading(isTask ? task_id : `Run of ${title}`, now);
        root.replaceChildren(head, failure, claim, h("h2", "Transitions"), h(".panel", list), moreEvents);
        if (isTask) root.append(h("h2", "Log"), noLog, log, moreLines);
      };
    },
    apply(received) {
      const known = events[0].version;
      const newer = received.filter((event) => event.entity_id === id && event.version > known);
      for (const event of newer) if (event.version > events[0].version) events.unshift(event);
      const isDeletion = (event) => event.entity_id === view.of.dag_run_id && event.new_state === null;
      isRunDeleted ||= received.some(isDeletion);
      if (!newer.length && !isRunDeleted) return;
      draw();
      if (isTask) fetchRest();
    },
    tick() {
      if (!isTask || events[0]?.new_state !== "running" || view.signal.aborted) return;
      if (++ticks % RENEWAL === 0) fetchRest();
      else lines(null).catch(view.failed);
    },
  };
  return view;
}
