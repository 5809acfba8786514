// Elements of the page. Text from users becomes text nodes, never HTML.

/** From this number of cells on, rows out of sight are not rendered. */
const MANY = 4000;

const $ = (id) => document.getElementById(id);

/** An element, named as in CSS: "span.soft", or ".bar" for a div. Children that are strings become text. */
function h(name, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  const isPlain = children[0]?.constructor === Object;
  for (const [key, value] of Object.entries(isPlain ? children.shift() : {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat(2).filter((child) => child || child === 0));
  return element;
}

const stateOf = (state) => h("span.state", state && h("span.mark", { "data-state": state }), words(state));
const tag = (text) => h("span.tag", text);
const button = (text, onclick) => h("button", { type: "button", onclick, hidden: "" }, text);
const heading = (text, ...beside) => h(".bar", h("h1", { tabindex: -1 }, text), ...beside);
const legend = () => h(".legend", { role: "group", "aria-label": "Legend" }, STATES.map(stateOf));
const at = (iso, text = stamp) => (iso ? h("time", { datetime: iso, title: local(iso) }, text(iso)) : MINUS);
const fact = (name, ...value) => h("div", h("dt", name), h("dd", value));

/** JSON for people: on one line if it fits. */
function json(value) {
  const text = JSON.stringify(value, null, 1);
  return h("pre", text.length > 80 ? text : text.replace(/\n */g, " "));
}

function table(label, heads, body) {
  const head = h("tr", { role: "row" }, heads.map((text) => h("th", { role: "columnheader", scope: "col" }, text)));
  return h("table", { role: "table", "aria-label": label }, h("thead", { role: "rowgroup" }, head), body);
}
const cell = (head, ...children) => h("td", { role: "cell", "data-head": head }, ...children);

/** The box that the key "/" focuses. */
const filterBox = (label, value, changed) =>
  h("input", { type: "search", "aria-label": label, placeholder: `${label}  (/)`, value, "data-filter": "",
    oninput: (event) => changed(event.target.value.trim()) });
