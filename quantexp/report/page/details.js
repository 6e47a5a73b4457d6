// ---- details of a cell --------------------------------------------------------------------
const pairs = (entries) => el("dl", { class: "facts" },
  entries.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, show(value)))));
const part = (title, ...content) => el("section", {}, el("h3", {}, title), content);
const listing = (header, lines) => el("div", { class: "scroll" }, el("table", {},
  el("thead", {}, el("tr", {}, header.map((h) => el("th", { scope: "col" }, h)))),
  el("tbody", {}, lines.map((line) => el("tr", {}, line.map((x) => el("td", {}, show(x))))))));
const fold = (title, ...content) => el("details", {}, el("summary", {}, title), content);

const configuration = (cell) => {
  const base = data.bases[cell.base] ?? {}, full = { ...base, ...cell.changed };
  for (const name of cell.dropped) delete full[name];
  const all = fold(`whole configuration (${Object.keys(full).length})`, pairs(Object.entries(full).sort()));
  if (cell.against === null) return part("Configuration", all);
  const changed = Object.entries(cell.changed).map(([name, value]) => [name, base[name] ?? null, value]);
  const lines = [...changed, ...cell.dropped.map((name) => [name, base[name], null])];
  return part("Configuration, where it differs from the baseline",
    lines.length ? listing(["key", "baseline", "here"], lines) : el("p", {}, "nowhere"), all);
};
const drill = (cell) => el("div", {},
  el("p", { class: "soft" }, el("code", {}, cell.id)),
  cell.cause ? el("p", { class: "bad" }, `${cell.status}: ${cell.cause}`) : null,
  el("div", { class: "grid" },
    cell.results.length ? part("Evaluations", listing(["set", "metric", "value", "± se", "seconds"], cell.results)) : null,
    configuration(cell),
    cell.loss.length ? part("Loss of each block", chart({ title: "", x: "step", y: "loss", series: cell.loss.map(([block, curve], i) => ({
      name: `block ${block}`, marker: "", color: `hsl(${210 + 150 * i / Math.max(1, cell.loss.length - 1)} 65% 52%)`,
      points: curve.map((y, x) => ({ x, y })) })) })) : null,
    cell.errors.length ? part("Error of each block", chart({ title: "", x: "block", y: "relative error", whole: true, series: [
      { name: cell.title, color: "var(--accent)", marker: "o", points: cell.errors.map(([x, y]) => ({ x, y })) }] })) : null,
  ),
  part("Provenance", pairs(cell.provenance)),
  cell.blocks.length ? fold("blocks: seconds, memory, numerical fallbacks",
    listing(["block", "seconds", "peak GiB", "loss at the end", "fallbacks"], cell.blocks)) : null,
  cell.attempts.length ? fold(`earlier attempts (${cell.attempts.length})`,
    listing(["attempt", "host", "started", "ended", "cause"], cell.attempts)) : null,
  cell.log === null ? null : fold("log, its last lines", el("pre", { tabindex: "0" }, data.logs[cell.log])),
  cell.traceback ? fold("traceback", el("pre", { tabindex: "0" }, cell.traceback)) : null);

