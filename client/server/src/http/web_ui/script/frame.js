// The frame around the views: status, token, positions, path.

let tryNow = () => {};

function showStatus(state) {
  $("live").dataset.live = state;
  if ($("live").textContent !== state) $("live").textContent = state;
  if (state === "live") $("problem").hidden = true;
}

$("problem").lastChild.addEventListener("click", () => tryNow());
addEventListener("online", () => tryNow());

/** Asks for a token. The next request checks it. */
function askForToken() {
  const [dialog, input] = [$("token"), $("token").querySelector("input")];
  $("token-why").textContent = sessionStorage.getItem("token")
    ? "The server does not accept this token. Ask the operator of workflow-server for it."
    : "The server requires a token. Ask the operator of workflow-server for it. It is stored in this tab only.";
  input.value = "";
  showStatus("waiting for token");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      if (input.value) sessionStorage.setItem("token", input.value.trim());
      resolve();
    };
  });
}

/** Focus and scroll position of each view, which the Back button restores. */
const positions = new Map();

function currentPosition() {
  const box = document.querySelector(".grid");
  const focus = $("view").contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  return { focus, left: box?.scrollLeft, top: box?.scrollTop, y: scrollY };
}

/** Shows new content and keeps focus and scroll position, or restores the given ones. */
function keepPosition(show, position = currentPosition()) {
  show();
  const box = document.querySelector(".grid");
  if (box && position.left !== undefined) Object.assign(box, { scrollLeft: position.left, scrollTop: position.top });
  if (position.focus) $("view").querySelector(`[href="${CSS.escape(position.focus)}"]`)?.focus({ preventScroll: true });
  if (scrollY !== position.y) scrollTo(0, position.y);
}

function crumbs(...links) {
  const all = [["DAGs", "#/dags"], ...links];
  const items = all.map(([text, href], i) => h("a", { href, "aria-current": i === all.length - 1 && "page" }, text));
  $("crumbs").replaceChildren(...items);
  document.title = `${all.at(-1)[0]} · pg_workflow`;
}
