// View: the queues, with how many tasks wait and run.

/** An id of no run: its stream has no event, and tells only whether the server is there. */
const NO_RUN = "00000000-0000-0000-0000-000000000000";
/** Milliseconds between two counts. Counting takes at most a tenth of the time. */
const RECOUNT = 5_000;

function queuesView(root) {
  let nextCount = Infinity;
  const body = h("tbody", { role: "rowgroup" });
  const none = h("p.soft", "No queues yet. Create tasks with a queue, or call workflow.enqueue_task_instances().");

  /** "no end" for infinity, which the API returns as the last year. */
  const pausedUntil = (time) => (time?.startsWith("9999") ? "no end" : at(time));

  function line(queue) {
    const isPaused = queue.paused_until && seconds(queue.paused_until) < 0;
    const name = cell(null, h("span.name", queue.name), queue.tenant && [" ", h("span.soft", queue.tenant)],
      isPaused && [" ", tag("paused")]);
    const slots = cell("Slots", queue.slots === null ? MINUS : String(queue.slots));
    const oldest = queue.oldest_ready_at ? duration(seconds(queue.oldest_ready_at)) : MINUS;
    const refused = queue.refused === null ? MINUS : String(queue.refused);
    const counts = [["Ready", queue.ready], ["Later", queue.later], ["Parked", queue.parked], ["Running", queue.running]];
    const cells = counts.map(([head, count]) => cell(head, String(count)));
    return h("tr", { role: "row" }, name, cells, slots, cell("Oldest waits", oldest), cell("Refused", refused),
      cell("Paused until", isPaused ? pausedUntil(queue.paused_until) : MINUS));
  }

  async function count(signal) {
    nextCount = Infinity;
    const began = Date.now();
    const queues = await all("queues", {}, signal);
    return () => {
      nextCount = Date.now() + Math.max(RECOUNT, 10 * (Date.now() - began));
      body.replaceChildren(...queues.map(line));
      none.hidden = queues.length > 0;
    };
  }

  crumbs(["Queues", "#/queues"]);
  const view = {
    filter: () => ({ dag_run_id: NO_RUN }),
    async load(signal) {
      const draw = await count(signal);
      return () => {
        draw();
        if (body.isConnected) return;
        const heads = ["Queue", "Ready", "Later", "Parked", "Running", "Slots", "Oldest waits", "Refused", "Paused until"];
        root.replaceChildren(heading("Queues"), h(".panel", table("Queues", heads, body)), none);
      };
    },
    apply() {},
    tick() {
      if (Date.now() < nextCount || view.signal.aborted) return;
      count(view.signal).then((draw) => keepPosition(draw)).catch(view.failed);
    },
  };
  return view;
}
