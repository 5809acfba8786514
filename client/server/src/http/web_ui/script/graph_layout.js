// The layout of a graph: which tasks share a box, and where boxes, bars and lines are. It touches no element of the page.
//
// Layers stand side by side, from the left to the right. Between two layers is a gutter with the bars: one for tasks that
// wait for the same ones, so n parents and m children have n + m lines. All centers are multiples of 8: lines arrive at
// the center of a box and leave it 4 below, so that an arriving and a leaving line never lie on each other.

/** Maximum number of boxes in a layer, and in all of them. */
const [LAYER_BOXES, ALL_BOXES] = [40, 4000];
const BOX = { width: 184, task: 32, group: 48, wire: 16, gap: 8 };
const GUTTER = { edge: 14, lane: 10, letter: 6.5 };

/** A name without what numbers it: "load" for "load[7]" and "load_ID0007", "part-#-of" for "part-3-of-9". */
const stem = (name) => name.replace(/([\s_.:#/([-]+(ID)?)?\d+[)\]]?$/, "").replace(/\d+/g, "#") || "#";

/** Returns boxes for the tasks of a layer. If there are too many, tasks with similar names share a box. */
function group(tasks, most) {
  if (tasks.length <= most) return tasks.map((task) => ({ name: task.task_id, tasks: [task] }));
  const byName = new Map();
  for (const task of tasks) {
    const name = stem(task.task_id);
    if (!byName.has(name)) byName.set(name, { name, tasks: [] });
    byName.get(name).tasks.push(task);
  }
  let boxes = [...byName.values()];
  if (boxes.length > most) {
    const large = boxes.filter((box) => box.tasks.length > 1).sort((a, b) => b.tasks.length - a.tasks.length);
    const kept = new Set(large.slice(0, most - 1));
    const others = boxes.filter((box) => !kept.has(box)).flatMap((box) => box.tasks);
    boxes = [...boxes.filter((box) => kept.has(box)), { name: kept.size ? "other tasks" : "tasks", tasks: others }];
  }
  for (const box of boxes) if (box.tasks.length === 1) box.name = box.tasks[0].task_id;
  return boxes;
}

/** Returns the boxes of each layer, and boxes by the names of their tasks. */
function boxesOf(tasks, joins) {
  const layerOf = new Map(joins.flatMap((join) => join.children.map((child) => [child, join.layer])));
  const layers = [];
  for (const task of tasks) (layers[layerOf.get(task.task_id) ?? 0] ??= []).push(task);
  const most = Math.max(2, Math.min(LAYER_BOXES, Math.floor(ALL_BOXES / layers.length)));
  const columns = Array.from(layers, (those = [], layer) => {
    return group(those, most).map(({ name, tasks }) => {
      const isGroup = tasks.length > 1;
      const key = isGroup ? `group ${layer} ${name}` : tasks[0].id;
      return { name, tasks, layer, isGroup, key, height: isGroup ? BOX.group : BOX.task };
    });
  });
  const boxOf = new Map();
  for (const box of columns.flat()) for (const task of box.tasks) boxOf.set(task.task_id, box);
  return { columns, boxOf };
}

/**
 * Returns the bars: one for each join. But all joins that lead to a group share a bar for each rule, which joins the
 * group with all parents.
 */
function barsOf(joins, boxOf) {
  const bars = new Map();
  const add = (key, join, parents, children) => {
    const bar = bars.get(key) ??
      { rule: join.trigger_rule, layer: join.layer, parents: new Set(), children, joins: [], links: [] };
    bars.set(key, bar);
    bar.joins.push(join);
    for (const parent of parents) bar.parents.add(parent);
  };
  for (const join of joins) {
    // Deleted tasks have no box.
    const [parents, children] = [join.parents, join.children].map((names) =>
      new Set(names.map((name) => boxOf.get(name)).filter(Boolean)));
    if (!parents.size) continue;
    const [groups, others] = [[], []];
    for (const child of children) (child.isGroup ? groups : others).push(child);
    for (const child of groups) add(`${join.trigger_rule} ${child.key}`, join, parents, [child]);
    if (others.length) add(join.id, join, parents, others);
  }
  // What belongs to the same joins is one bar again.
  const whole = new Map();
  for (const bar of bars.values()) {
    const key = bar.joins.map((join) => join.id).join();
    if (whole.has(key)) whole.get(key).children.push(...bar.children);
    else whole.set(key, bar);
  }
  return [...whole.values()];
}

/**
 * Returns what is joined in each gutter: links of bars, and links of wires, which lead distant parents through the layers
 * between. A wire belongs to the parent or to the bar, whichever has more distant ends: "setup" before all tasks and
 * "cleanup" after all have one each. Slots keep the place of a wire in a layer.
 */
function linksOf(bars, columns) {
  const links = columns.map(() => []);
  const isFar = (bar) => (parent) => bar.layer - parent.layer > 1;
  const distances = new Map(); // how many distant bars a box has
  for (const bar of bars) {
    for (const box of [...bar.parents].filter(isFar(bar))) distances.set(box, (distances.get(box) ?? 0) + 1);
  }
  const slots = new Map(); // by owner, then by layer
  const wire = (owner, from, bar) => {
    if (!slots.has(owner)) slots.set(owner, new Map());
    const own = slots.get(owner);
    let left = from;
    for (let layer = from.layer + 1; layer < bar.layer; layer++) {
      if (!own.has(layer)) {
        const slot = { layer, height: BOX.wire, isWire: true };
        columns[layer].push(slot);
        own.set(layer, { slot, link: { lefts: new Set(), rights: [slot], bars: new Set() } });
        links[layer].push(own.get(layer).link);
      }
      const { slot, link } = own.get(layer);
      link.lefts.add(left);
      link.bars.add(bar);
      left = slot;
    }
    return left;
  };
  for (const bar of bars) {
    const far = [...bar.parents].filter(isFar(bar));
    const lefts = new Set([...bar.parents].filter((box) => !isFar(bar)(box)));
    for (const box of far) lefts.add(wire(distances.get(box) >= far.length ? box : bar, box, bar));
    links[bar.layer].push({ lefts, rights: bar.children, bars: new Set([bar]), bar });
  }
  return links;
}

/** Orders the items of each layer by the mean place of what they are joined with, to and fro: fewer lines cross. */
function order(columns, links) {
  for (const column of columns) column.forEach((item, i) => (item.place = (i + 0.5) / column.length));
  const mean = (items) => items.reduce((sum, item) => sum + item.place, 0) / items.length;
  const sweep = (layer, gutter, from, to) => {
    const places = new Map();
    for (const link of links[gutter] ?? []) {
      const place = mean([...link[from]]);
      for (const item of link[to]) places.set(item, [...(places.get(item) ?? []), place]);
    }
    const wish = (item) => places.get(item)?.reduce((sum, place, _, all) => sum + place / all.length, 0) ?? item.place;
    const wishes = new Map(columns[layer].map((item) => [item, wish(item)]));
    columns[layer].sort((a, b) => wishes.get(a) - wishes.get(b));
    columns[layer].forEach((item, i) => (item.place = (i + 0.5) / columns[layer].length));
  };
  for (let round = 0; round < 3; round++) {
    for (let layer = columns.length - 2; layer >= 0; layer--) sweep(layer, layer + 1, "rights", "lefts");
    for (let layer = 1; layer < columns.length; layer++) sweep(layer, layer, "lefts", "rights");
  }
}

/** Gives each link a lane of its gutter, so that upright lines do not touch; returns the width of the gutter. */
function setLanes(links) {
  for (const link of links) {
    const ends = [...[...link.lefts].map((item) => item.center + 4), ...link.rights.map((item) => item.center)];
    Object.assign(link, { top: Math.min(...ends), bottom: Math.max(...ends) });
  }
  const lanes = [];
  for (const link of links.toSorted((a, b) => a.top - b.top)) {
    const label = link.bar && link.bar.rule !== "all_success" ? link.bar.rule : null;
    let lane = lanes.find((free) => free.bottom + 16 < link.top - (label ? 16 : 0));
    if (!lane) lanes.push((lane = { letters: 0 }));
    Object.assign(lane, { bottom: link.bottom, letters: Math.max(lane.letters, label?.length ?? 0) });
    Object.assign(link, { lane, label });
  }
  let x = GUTTER.edge;
  for (const lane of lanes) {
    lane.x = x;
    x += Math.max(GUTTER.lane, lane.letters * GUTTER.letter);
  }
  for (const link of links) link.x = link.lane.x;
  return Math.max(2 * GUTTER.edge, x + GUTTER.edge - GUTTER.lane / 2);
}

/** Lays out a graph. Returns its layers with their items and links, its bars, and its size. */
function layout(tasks, joins) {
  const { columns, boxOf } = boxesOf(tasks, joins);
  const bars = barsOf(joins, boxOf);
  const links = linksOf(bars, columns);
  order(columns, links);
  const tall = (column) => column.reduce((sum, item) => sum + item.height + BOX.gap, BOX.gap);
  const height = Math.max(...columns.map(tall));
  let x = 0;
  const layers = columns.map((items, i) => {
    let y = BOX.gap + Math.floor((height - tall(items)) / 16) * 8;
    for (const item of items) {
      Object.assign(item, { y, center: y + item.height / 2 });
      y += item.height + BOX.gap;
    }
    const gutter = i ? setLanes(links[i]) : BOX.gap;
    const layer = { x, gutter, items, links: links[i], boxes: items.filter((item) => !item.isWire) };
    x += gutter + BOX.width;
    return layer;
  });
  for (const link of links.flat()) for (const bar of link.bars) bar.links.push(link);
  return { layers, bars, boxOf, width: x + BOX.gap, height };
}
