// View: the runs of a DAG as a grid.

const COLUMNS = 25;

function gridView(root, dagId) {
  let runs = []; // the oldest first, each with its tasks
  let [older, wanted, filter, explained] = [false, COLUMNS, "", null];
  const rows = new Map(); // runs and tasks by id
  const grid = h(".grid.panel", { role: "grid", "aria-label": "Tasks by run", onkeydown: walk });
  const tip = h(".tip", { hidden: "", "aria-hidden": "true" });
  const none = h("p.soft", "No runs yet. Create one with workflow.create_dag_run().");
  const earlier = button(`← ${COLUMNS} older runs`, () => more().catch(view.failed));
  const box = filterBox("Filter tasks", "", (text) => narrow((filter = text.toLowerCase())));
  grid.addEventListener("focusin", (event) => reach(event.target));
  for (const type of ["mouseover", "focusin"]) grid.addEventListener(type, (event) => explain(event.target.closest("a")));
  for (const type of ["mouseleave", "focusout", "scroll"]) grid.addEventListener(type, () => explain(null));

  /** Fetches a page of runs with their tasks: the newest ones, or those before a date. */
  async function fetchRuns(limit, before, signal) {
    const order = { order_by: "-execution_date", execution_date_lt: before };
    const { items, next_cursor } = await get("dag-runs", { dag_id: dagId, limit, fields: RUN, ...order }, signal);
    return { list: await withTasks(items.reverse(), signal), older: next_cursor !== null };
  }

  const withTasks = (list, signal) =>
    Promise.all(list.map(async (run) => Object.assign(run, { tasks: await tasksOf(run.id, signal) })));

  async function more() {
    const page = await fetchRuns(COLUMNS, runs[0].execution_date, view.signal);
    [runs, older, wanted] = [[...page.list, ...runs], page.older, wanted + COLUMNS];
    keepPosition(build);
    grid.scrollLeft = 0;
  }

  /** Removes deleted runs and tasks from the grid. */
  function remove() {
    runs = runs.filter(exists);
    for (const run of runs) run.tasks = run.tasks.filter(exists);
    explain(null);
    keepPosition(build);
  }

  /** Builds the whole grid: after runs or tasks were added or deleted. A transition changes only its cell. */
  function build() {
    performance.mark("grid");
    rows.clear();
    for (const run of runs) for (const row of [run, ...run.tasks]) rows.set(row.id, row);
    // The tasks of the newest run in their order, then tasks that only older runs have.
    const names = new Set(runs.toReversed().flatMap((run) => run.tasks.map((task) => task.task_id)));
    const byName = runs.map((run) => new Map(run.tasks.map((task) => [task.task_id, task])));
    const everything = new DocumentFragment();
    everything.append(head(), ...[...names].map((name) => line(name, byName)));
    grid.replaceChildren(everything);
    grid.classList.toggle("large", names.size * runs.length > MANY);
    [grid.hidden, none.hidden, earlier.hidden] = [!runs.length, runs.length > 0, !older];
    narrow();
    scale();
    performance.measure("grid", "grid");
  }

  function head() {
    const corner = h("span.corner", { role: "columnheader" }, h("span"), h("span", "0"));
    const columns = runs.map((run, i) => {
      Object.assign(run, { bar: h("span.duration"), mark: h("span.mark") });
      run.link = h("a", { href: `#/runs/${run.id}`, tabindex: -1 }, run.bar, run.mark);
      paint(run);
      // A date is five columns wide.
      const hasDate = (runs.length - 1 - i) % 5 === 0 && (i > 2 || runs.length < 3);
      const date = hasDate && h("span.when", { "aria-hidden": "true" }, minute(run.execution_date).slice(5));
      return h("span", { role: "columnheader" }, run.link, date);
    });
    return h(".row.head", { role: "row" }, corner, columns);
  }

  function line(name, byName) {
    const cells = runs.map((run, i) => {
      const task = byName[i].get(name);
      if (!task) return h("span", { role: "gridcell" });
      task.link = h("a.mark.cell", { href: `#/history/task_instance/${task.id}`, tabindex: -1 });
      paint(task);
      return h("span", { role: "gridcell" }, task.link);
    });
    const header = h("span", { role: "rowheader", title: name }, name);
    return h(".row.task", { role: "row", "data-name": name.toLowerCase() }, header, cells);
  }

  /** Shows the state of a run or a task. */
  function paint(row) {
    for (const element of row.tasks ? [row.bar, row.mark] : [row.link]) element.dataset.state = row.state;
    const date = minute((row.tasks ? row : rows.get(row.dag_run_id)).execution_date);
    const label = row.tasks ? [`run of ${date}`, words(row.state)] : [row.task_id, date, words(row.state)];
    if (row.try_number > 1) label.push(`attempt ${row.try_number}`);
    row.link.setAttribute("aria-label", label.join(", "));
  }

  function narrow() {
    for (const element of grid.querySelectorAll(".task")) element.hidden = !element.dataset.name.includes(filter);
    const isReachable = grid.querySelector(".row:not([hidden]) [tabindex='0']");
    if (!isReachable) reach(grid.querySelector(".task:not([hidden]) :last-child > .cell") ?? grid.querySelector("a"));
  }

  /** Makes one link reachable with Tab. The arrow keys reach the others. */
  function reach(link) {
    for (const other of grid.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    if (link) link.tabIndex = 0;
  }

  /** Scales the bars to the longest run. */
  function scale() {
    const longest = Math.max(1, ...runs.map((run) => elapsed(run) ?? 0));
    grid.style.setProperty("--longest", longest);
    for (const run of runs) run.bar.style.setProperty("--seconds", (elapsed(run) ?? 0).toFixed(1));
    const top = grid.querySelector(".corner span");
    if (top) top.textContent = duration(longest);
  }

  /** Shows the details of a cell beside it. */
  function explain(link) {
    explained = link;
    const row = link && rows.get(link.getAttribute("href").split("/").at(-1));
    tip.hidden = !row;
    if (!row) return;
    const run = row.tasks ? null : rows.get(row.dag_run_id);
    const which = run && h(".soft", `run of ${minute(run.execution_date)}, attempt ${row.try_number} of ${row.max_tries}`);
    const time = row.start_date ? `${stamp(row.start_date)}, ${duration(elapsed(row))}` : "not started";
    const name = h("b", row.task_id ?? minute(row.execution_date));
    tip.replaceChildren(name, h("div", stateOf(row.state)), which ?? "", h(".soft", time));
    const { left, bottom, top } = link.getBoundingClientRect();
    const fitsBelow = bottom + 8 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${fitsBelow ? bottom + 6 : top - 6 - tip.offsetHeight}px`;
  }

  /** Handles arrow keys, Home, End, Page Up and Down, and Ctrl with Home and End. They skip cells without a task. */
  function walk(event) {
    const shown = [...grid.children].filter((element) => !element.hidden);
    const links = shown.map((element) => [...element.children].slice(1).map((item) => item.querySelector("a")));
    const y = links.findIndex((row) => row.includes(event.target));
    if (y < 0 || event.altKey || event.metaKey) return;
    const x = links[y].indexOf(event.target);
    const [bottom, right] = [links.length - 1, runs.length - 1];
    // The target, and the direction in which to skip empty cells.
    const steps = {
      ArrowLeft: [y, x - 1, 0, -1],
      ArrowRight: [y, x + 1, 0, 1],
      ArrowUp: [y - 1, x, -1, 0],
      ArrowDown: [y + 1, x, 1, 0],
      PageUp: [Math.max(0, y - 10), x, 1, 0],
      PageDown: [Math.min(bottom, y + 10), x, -1, 0],
      Home: [event.ctrlKey ? 0 : y, 0, 0, 1],
      End: [event.ctrlKey ? bottom : y, right, 0, -1],
    };
    if (!steps[event.key]) return;
    event.preventDefault();
    let [toY, toX, dy, dx] = steps[event.key];
    while (links[toY]?.[toX] === null) [toY, toX] = [toY + dy, toX + dx];
    const next = links[toY]?.[toX];
    next?.focus();
  }

  const view = {
    filter: () => ({ dag_id: dagId }),
    async load(signal) {
      const newest = fetchRuns(Math.min(wanted, 1000), null, signal);
      const [dag, page] = await Promise.all([get(`dags/${dagId}`, {}, signal), newest]);
      return () => {
        [runs, older] = [page.list, page.older];
        dagNames.set(dag.id, dag.name);
        crumbs([dag.name, `#/dags/${dagId}`]);
        build();
        if (grid.isConnected) return;
        const about = [h("span.mono", dag.schedule ?? ""), dag.is_paused && tag("paused"), h("span", dag.tags.map(tag))];
        const description = h("p.soft", dag.description ?? "");
        root.replaceChildren(heading(dag.name, about), description, h(".bar", earlier, box, legend()), grid, none, tip);
        grid.scrollLeft = grid.scrollWidth;
      };
    },
    apply(events, isLast) {
      const { changed, deleted, unknown } = applyEvents(rows, events);
      if (deleted.size) remove();
      else changed.forEach(paint);
      if ([...changed].some((row) => row.link === explained)) explain(explained);
      if ([...changed].some((row) => row.tasks)) scale();
      if (!isLast) handleUnknown(unknown);
    },
    tick: () => runs.some((run) => run.start_date && !run.end_date) && scale(),
  };
  const handleUnknown = fetchUnknown(view, async (events, signal) => {
    const ids = [...new Set(events.map((event) => event.dag_run_id))];
    const found = await Promise.all(ids.map((id) => rows.get(id) ?? get(`dag-runs/${id}`, {}, signal).catch(nullIfGone)));
    // The button loads runs before the oldest one shown.
    const isShown = (run) => rows.has(run.id) || runs.length < wanted || run.execution_date > runs[0].execution_date;
    const ours = found.filter((run) => run && isShown(run)).map((run) => ({ ...run }));
    if (!ours.length) return;
    for (const run of (await withTasks(ours, signal)).filter(exists)) {
      const tasks = run.tasks.filter(exists).map((task) => newer(task, rows.get(task.id)));
      const kept = Object.assign(newer(run, rows.get(run.id)), { tasks });
      runs = [...runs.filter((other) => other.id !== run.id), kept];
    }
    runs.sort((a, b) => Date.parse(a.execution_date) - Date.parse(b.execution_date));
    if (runs.length > wanted) [runs, older] = [runs.slice(-wanted), true];
    keepPosition(build);
  });
  return view;
}
