"use strict";
(() => {
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
    });
    head.replaceChildren(button);
  });

  const selects = [...heads].map((head, column) => {
    if (head.classList.contains("number")) return null;
    const values = [...new Set(rows.map((row) => row.cells[column].textContent))];
    if (values.length < 2 || values.length > 60) return null;
    const select = el("select", {}, el("option", { value: "\u0000" }, "all"),
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
        && selects.every(({ column, select }) => select.value === "\u0000"
          || row.cells[column].dataset.text === select.value);
      row.hidden = !fits;
      if (detail.has(row)) detail.get(row).hidden = !fits;
      count += fits;
    });
    $("count").textContent = count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
    for (const mark of document.querySelectorAll("[data-rows]"))
      mark.classList.toggle("off", mark.dataset.rows !== ""
        && mark.dataset.rows.split(" ").every((n) => rows[n].hidden));
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
    if (open) { detail.get(row).remove(); detail.delete(row); return; }
    const cells = data.rows[n].map((id) => data.cells[id]).filter(Boolean);
    const panel = el("div", { class: "panel" }, cells.map((cell, i) => cells.length === 1 ? drill(cell)
      : el("details", { class: "cell", open: i === 0 }, el("summary", {}, cell.title), drill(cell))));
    detail.set(row, el("tr", { class: "detail" }, el("td", { colSpan: heads.length }, panel)));
    row.after(detail.get(row));
  };
  const reveal = (n) => {
    const row = rows[n];
    if (row.hidden) { $("filters").reset(); filter(); }
    if (!detail.has(row) && known(n)) toggle(row, n);
    row.scrollIntoView({ block: "start", inline: "start" });
    row.cells[0].firstChild.focus?.({ preventScroll: true });
  };

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

  // ---- charts -------------------------------------------------------------------------------
  const shape = (marker, x, y, s, look) => {
    const p = (...xy) => svg("path", { d: "M" + xy.map(([a, b]) => `${(x + a * s).toFixed(1)} ${(y + b * s).toFixed(1)}`).join("L") + "Z", ...look });
    const ring = (n, first, inner = 1) => [...Array(inner === 1 ? n : 2 * n)].map((_, i, all) => {
      const angle = first + 2 * Math.PI * i / all.length, r = i % 2 && inner !== 1 ? inner : 1;
      return [r * Math.sin(angle), -r * Math.cos(angle)];
    });
    const known = {
      s: () => p([-.85, -.85], [.85, -.85], [.85, .85], [-.85, .85]), "^": () => p(...ring(3, 0)), v: () => p(...ring(3, Math.PI)),
      "<": () => p(...ring(3, -Math.PI / 2)), ">": () => p(...ring(3, Math.PI / 2)), D: () => p(...ring(4, 0)), d: () => p([0, -1.1], [.65, 0], [0, 1.1], [-.65, 0]),
      h: () => p(...ring(6, 0)), p: () => p(...ring(5, 0)), 8: () => p(...ring(8, Math.PI / 8)), "*": () => p(...ring(5, 0, .42).map(([a, b]) => [1.3 * a, 1.3 * b])),
      P: () => p(...ring(4, 0, .4)), X: () => p(...ring(4, Math.PI / 4, .4)),
    };
    return (known[marker] ?? (() => svg("circle", { cx: x, cy: y, r: s, ...look })))();
  };
  const fill = (series) => ({ fill: series.hollow ? "var(--paper)" : series.color, stroke: series.color, "stroke-width": 1.4 });
  const ticks = (low, high, log, whole) => {
    if (log) {
      const wide = Math.log10(high / low), found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
        for (const m of wide > 3 ? [1] : [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) found.push(m * 10 ** e);
      return found.filter((_, i) => i % Math.ceil(found.length / 7) === 0);
    }
    const raw = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(raw));
    let step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
    if (whole) step = Math.max(1, Math.round(step));
    const found = [];
    for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) found.push(+t.toPrecision(12));
    return found;
  };
  const tip = $("tip");
  const chart = (spec) => {
    const W = 420, H = 270, L = 64, R = 12, T = 10, B = 38;
    const all = spec.series.flatMap((s) => s.points.map((p) => ({ ...p, s }))).filter((p) => p.y !== null);
    if (!all.length) return el("p", { class: "soft" }, "no finite value");
    const ys = all.flatMap((p) => [p.low ?? p.y, p.high ?? p.y]).concat((spec.baseline ?? []).map((b) => b.y));
    const xs = all.map((p) => p.x);
    let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const log = y0 > 0 && y1 / y0 > 3;
    const roomX = Math.max((x1 - x0) * .06, ((spec.least ?? 0) - x1 + x0) / 2, x1 === x0 ? .5 : 0);
    [x0, x1] = [x0 - roomX, x1 + roomX];
    if (log) [y0, y1] = [y0 / (y1 / y0) ** .07, y1 * (y1 / y0) ** .07];
    else { const room = (y1 - y0) * .1 || Math.abs(y1) * .1 || 1; [y0, y1] = [y0 - room, y1 + room]; }
    const f = log ? Math.log : (v) => v;
    const X = (x) => L + (W - L - R) * (x - x0) / (x1 - x0);
    const Y = (y) => H - B - (H - B - T) * (f(y) - f(y0)) / (f(y1) - f(y0));
    const label = `${spec.title || spec.y}: ${spec.y} against ${spec.x}, ${all.length} points`;
    const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label, tabindex: "0" });
    const text = (x, y, anchor, words, more) => svg("text", { x, y, "text-anchor": anchor, ...more }, words);
    for (const t of ticks(y0, y1, log)) root.append(
      svg("line", { class: "axis", x1: L, x2: W - R, y1: Y(t), y2: Y(t) }), text(L - 6, Y(t) + 4, "end", show(t)));
    for (const t of ticks(x0, x1, false, spec.whole)) if (X(t) >= L) root.append(
      svg("line", { class: "axis", x1: X(t), x2: X(t), y1: H - B, y2: H - B + 4 }), text(X(t), H - B + 16, "middle", show(t)));
    root.append(svg("line", { class: "axis", x1: L, x2: W - R, y1: H - B, y2: H - B }), text((L + W - R) / 2, H - 5, "middle", spec.x),
      text(0, 0, "middle", spec.y, { transform: `translate(11 ${(T + H - B) / 2}) rotate(-90)` }));
    for (const b of spec.baseline ?? []) root.append(svg("line", { x1: L, x2: W - R, y1: Y(b.y), y2: Y(b.y), stroke: "var(--ink)", "stroke-dasharray": "6 3" }));
    const path = (points, attributes) => svg("path", { d: "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L"), fill: "none", ...attributes });
    if (spec.front?.length > 1) root.append(path(spec.front.flatMap(([x, y], i, a) => i ? [[X(x), Y(a[i - 1][1])], [X(x), Y(y)]] : [[X(x), Y(y)]]),
      { stroke: "#8a8a8a", "stroke-width": 5, opacity: .3 }));
    for (const s of spec.series) {
      const points = s.points.filter((p) => p.y !== null);
      const group = svg("g", { "data-rows": [...new Set(points.flatMap((p) => p.row ?? []))].join(" ") });
      if (points.length > 1) group.append(path(points.map((p) => [X(p.x), Y(p.y)]), { stroke: s.color, "stroke-width": 1.6, "stroke-dasharray": s.dash }));
      const every = spec.whole && points.length > 12 ? Math.ceil(points.length / 8) : 1;
      points.forEach((p, i) => {
        const mark = svg("g", { "data-rows": p.row === undefined ? "" : String(p.row) });
        if (p.low !== undefined && p.low !== p.high) mark.append(path([[X(p.x), Y(p.low)], [X(p.x), Y(p.high)]], { stroke: s.color }));
        if (s.marker && i % every === 0) mark.append(shape(s.marker, X(p.x), Y(p.y), 5, fill(s)));
        group.append(mark);
      });
      root.append(group);
    }
    const ring = svg("circle", { r: 9, fill: "none", stroke: "var(--accent)", "stroke-width": 2, visibility: "hidden" });
    root.append(ring);
    let at = -1;
    const order = all.map((_, i) => i).sort((a, b) => all[a].x - all[b].x || all[a].y - all[b].y);
    const lies = (p) => p.row !== undefined && rows[p.row].hidden;
    const point = (i) => {
      at = i;
      const p = all[i], box = root.getBoundingClientRect(), scale = box.width / W;
      ring.setAttribute("cx", X(p.x)); ring.setAttribute("cy", Y(p.y)); ring.setAttribute("visibility", "visible");
      tip.textContent = p.tip ?? `${p.s.name}\n${spec.x} ${show(p.x)}: ${show(p.y)}`;
      tip.hidden = false;
      const left = box.left + X(p.x) * scale, top = box.top + Y(p.y) * scale;
      tip.style.left = `${Math.max(4, Math.min(left + 12, innerWidth - tip.offsetWidth - 4))}px`;
      tip.style.top = `${top - tip.offsetHeight - 12 < 4 ? top + 14 : top - tip.offsetHeight - 12}px`;
    };
    const leave = () => { at = -1; tip.hidden = true; ring.setAttribute("visibility", "hidden"); };
    const near = (event) => {
      const box = root.getBoundingClientRect(), scale = box.width / W;
      const [x, y] = [(event.clientX - box.left) / scale, (event.clientY - box.top) / scale];
      let best = -1, least = 40 ** 2;
      all.forEach((p, i) => {
        const distance = (X(p.x) - x) ** 2 + (Y(p.y) - y) ** 2;
        if (distance < least && !lies(p)) [best, least] = [i, distance];
      });
      if (best < 0) leave(); else point(best);
    };
    root.addEventListener("pointermove", near);
    root.addEventListener("pointerdown", near);
    root.addEventListener("pointerleave", leave);
    root.addEventListener("blur", leave);
    root.addEventListener("click", () => { if (at >= 0 && all[at].row !== undefined && spec.jump) { const n = all[at].row; leave(); reveal(n); } });
    root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      const free = order.filter((i) => !lies(all[i]));
      if (step && free.length) { event.preventDefault(); point(free[(free.indexOf(at) + step + free.length) % free.length]); }
      else if (event.key === "Enter" && at >= 0 && spec.jump && all[at].row !== undefined) { const n = all[at].row; leave(); reveal(n); }
      else if (event.key === "Escape") leave();
    });
    return el("figure", {}, spec.title ? el("figcaption", {}, spec.title) : null, root);
  };

  const SHOWN = 9;  // panels before a button asks for the others
  const section = (id, panels) => {
    if (!panels.length) return;
    const styles = new Map(panels.flatMap((p) => p.series.map((s) => [s.name, s])));
    const legend = [...styles.values()].map((s) => el("li", {}, svg("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 26, y1: 7, y2: 7, stroke: s.color, "stroke-width": 1.6, "stroke-dasharray": s.dash }), shape(s.marker, 13, 7, 5, fill(s))), s.name));
    const plots = el("div", { class: "plots" }, panels.slice(0, SHOWN).map(chart));
    $(id).append(el("ul", { class: "legend" }, legend), plots);
    if (panels.length > SHOWN) {
      const more = el("button", { type: "button" }, `Show all ${panels.length} panels`);
      more.addEventListener("click", () => { plots.append(...panels.slice(SHOWN).map(chart)); more.remove(); filter(); });
      $(id).append(more);
    }
    $(id).hidden = false;
  };
  section("pareto", data.pareto);
  section("blocks", data.blocks);
  filter();
})();
