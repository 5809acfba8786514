// What a graph says of the chosen box: what a task waits for, or which tasks a box of several has.

/** The order of states in lists and counts. */
const TROUBLE_FIRST = ["failed", "upstream_failed", "retrying", "running", "queued", "skipped", "success"];
/** Tasks of a group that are listed at a time. */
const LISTED = 100;
/** Tasks that the chosen one waits for, listed at first; at most as many as a page of the API has. */
const [WAITS, MOST_WAITS] = [20, 1000];

/** States of tasks that wait; after a rerun they are retrying. Others in these states wait for no task. */
const WAITING = new Set(["queued", "retrying"]);

const count = (number) => number.toLocaleString("en");

/** A name in two parts: if there is no room, the first one is cut, because names often differ at their ends only. */
function cut(name) {
  const letters = [...name];
  const end = Math.max(0, letters.length - 13);
  return h("span.cut", h("span", letters.slice(0, end).join("")), h("span", letters.slice(end).join("")));
}

/** The states of tasks with their numbers, trouble first. */
function stateCounts(tasks) {
  const numbers = new Map(TROUBLE_FIRST.map((state) => [state, 0]));
  for (const { state } of tasks) numbers.set(state, numbers.get(state) + 1);
  return [...numbers].filter(([, number]) => number);
}

/** Returns the element of the details, and functions that show a choice and follow its tasks. `pick` chooses a task. */
function graphDetails(view, rows, pick) {
  let shown = null;
  const element = h(".detail.panel", { role: "region", "aria-label": "Chosen task", hidden: "" });

  /** A button that chooses a task, with its state. */
  function taskButton(task) {
    const mark = h("span.mark", { "data-state": task.state });
    const label = `${task.task_id}, ${words(task.state)}`;
    const attributes = { type: "button", title: task.task_id, "aria-label": label, onclick: () => pick(task) };
    return h("button.box", attributes, mark, cut(task.task_id));
  }

  /** Shows tasks in a list; the one that had the focus keeps it. */
  function replaceTasks(list, lines) {
    const focused = list.contains(document.activeElement) && document.activeElement.title;
    list.replaceChildren(...lines);
    const again = focused && [...list.querySelectorAll("button")].find((item) => item.title === focused);
    if (again) again.focus({ preventScroll: true });
  }

  /** Calls a function now, and whenever one of these tasks moves: at most once a second, while they are shown. */
  function followTasks(names, update) {
    const mine = shown;
    let isWaiting = false;
    const later = () => {
      isWaiting = false;
      if (mine === shown && !view.signal.aborted) update();
    };
    const moved = () => {
      if (!isWaiting) setTimeout(later, 1000);
      isWaiting = true;
    };
    Object.assign(shown, { concerns: new Set(names), moved });
    update();
  }

  /** Lists the tasks of a group. */
  function listTasks({ name, tasks }) {
    let length = LISTED;
    const list = h(".tasks");
    const more = button("More", () => {
      length += LISTED;
      update();
    });
    const numbers = h("span.counts");
    element.replaceChildren(h("h3", name, ` × ${count(tasks.length)}`), numbers, list, more);
    const rank = new Map(TROUBLE_FIRST.map((state, i) => [state, i]));
    const update = () => {
      const states = stateCounts(tasks);
      numbers.replaceChildren(...states.map(([state, number]) => h("span", stateOf(state), ` ${count(number)}`)));
      const sorted = tasks.toSorted((a, b) => rank.get(a.state) - rank.get(b.state));
      replaceTasks(list, sorted.slice(0, length).map(taskButton));
      more.hidden = length >= tasks.length;
    };
    followTasks(tasks.map((task) => task.task_id), update);
  }

  /** Shows a task, and what it waits for. */
  function explain({ task, join }) {
    const mine = shown;
    let length = WAITS;
    const [state, reason, list] = [h("span"), h("p", { role: "status" }), h(".tasks")];
    const more = button("More", () => {
      length = Math.min(MOST_WAITS, 10 * length);
      update();
    });
    const link = h("a", { href: `#/history/task_instance/${task.id}` }, "History");
    element.replaceChildren(h(".bar", h("h3", task.task_id), state, link), reason, list, more);
    const update = () => waits(task, length).then((found) => {
      if (mine !== shown) return;
      state.replaceChildren(stateOf(task.state));
      reason.textContent = describeWait(join, found);
      const parents = found.items.filter((parent) => rows.has(parent.task_id));
      const line = ({ task_id, state, since }) =>
        h("div", taskButton(rows.get(task_id)), h("span.soft", `${words(state)} since `, at(since)));
      replaceTasks(list, parents.map(line));
      more.hidden = !found.next_cursor || length === MOST_WAITS;
    }).catch(view.failed);
    followTasks([task.task_id, ...(join?.parents ?? [])], update);
  }

  /** Fetches what a task waits for: few states wait, and deleted ones for nothing. */
  async function waits(task, limit) {
    const nothing = { items: [], next_cursor: null };
    if (!WAITING.has(task.state)) return nothing;
    return (await get(`task-instances/${task.id}/waits-for`, { limit }, view.signal).catch(nullIfGone)) ?? nothing;
  }

  function describeWait(join, { items }) {
    if (!items.length) return join ? "Waits for no task." : "Depends on no task.";
    return join && join.trigger_rule !== "all_success" ? `Waits for, by the rule ${join.trigger_rule}:` : "Waits for:";
  }

  return {
    element,
    /** Shows a task with its join, or a box of several; nothing hides the details. */
    show(choice) {
      shown = choice;
      element.hidden = !choice;
      if (choice?.group) listTasks(choice.group);
      else if (choice) explain(choice);
      else element.replaceChildren();
    },
    moved(tasks) {
      if ([...tasks].some((task) => shown?.concerns.has(task.task_id))) shown.moved();
    },
  };
}
