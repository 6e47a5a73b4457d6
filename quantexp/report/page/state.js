// ---- what is shown, in the address: a view that can be sent ------------------------------------
const heading = [...heads].map((head, n, all) => {
  const twin = all.slice(0, n).some((other) => other.textContent === head.textContent);
  return head.textContent + (twin ? `~${n}` : "");
});
const save = () => {
  if (restoring) return;
  const view = new URLSearchParams();
  if ($("find").value) view.set("find", $("find").value);
  for (const { column, select } of selects) if (select.value !== ALL) view.set(`is.${heading[column]}`, select.value);
  if (sorted) view.set("sort", (sorted.direction < 0 ? "-" : "") + heading[sorted.column]);
  rows.forEach((row, n) => { if (detail.has(row)) view.append("open", data.rows[n][0]); });
  const text = String(view);
  if (text === location.hash.slice(1)) return;
  // about: and some other addresses take no fragment; the page works there without
  try { history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search); } catch { /* as it is */ }
};
let restoring = false;
const restore = () => {
  restoring = true;
  const view = new URLSearchParams(location.hash.slice(1));
  $("find").value = view.get("find") ?? "";
  for (const { column, select } of selects) {
    const value = view.get(`is.${heading[column]}`) ?? ALL;
    select.value = [...select.options].some((option) => option.value === value) ? value : ALL;
  }
  const by = view.get("sort") ?? "", column = heading.indexOf(by.replace(/^-/, ""));
  sort(Math.max(column, 0), column < 0 ? 0 : by[0] === "-" ? -1 : 1);
  const open = new Set(view.getAll("open"));
  rows.forEach((row, n) => { if (known(n) && open.has(data.rows[n][0]) !== detail.has(row)) toggle(row, n); });
  filter();
  restoring = false;
};
