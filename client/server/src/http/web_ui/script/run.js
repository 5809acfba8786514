// View: a run and the timeline of its tasks.

/** Possible distances between two lines of the time axis, in seconds. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

function runView(root, runId) {
  let [run, tasks, rows] = [null, [], new Map()];
  let [origin, only, filter] = [null, null, ""];
  const facts = h("dl.panel");
  const list = h("div", { role: "rowgroup" });
  const axis = h("span.track", { role: "columnheader", "aria-label": "Timeline" });
  const heads = [["Task"], ["State"], ["Attempt", ".number"], ["Duration", ".number"]];
  const columns = heads.map(([text, classes = ""]) => h(`span${classes}`, { role: "columnheader" }, text));
  const head = h("div", { role: "rowgroup" }, h(".row.head", { role: "row" }, columns, axis));
  const timeline = h(".timeline.panel", { role: "table", "aria-label": "Tasks" }, head, list);
  const box = filterBox("Filter tasks", "", (text) => narrow((filter = text.toLowerCase())));
  const counters = new Map(STATES.map((state) => [state, h("button", { type: "button" }, stateOf(state), h("b"))]));
  const chips = h(".chips", { role: "group", "aria-label": "Filter by state" }, [...counters.values()]);
  for (const [state, counter] of counters) {
    counter.onclick = () => {
      only = only === state ? null : state;
      narrow();
    };
  }

  function describe() {
    const time = elapsed(run);
    facts.replaceChildren(
      fact("State", stateOf(run.state)),
      fact("Duration", time === null ? MINUS : duration(time)),
      fact("Started", at(run.start_date)),
      fact("Finished", at(run.end_date)),
      fact("Created", at(run.created_at)),
      fact("Version", String(run.version)),
      Object.keys(run.conf).length ? fact("Conf", json(run.conf)) : "",
    );
  }

  /** Updates the counts by state, and shows the tasks that pass the filters. */
  function narrow() {
    for (const [state, counter] of counters) {
      const count = tasks.filter((task) => task.state === state).length;
      counter.hidden = !count && only !== state;
      counter.querySelector("b").textContent = count;
      counter.setAttribute("aria-pressed", only === state);
    }
    for (const { line, task_id, state } of tasks) {
      line.hidden = !task_id.toLowerCase().includes(filter) || (only !== null && state !== only);
    }
  }

  function line(task) {
    const [state, bar] = [h("span", { role: "cell" }), h("i")];
    const [tries, time] = [h("span.number.soft", { role: "cell" }), h("span.number", { role: "cell" })];
    const link = h("a", { href: `#/history/task_instance/${task.id}` }, task.task_id);
    const name = h("span", { role: "cell", title: task.task_id }, link);
    const element = h(".row.task", { role: "row" }, name, state, tries, time, h("span.track", { role: "cell" }, bar));
    Object.assign(task, { parts: { state, tries, time, bar }, line: element });
    paint(task);
    return element;
  }

  function paint(task) {
    const { state, tries, time, bar } = task.parts;
    state.replaceChildren(stateOf(task.state));
    tries.textContent = task.try_number ? `${task.try_number}/${task.max_tries}` : "";
    tries.title = `attempt ${task.try_number} of ${task.max_tries}`;
    bar.hidden = !task.start_date;
    time.textContent = task.start_date ? duration(elapsed(task)) : "";
    if (!task.start_date) return;
    const since = (date) => (Date.parse(date) / 1000 - origin).toFixed(2);
    bar.dataset.state = task.state;
    bar.style.setProperty("--from", since(task.start_date));
    bar.style.setProperty("--to", task.end_date ? since(task.end_date) : "var(--now)");
  }

  /** Scales the time axis. The bars are in seconds; one variable scales them all. */
  function scale() {
    const started = [run, ...tasks].filter((row) => row.start_date);
    const now = Date.now() / 1000;
    const first = Math.min(now, ...started.map((row) => Date.parse(row.start_date) / 1000));
    const end = Math.max(...started.map((row) => (row.end_date ? Date.parse(row.end_date) / 1000 : now)));
    const span = Math.max(1, end - first);
    const step = STEPS.find((size) => span / size <= 6) ?? Math.ceil(span / 6 / 86400) * 86400;
    const numbers = { "--now": now - first, "--span": span, "--step": step };
    for (const [name, value] of Object.entries(numbers)) timeline.style.setProperty(name, value.toFixed(2));
    const marks = Array.from({ length: Math.ceil(span / step - 0.4) || 1 }, (_, i) => i * step);
    axis.replaceChildren(...marks.map((mark) => {
      const label = h("span", mark ? duration(mark).replace(/ 00 (s|min)$/, "") : "0");
      label.style.setProperty("--at", mark);
      return label;
    }));
    if (first === origin) return;
    origin = first;
    tasks.forEach(paint);
  }

  /** Replaces the view of a run that was deleted. */
  function remove() {
    run = null;
    const toHistory = h("a", { href: `#/history/dag_run/${runId}` }, "History");
    root.replaceChildren(heading("Deleted run", toHistory), h("p.soft", "This run was deleted, with its tasks."));
  }

  function show(fetched, joins) {
    tasks = fetched.filter(exists).map((task) => newer(task, rows.get(task.id)));
    rows = new Map([run, ...tasks].map((row) => [row.id, row]));
    list.replaceChildren(...tasks.map(line));
    timeline.classList.toggle("large", tasks.length * heads.length > MANY);
    narrow();
    scale();
    graph.show(tasks, joins);
  }

  const fetchTasks = (signal) => Promise.all([tasksOf(runId, signal), joinsOf(runId, signal)]);

  const view = {
    filter: () => ({ dag_run_id: runId }),
    async load(signal) {
      const whole = Promise.all([get(`dag-runs/${runId}`, {}, signal), fetchTasks(signal)]);
      const [found, [fetched, joins]] = await whole;
      const name = await dagName(found.dag_id, signal);
      return () => {
        run = found;
        const title = minute(run.execution_date);
        crumbs([name, `#/dags/${run.dag_id}`], [title, `#/runs/${runId}`]);
        describe();
        show(fetched, joins);
        if (timeline.isConnected) return;
        const toGrid = h("a", { href: `#/dags/${run.dag_id}` }, "Grid");
        const toHistory = h("a", { href: `#/history/dag_run/${runId}` }, "History");
        root.replaceChildren(heading(`Run of ${title}`, toGrid, toHistory, box), facts, chips, graph.element, timeline);
        graph.scroll();
      };
    },
    apply(events, isLast) {
      const { changed, deleted, unknown } = applyEvents(rows, events);
      if (!run || deleted.has(run)) return remove();
      for (const task of deleted) task.line.remove();
      tasks = tasks.filter(exists);
      if (deleted.size) {
        narrow();
        graph.show(tasks);
      }
      if (changed.delete(run)) describe();
      changed.forEach(paint);
      graph.paint(changed);
      if (changed.size) narrow();
      if (!isLast) handleUnknown(unknown);
    },
    tick() {
      if (!run) return;
      const going = tasks.filter((task) => task.start_date && !task.end_date);
      for (const task of going) task.parts.time.textContent = duration(elapsed(task));
      if (going.length || !run.end_date) scale();
      if (run.start_date && !run.end_date) describe();
    },
  };
  const handleUnknown = fetchUnknown(view, async (_, signal) => {
    const [fetched, joins] = await fetchTasks(signal);
    if (run) keepPosition(() => show(fetched, joins));
  });
  const graph = graphPanel(view);
  return view;
}
