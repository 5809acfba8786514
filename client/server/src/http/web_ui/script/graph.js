// The graph of a run: its tasks in layers, bars that join them, and what the chosen task waits for.

/** Layers that are drawn at once; further ones when they are almost in sight. */
const LAYERS = 50;

/** Rules that one parent decides, and the states in which it does. */
const FAILED = ["failed", "upstream_failed"];
const EARLY = { one_success: ["success"], one_done: ["success", ...FAILED], one_failed: FAILED };

/** Fetches the joins of a run; a Problem if there are too many. Older databases have none. */
const joinsOf = (run, signal) =>
  get(`dag-runs/${run}/graph`, { fields: "joins" }, signal).then(({ joins }) => joins, (problem) => {
    if (problem.status === 404) return [];
    if (problem.status === 400) return problem;
    throw problem;
  });

const brief = (number) => number.toLocaleString("en", { notation: "compact" });

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Returns the element of a graph, and functions that show a run and repaint its tasks. */
function graphPanel(view) {
  let [joins, laid, chosen, scrolled] = [[], null, null, false];
  const rows = new Map(); // tasks by name
  const canvas = h(".canvas");
  const box = h(".graph.panel", { role: "group", "aria-label": "Dependencies", onkeydown: walk }, canvas);
  const help = h("p.soft");
  const details = graphDetails(view, rows, (task) => {
    choose({ task });
    buttonOf(laid.boxOf.get(task.task_id)).focus();
  });
  const element = h("section.dependencies", { hidden: "" }, h("h2", "Dependencies"), help, box, details.element);
  box.addEventListener("focusin", ({ target }) => reach(target.closest("button")));
  const sight = new IntersectionObserver((entries) => {
    const seen = entries.filter((entry) => entry.isIntersecting && laid);
    for (const { target } of seen) fill(laid.layers[target.dataset.layer]);
  }, { root: box, rootMargin: "0px 1000px" });

  /** Draws the graph of these tasks. Of joins that are not given, those of before. */
  function show(tasks, given = joins) {
    performance.mark("graph");
    const isTooLarge = given instanceof Problem;
    joins = given;
    rows.clear();
    for (const task of tasks) rows.set(task.task_id, task);
    element.hidden = !isTooLarge && !(joins.length && tasks.length);
    box.hidden = isTooLarge;
    help.textContent = isTooLarge
      ? "The graph of this run is too large to draw."
      : "A bar joins tasks with those that wait for them. All must succeed, unless the bar names another rule.";
    laid = null;
    sight.disconnect();
    if (element.hidden || isTooLarge) return choose(null);
    const focused = document.activeElement.closest?.(".graph button")?.dataset.box;
    laid = layout(tasks, joins);
    size(canvas, laid);
    canvas.replaceChildren(...laid.layers.map(place));
    indexBars();
    laid.bars.forEach(paintBar);
    const boxes = laid.layers.flatMap((layer) => layer.boxes);
    const reached = boxes.find((one) => one.key === focused) ?? boxes[0];
    reach(buttonOf(reached));
    if (focused) reached.button.focus({ preventScroll: true });
    const task = rows.get(chosen?.task?.task_id);
    const grouped = boxes.find((one) => one.isGroup && one.key === chosen?.group?.key);
    choose(task ? { task } : grouped ? { group: grouped } : null);
    performance.measure("graph", "graph");
  }

  /** Scrolls to where tasks run, when the graph is shown first. */
  function scroll() {
    if (scrolled || !laid) return;
    scrolled = true;
    const isBusy = ({ state }) => state === "running" || state === "retrying";
    const first = laid.layers.find(({ boxes }) => boxes.some(({ tasks }) => tasks.some(isBusy)));
    box.scrollTop = (laid.height - box.clientHeight) / 2;
    if (first) box.scrollLeft = first.x + first.gutter + BOX.width / 2 - box.clientWidth / 2;
  }

  function size(element, numbers) {
    for (const name of ["left", "top", "width", "height"]) {
      if (name in numbers) element.style.setProperty(name, `${numbers[name]}px`);
    }
  }

  function place(layer, i) {
    layer.part = h(".layer", { "data-layer": i });
    size(layer.part, { left: layer.x, width: layer.gutter + BOX.width, height: laid.height });
    if (i < LAYERS) fill(layer);
    else sight.observe(layer.part);
    return layer.part;
  }

  function fill(layer) {
    if (layer.part.firstChild) return;
    sight.unobserve(layer.part);
    const lines = svg("svg", { width: layer.gutter + BOX.width, height: laid.height, "aria-hidden": "true" });
    for (const link of layer.links ?? []) lines.append(drawLink(link, layer));
    layer.part.append(lines, ...layer.boxes.map(drawBox));
    for (const one of layer.boxes) size(one.button, { left: layer.gutter, top: one.y });
  }

  function buttonOf(one) {
    fill(laid.layers[one.layer]);
    return one.button;
  }

  function drawBox(one) {
    one.mark = one.isGroup ? h("span.counts") : h("span.mark");
    const name = one.isGroup ? [cut(one.name), h("b", ` × ${count(one.tasks.length)}`)] : cut(one.name);
    // Another click hides the details.
    const onclick = () => {
      if (one.isGroup) choose(chosen?.group === one ? null : { group: one });
      else choose(chosen?.task === one.tasks[0] ? null : { task: one.tasks[0] });
    };
    const parts = one.isGroup ? [h("span.label", name), one.mark] : [one.mark, name];
    one.button = h(one.isGroup ? "button.box.group" : "button.box", { type: "button", title: one.name, onclick }, parts);
    Object.assign(one.button, { tabIndex: -1, ariaPressed: "false" }).dataset.box = one.key;
    paintBox(one);
    return one.button;
  }

  function paintBox(one) {
    if (!one?.button) return;
    if (!one.isGroup) {
      for (const part of [one.button, one.mark]) part.dataset.state = one.tasks[0].state;
      one.button.setAttribute("aria-label", `${one.name}, ${words(one.tasks[0].state)}`);
      return;
    }
    const states = stateCounts(one.tasks);
    one.button.dataset.state = states[0][0];
    const short = states.length > 3 ? brief : count;
    one.mark.replaceChildren(...states.map(([state, number]) =>
      h("span", h("span.mark", { "data-state": state }), short(number))));
    const spoken = states.map(([state, number]) => `${count(number)} ${words(state)}`);
    one.button.setAttribute("aria-label", `${one.name}, ${count(one.tasks.length)} tasks: ${spoken.join(", ")}`);
  }

  function drawLink(link, { gutter }) {
    const [x, ends] = [link.x, gutter + BOX.width];
    const lines = [`M${x} ${link.top}V${link.bottom}`];
    const marks = [];
    for (const { center } of link.lefts) {
      lines.push(`M0 ${center + 4}H${x}`);
      if (link.bar) marks.push(`M${x - 3} ${center + 4}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0`);
    }
    for (const { center, isWire } of link.rights) {
      lines.push(`M${x} ${center}H${gutter}`);
      if (isWire) lines.push(`L${ends} ${center + 4}`);
      else marks.push(`M${gutter - 6} ${center - 4}L${gutter} ${center}L${gutter - 6} ${center + 4}z`);
    }
    const path = (kind, d) => svg("path", { d, class: kind });
    link.drawn = svg("g", {}, path("line", lines.join("")), path("dot", marks.join("")));
    if (link.bar) link.drawn.append(path("bar-line", `M${x} ${link.top - 4}V${link.bottom + 4}`));
    if (link.label) {
      const label = svg("text", { x: x - 2, y: link.top - 8 });
      label.textContent = link.label;
      link.drawn.append(label);
    }
    paintLink(link);
    return link.drawn;
  }

  /** Finds the bars by the names of the tasks in them. */
  function indexBars() {
    laid.barsOf = new Map();
    const add = (name, bar) => {
      if (!laid.barsOf.has(name)) laid.barsOf.set(name, new Set());
      laid.barsOf.get(name).add(bar);
    };
    for (const bar of laid.bars) {
      for (const { parents, children } of bar.joins) for (const name of [...parents, ...children]) add(name, bar);
    }
  }

  /** Whether the children wait no more. No event tells of it, but the ends of the parents decide it. */
  function isDecided(join) {
    const early = EARLY[join.trigger_rule] ?? [];
    const statesOf = (names) => names.map((name) => rows.get(name)?.state).filter(Boolean);
    const states = statesOf(join.parents);
    return states.every((state) => ENDS.has(state)) || states.some((state) => early.includes(state)) ||
      !statesOf(join.children).some((state) => WAITING.has(state));
  }

  function paintBar(bar) {
    // The joins can be older than the tasks, and both older than the last event.
    bar.isDecided = bar.joins.every((join) => (join.is_decided && !bar.hasMoved) || isDecided(join));
    bar.links.forEach(paintLink);
  }

  function paintLink({ drawn, bars }) {
    drawn?.classList.toggle("decided", [...bars].every((one) => one.isDecided));
    drawn?.classList.toggle("on", [...bars].some((one) => one.isOn));
  }

  /** Shows the states of these tasks. */
  function paint(tasks) {
    if (!laid || !tasks.size) return;
    const [boxes, bars] = [new Set(), new Set()];
    for (const { task_id } of tasks) {
      boxes.add(laid.boxOf.get(task_id));
      for (const bar of laid.barsOf.get(task_id) ?? []) bars.add(Object.assign(bar, { hasMoved: true }));
    }
    boxes.forEach(paintBox);
    bars.forEach(paintBar);
    details.moved(tasks);
  }

  /** Makes one box reachable with Tab. The arrow keys reach the others. */
  function reach(button) {
    if (!button) return;
    for (const other of canvas.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    button.tabIndex = 0;
  }

  /** Handles arrow keys, Home and End: they go through the boxes. */
  function walk(event) {
    const key = event.target.closest("button")?.dataset.box;
    if (key === undefined || event.altKey || event.metaKey || event.ctrlKey) return;
    const layers = laid.layers.map((layer) => layer.boxes).filter((boxes) => boxes.length);
    const x = layers.findIndex((boxes) => boxes.some((one) => one.key === key));
    const y = layers[x].findIndex((one) => one.key === key);
    const from = layers[x][y].center;
    const nearest = (boxes) => boxes?.toSorted((a, b) => Math.abs(a.center - from) - Math.abs(b.center - from))[0];
    const steps = {
      ArrowLeft: () => nearest(layers[x - 1]),
      ArrowRight: () => nearest(layers[x + 1]),
      ArrowUp: () => layers[x][y - 1],
      ArrowDown: () => layers[x][y + 1],
      Home: () => nearest(layers[0]),
      End: () => nearest(layers.at(-1)),
    };
    if (!steps[event.key]) return;
    event.preventDefault();
    const next = steps[event.key]();
    if (next) buttonOf(next).focus();
  }

  const joinOf = (task) => task && joins.find(({ children }) => children.includes(task.task_id));

  /** Shows the details of a task, or the tasks of a group; none hides them. */
  function choose(choice) {
    const one = choice && (choice.group ?? laid.boxOf.get(choice.task.task_id));
    for (const old of canvas.querySelectorAll("[aria-pressed=true]")) old.setAttribute("aria-pressed", "false");
    if (choice) buttonOf(one).setAttribute("aria-pressed", "true");
    // The bars by which it waits.
    for (const bar of laid?.bars ?? []) {
      const isOn = bar.children.includes(one);
      if (isOn !== Boolean(bar.isOn)) Object.assign(bar, { isOn }).links.forEach(paintLink);
    }
    chosen = choice;
    details.show(choice && { ...choice, join: joinOf(choice.task) });
  }

  return { element, show, scroll, paint };
}
