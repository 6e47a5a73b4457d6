const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const NS = new DOMParser().parseFromString("<svg/>", "text/html").querySelector("svg").namespaceURI;
// all text of records goes through textContent or setAttribute: never through innerHTML
const add = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (node instanceof HTMLElement && key in node && typeof value !== "string") node[key] = value;
    else if (value !== undefined && value !== null) node.setAttribute(key, value);
  }
  for (const child of [children ?? []].flat(2)) if (child !== null) node.append(child);
  return node;
};
const el = (name, attributes, ...children) =>
  add(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) =>
  add(document.createElementNS(NS, name), attributes, children);
const show = (x) => x === null ? "–" : typeof x !== "number" ? String(x)
  : Math.abs(x) >= 1e5 || (x && Math.abs(x) < 1e-3) ? x.toExponential(2) : String(+x.toPrecision(4));

// ---- table: sorting, filters, details -----------------------------------------------------
const table = $("results"), body = table.tBodies[0], rows = [...body.rows];
const words = rows.map((row) => row.textContent.toLowerCase());
const heads = [...table.tHead.rows].at(-1).cells;
const detail = new Map();  // row → the row of its details, while these are open
let sorted = null;
const ALL = "\u0000";  // the choice of a column's filter that excludes nothing

const key = (row, column) => {
  const cell = row.cells[column], value = cell.dataset.value;
  return value === undefined ? cell.textContent : parseFloat(value);
};
const missing = (x) => x === "" || x === "–" || Number.isNaN(x);
const sort = (column, direction) => {
  sorted = direction && { column, direction };
  const order = rows.map((row, index) => ({ row, index, key: direction ? key(row, column) : index }));
  if (direction) order.sort((a, b) => {
    const lost = missing(a.key) - missing(b.key);  // what has no value comes last either way
    if (lost || missing(a.key)) return lost || a.index - b.index;
    const [x, y] = [a.key, b.key];
    const by = typeof x === "number" && typeof y === "number" ? x - y
      : String(x).localeCompare(String(y), undefined, { numeric: true });
    return direction * by || a.index - b.index;
  });
  body.append(...order.flatMap(({ row }) => detail.has(row) ? [row, detail.get(row)] : [row]));
  table.classList.toggle("sorted", Boolean(direction));
  [...heads].forEach((head, n) => {
    if (direction && n === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
};
[...heads].forEach((head, column) => {
  const button = el("button", { type: "button" }, head.textContent);
  button.addEventListener("click", () => {
    const now = sorted?.column === column ? sorted.direction : 0;
    sort(column, now === 0 ? 1 : now === 1 ? -1 : 0);
    save();
  });
  head.replaceChildren(button);
});

const selects = [...heads].map((head, column) => {
  if (head.classList.contains("number")) return null;
  const values = [...new Set(rows.map((row) => row.cells[column].textContent))];
  if (values.length < 2 || values.length > 60) return null;
  const select = el("select", {}, el("option", { value: ALL }, "all"),
    values.map((value) => el("option", { value }, value || "done")));
  $("filters").insertBefore(el("label", {}, head.textContent, select), $("filters").querySelector("[type=reset]"));
  return { column, select };
}).filter(Boolean);
const filter = () => {
  const wanted = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  rows.forEach((row, n) => {
    const fits = wanted.every((word) => word.length > 1 && word[0] === "-"
      ? !words[n].includes(word.slice(1)) : words[n].includes(word))
      && selects.every(({ column, select }) => select.value === ALL
        || row.cells[column].dataset.text === select.value);
    row.hidden = !fits;
    if (detail.has(row)) detail.get(row).hidden = !fits;
    count += fits;
  });
  $("count").textContent = count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
  for (const mark of document.querySelectorAll("[data-rows]"))
    mark.classList.toggle("off", mark.dataset.rows !== ""
      && mark.dataset.rows.split(" ").every((n) => rows[n].hidden));
  save();
};
for (const row of rows) for (const { column } of selects) row.cells[column].dataset.text = row.cells[column].textContent;
let waiting = 0;
$("filters").addEventListener("input", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(filter); });
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", () => setTimeout(filter));
$("filters").hidden = false;

const known = (n) => data.rows[n].some((id) => data.cells[id]);
rows.forEach((row, n) => {
  if (!known(n)) return;  // published values alone, or nothing has started
  const cell = row.cells[0];
  const button = el("button", { type: "button", class: "open", "aria-expanded": "false" }, cell.textContent || "details");
  button.addEventListener("click", () => toggle(row, n));
  cell.replaceChildren(button);
});
const toggle = (row, n) => {
  const open = detail.has(row);
  row.cells[0].firstChild.setAttribute("aria-expanded", String(!open));
  if (open) { detail.get(row).remove(); detail.delete(row); save(); return; }
  const cells = data.rows[n].map((id) => data.cells[id]).filter(Boolean);
  const panel = el("div", { class: "panel" }, cells.map((cell, i) => cells.length === 1 ? drill(cell)
    : el("details", { class: "cell", open: i === 0 }, el("summary", {}, cell.title), drill(cell))));
  detail.set(row, el("tr", { class: "detail" }, el("td", { colSpan: heads.length }, panel)));
  row.after(detail.get(row));
  save();
};
const reveal = (n) => {
  const row = rows[n];
  if (row.hidden) { $("filters").reset(); filter(); }
  if (!detail.has(row) && known(n)) toggle(row, n);
  row.scrollIntoView({ block: "start", inline: "start" });
  row.cells[0].firstChild.focus?.({ preventScroll: true });
};

