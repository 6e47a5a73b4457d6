// ---- maps: log10 of an error over blocks and tokens ------------------------------------------
const SCALE = [[0, 32, 77], [65, 77, 107], [124, 123, 120], [188, 174, 108], [255, 234, 70]];  // cividis
const shade = (share) => {
  const at = Math.max(0, Math.min(1, share)) * (SCALE.length - 1), n = Math.min(Math.floor(at), SCALE.length - 2);
  return `rgb(${SCALE[n].map((low, i) => Math.round(low + (at - n) * (SCALE[n + 1][i] - low))).join()})`;
};
const map = (spec) => {
  const W = 420, H = 170, L = 34, R = 6, T = 4, B = 34, { values, tokens, blocks } = spec;
  const wide = (W - L - R) / values[0].length, high = (H - T - B) / values.length;
  const label = `${spec.title}: error over ${blocks} blocks and ${tokens} tokens`;
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label, tabindex: "0" });
  const place = (row, column) => ({ x: L + column * wide, y: H - B - (row + 1) * high });
  values.forEach((line, row) => line.forEach((value, column) => root.append(svg("rect", {
    ...place(row, column), width: wide + .4, height: high + .4, fill: shade((value - spec.low) / (spec.high - spec.low || 1)) }))));
  const text = (x, y, anchor, words, more) => svg("text", { x, y, "text-anchor": anchor, ...more }, words);
  const block = (row) => Math.floor(row * blocks / values.length);
  for (const t of ticks(0, blocks - 1, false, true)) root.append(
    text(L - 5, H - B - (t + .5) * (H - T - B) / blocks + 4, "end", show(t)));
  for (const t of ticks(0, tokens, false, true)) root.append(text(L + (W - L - R) * t / tokens, H - B + 14, "middle", show(t)));
  root.append(text((L + W - R) / 2, H - 4, "middle", "token"),
    text(0, 0, "middle", "block", { transform: `translate(10 ${(T + H - B) / 2}) rotate(-90)` }));
  const ring = svg("rect", { width: wide, height: high, fill: "none", stroke: "#fff", "stroke-width": 1.5, visibility: "hidden" });
  root.append(ring);
  let at = null;
  const point = (row, column) => {
    at = [row, column];
    const box = root.getBoundingClientRect(), scale = box.width / W, { x, y } = place(row, column);
    for (const [name, value] of Object.entries({ x, y, visibility: "visible" })) ring.setAttribute(name, value);
    const token = Math.floor(column * tokens / values[0].length);
    say(`block ${block(row)}, token ${token}: ${(10 ** values[row][column]).toPrecision(2)}`, box.left + (x + wide / 2) * scale, box.top + y * scale);
  };
  const leave = () => { at = null; tip.hidden = true; ring.setAttribute("visibility", "hidden"); };
  const near = (event) => {
    const box = root.getBoundingClientRect(), scale = box.width / W;
    const column = Math.floor(((event.clientX - box.left) / scale - L) / wide);
    const row = Math.floor((H - B - (event.clientY - box.top) / scale) / high);
    if (values[row]?.[column] === undefined) leave(); else point(row, column);
  };
  for (const name of ["pointermove", "pointerdown"]) root.addEventListener(name, near);
  for (const name of ["pointerleave", "blur"]) root.addEventListener(name, leave);
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    const [row, column] = at ? [at[0] + step[0], at[1] + step[1]] : [0, 0];
    if (values[row]?.[column] !== undefined) point(row, column);
  });
  return el("figure", {}, el("figcaption", {}, spec.title), root);
};
const scale = ({ low, high }) => el("p", { class: "scale soft" }, show(10 ** low),
  svg("svg", { viewBox: "0 0 160 10", "aria-hidden": "true" }, [...Array(40).keys()].map((n) =>
    svg("rect", { x: n * 4, y: 0, width: 4.2, height: 10, fill: shade(n / 39) }))), show(10 ** high));
