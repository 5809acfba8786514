// Routes, and events of the browser.

let leave = new AbortController();
let current = null;

const ROUTES = [
  [/^#\/dags(?:\?(.*))?$/, dagsView],
  [/^#\/dags\/([^/]+)$/, gridView],
  [/^#\/runs\/([^/]+)$/, runView],
  [/^#\/queues$/, queuesView],
  [/^#\/history\/(dag_run|task_instance)\/([^/]+)$/, historyView],
];

let shownHash = null;
async function navigate() {
  if (shownHash !== null) positions.set(shownHash, currentPosition());
  leave.abort();
  leave = new AbortController();
  const found = ROUTES.map(([pattern, view]) => [pattern.exec(location.hash), view]).find(([match]) => match);
  if (!found) return location.replace("#/dags");
  const navigated = shownHash !== null;
  shownHash = location.hash;
  const [[, ...parts], view] = found;
  $("problem").hidden = true;
  const root = h("div", h("p.soft", "Loading…"));
  $("view").replaceChildren(root);
  if (navigated && !positions.has(shownHash)) scrollTo(0, 0);
  current = Object.assign(view(root, ...parts), { root, navigated });
  await follow(current, leave.signal);
}

addEventListener("hashchange", navigate);
setInterval(() => !document.hidden && current?.tick?.(), 1000);

// A browser opens at most six connections to a server, over all tabs: a background tab closes its own.
let hiding;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  const go = () => {
    positions.set(shownHash, currentPosition());
    leave.abort();
  };
  if (document.hidden) hiding = setTimeout(go, 30_000);
  else if (leave.signal.aborted) follow(current, (leave = new AbortController()).signal);
});

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, dialog");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  document.querySelector("[data-filter]")?.focus();
  event.preventDefault();
});

navigate();
