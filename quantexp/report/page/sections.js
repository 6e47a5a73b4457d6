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
for (const id of ["pareto", "blocks", "accuracy", "cost", "kronecker", "channels", "surface"]) section(id, data[id]);
if (data.maps.length) $("surface").append(scale(data.maps[0]), el("div", { class: "plots" }, data.maps.map(map)));
restore();
addEventListener("hashchange", restore);
