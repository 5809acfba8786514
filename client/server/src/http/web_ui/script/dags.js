// View: all DAGs.

const RECENT = 14;
const DAG = "id,name,schedule,tags,is_paused";

function dagsView(root, query) {
  let prefix = new URLSearchParams(query).get("prefix") ?? "";
  let [cursor, typed] = [null, 0];
  const rows = new Map(); // DAGs by id, with the elements that show them
  const runs = new Map();
  const body = h("tbody", { role: "rowgroup" });
  const none = h("p.soft");
  const more = button("More", () => page(cursor, view.signal).then(add).catch(view.failed));
  const box = filterBox("Filter by name", prefix, async (text) => {
    prefix = text;
    shownHash = text ? `#/dags?prefix=${encodeURIComponent(text)}` : "#/dags";
    history.replaceState(null, "", shownHash);
    const mine = ++typed;
    await pause(150);
    if (mine === typed) view.load(view.signal).then((show) => mine === typed && show()).catch(view.failed);
  });

  // The runs of each DAG are a separate request, sent only for DAGs in sight.
  const sight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      recent(target.dataset.dag).catch(view.failed);
    }
  }, { rootMargin: "200px" });

  const page = (after, signal) => get("dags", { name_prefix: prefix, order_by: "name", fields: DAG, cursor: after }, signal);

  async function recent(id) {
    const { items } = await get("dag-runs", { dag_id: id, limit: RECENT, fields: RUN }, view.signal);
    const isDeleted = !items.length && !(await get(`dags/${id}`, {}, view.signal).catch(nullIfGone));
    const row = rows.get(id);
    if (!row) return;
    if (isDeleted) {
      row.line.remove();
      rows.delete(id);
      return;
    }
    row.runs = items.reverse().filter(exists).map((fetched) => {
      const run = newer(fetched, runs.get(fetched.id));
      run.mark ??= h("a.mark", { href: `#/runs/${run.id}` });
      runs.set(run.id, run);
      paint(run);
      return run;
    });
    row.squares.replaceChildren(...row.runs.map((run) => run.mark));
    showLast(row);
  }

  function paint(run) {
    const date = minute(run.execution_date);
    run.mark.dataset.state = run.state;
    run.mark.title = `${date}: ${words(run.state)}`;
    run.mark.setAttribute("aria-label", `run of ${date}, ${words(run.state)}`);
  }

  function showLast(row) {
    const run = row.runs.at(-1);
    row.last.replaceChildren(...(run ? [at(run.execution_date, minute), " ", h("span.soft", words(run.state))] : [MINUS]));
  }

  function add({ items, next_cursor }) {
    for (const dag of items) {
      dagNames.set(dag.id, dag.name);
      const row = { squares: h(".recent"), last: cell("Last run"), runs: [] };
      const name = cell(null, h("a.name", { href: `#/dags/${dag.id}` }, dag.name), dag.is_paused && [" ", tag("paused")]);
      const schedule = cell("Schedule", h("span.mono", dag.schedule ?? MINUS));
      const cells = [name, schedule, cell(null, dag.tags.map(tag)), cell(null, row.squares), row.last];
      row.line = h("tr", { role: "row", "data-dag": dag.id }, cells);
      rows.set(dag.id, row);
      body.append(row.line);
      sight.observe(row.line);
    }
    cursor = next_cursor;
    more.hidden = !cursor;
    none.hidden = rows.size > 0;
    const nothing = "No DAGs yet. Create one with workflow.create_dag().";
    none.textContent = prefix ? `No DAG name starts with “${prefix}”.` : nothing;
  }

  crumbs();
  const view = {
    filter: () => ({}),
    async load(signal) {
      const first = await page(null, signal);
      return () => {
        for (const known of [rows, runs]) known.clear();
        body.replaceChildren();
        add(first);
        if (box.isConnected) return;
        const list = table("DAGs", ["Name", "Schedule", "Tags", "Recent runs", "Last run"], body);
        const toQueues = h("a", { href: "#/queues" }, "Queues");
        root.replaceChildren(heading("DAGs", toQueues, box), h(".panel", list), none, h(".bar", more, legend()));
      };
    },
    apply(events, isLast) {
      const ours = events.filter((event) => event.entity_type === "dag_run" && rows.has(event.dag_id));
      const { changed, unknown } = applyEvents(runs, ours);
      for (const run of changed) {
        paint(run);
        showLast(rows.get(run.dag_id));
      }
      // Older runs take the place of deleted ones.
      if (!isLast) handleUnknown([...unknown, ...ours.filter((event) => event.new_state === null)]);
    },
  };
  const handleUnknown = fetchUnknown(view, (events) => Promise.all([...new Set(events.map((event) => event.dag_id))].map(recent)));
  return view;
}
