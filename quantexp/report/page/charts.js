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
  const raw = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) found.push(+t.toPrecision(12));
  return found;
};
const tip = $("tip");
const say = (words, left, top) => {
  tip.textContent = words;
  tip.hidden = false;
  tip.style.left = `${Math.max(4, Math.min(left + 12, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${top - tip.offsetHeight - 12 < 4 ? top + 14 : top - tip.offsetHeight - 12}px`;
};
const chart = (spec) => {
  // with names the y axis has one line for each of them, and values lie along x
  const names = spec.names?.map((name) => name.length > 30 ? `${name.slice(0, 29)}…` : name);
  const row = Math.max(24, 9 * (spec.room ?? 1) + 8);
  const W = 420, R = 12, T = 10, B = 38, H = names ? T + B + row * names.length : 270;
  const L = names ? Math.max(...names.map((name) => name.length)) * 6.7 + 14 : 64;
  const all = spec.series.flatMap((s) => s.points.map((p) => ({ ...p, s }))).filter((p) => p.y !== null);
  if (!all.length) return el("p", { class: "soft" }, "no finite value");
  const span = (p, value) => [p.low ?? value, p.high ?? value];
  const ys = all.flatMap((p) => names ? [p.y] : span(p, p.y)).concat((spec.baseline ?? []).map((b) => b.y));
  const xs = all.flatMap((p) => names ? span(p, p.x) : [p.x]).concat((spec.marks ?? []).map((m) => m.x));
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const log = !names && !spec.linear && y0 > 0 && y1 / y0 > 3;
  if (spec.logx) { const room = Math.max((x1 / x0) ** .08, 1.3); [x0, x1] = [x0 / room, x1 * room]; }
  else {
    const room = Math.max((x1 - x0) * .06, ((spec.least ?? 0) - x1 + x0) / 2, x1 === x0 ? .5 : 0);
    [x0, x1] = [spec.zero ? 0 : x0 - room, x1 + room];
  }
  if (names) [y0, y1] = [names.length - .5, -.5];
  else if (log) [y0, y1] = [y0 / (y1 / y0) ** .07, y1 * (y1 / y0) ** .07];
  else { const room = (y1 - y0) * .1 || Math.abs(y1) * .1 || 1; [y0, y1] = [y0 - room, y1 + room]; }
  const f = log ? Math.log : (v) => v, g = spec.logx ? Math.log : (v) => v;
  const X = (x) => L + (W - L - R) * (g(x) - g(x0)) / (g(x1) - g(x0));
  const Y = (y) => H - B - (H - B - T) * (f(y) - f(y0)) / (f(y1) - f(y0));
  const label = `${spec.title || spec.y}: ${names ? spec.x : `${spec.y} against ${spec.x}`}, ${all.length} points`;
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label, tabindex: "0" });
  const text = (x, y, anchor, words, more) => svg("text", { x, y, "text-anchor": anchor, ...more }, words);
  for (const t of names ? names.keys() : ticks(y0, y1, log)) root.append(
    svg("line", { class: "axis", x1: L, x2: W - R, y1: Y(t), y2: Y(t) }), text(L - 6, Y(t) + 4, "end", names?.[t] ?? show(t)));
  for (const t of spec.ticks ?? ticks(x0, x1, spec.logx, spec.whole)) if (X(t) >= L) root.append(
    svg("line", { class: "axis", x1: X(t), x2: X(t), y1: names ? T : H - B, y2: H - B + 4 }), text(X(t), H - B + 16, "middle", show(t)));
  root.append(svg("line", { class: "axis", x1: L, x2: W - R, y1: H - B, y2: H - B }), text((L + W - R) / 2, H - 5, "middle", spec.x),
    text(0, 0, "middle", spec.y, { transform: `translate(11 ${(T + H - B) / 2}) rotate(-90)` }));
  for (const b of spec.baseline ?? []) root.append(svg("line", { x1: L, x2: W - R, y1: Y(b.y), y2: Y(b.y), stroke: "var(--ink)", "stroke-dasharray": "6 3" }));
  for (const m of spec.marks ?? []) root.append(svg("line", { x1: X(m.x), x2: X(m.x), y1: Y(m.y - .42), y2: Y(m.y + .42), stroke: "#8a8a8a", "stroke-width": 2, "stroke-dasharray": "2 2" }));
  const path = (points, attributes) => svg("path", { d: "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L"), fill: "none", ...attributes });
  if (spec.front?.length > 1) root.append(path(spec.front.flatMap(([x, y], i, a) => i ? [[X(x), Y(a[i - 1][1])], [X(x), Y(y)]] : [[X(x), Y(y)]]),
    { stroke: "#8a8a8a", "stroke-width": 5, opacity: .3 }));
  for (const s of spec.series) {
    const points = s.points.filter((p) => p.y !== null);
    const group = svg("g", { "data-rows": [...new Set(points.flatMap((p) => p.row ?? s.row ?? []))].join(" ") });
    if (points.length > 1 && s.line !== false) group.append(path(points.map((p) => [X(p.x), Y(p.y)]), { stroke: s.color, "stroke-width": 1.6, "stroke-dasharray": s.dash }));
    const every = spec.whole && points.length > 12 ? Math.ceil(points.length / 8) : 1;
    points.forEach((p, i) => {
      const mark = svg("g", { "data-rows": p.row === undefined ? "" : String(p.row) });
      if (p.low !== undefined && p.low !== p.high) mark.append(path(
        names ? [[X(p.low), Y(p.y)], [X(p.high), Y(p.y)]] : [[X(p.x), Y(p.low)], [X(p.x), Y(p.high)]], { stroke: s.color }));
      if (s.marker && i % every === 0) mark.append(shape(s.marker, X(p.x), Y(p.y), s.marker === "o" ? 6.5 : 5, fill(s)));  // a circle stays visible under a square
      group.append(mark);
    });
    root.append(group);
  }
  const ring = svg("circle", { r: 9, fill: "none", stroke: "var(--accent)", "stroke-width": 2, visibility: "hidden" });
  root.append(ring);
  let at = -1;
  const order = all.map((_, i) => i).sort((a, b) => names ? all[a].y - all[b].y : all[a].x - all[b].x || all[a].y - all[b].y);
  const lies = (p) => p.row !== undefined && rows[p.row].hidden;
  const point = (i) => {
    at = i;
    const p = all[i], box = root.getBoundingClientRect(), scale = box.width / W;
    ring.setAttribute("cx", X(p.x)); ring.setAttribute("cy", Y(p.y)); ring.setAttribute("visibility", "visible");
    say(p.tip ?? `${p.s.name}\n${spec.x} ${show(p.x)}: ${show(p.y)}`, box.left + X(p.x) * scale, box.top + Y(p.y) * scale);
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

