// ---- news, where the page is served: it loads again unless somebody is at work in it -----------
const version = document.documentElement.dataset.version, LIVE = $("live").textContent;
const told = (...words) => { if ($("live").textContent !== words[0]) $("live").replaceChildren(...words); };
const busy = () => document.activeElement !== document.body || !tip.hidden || String(getSelection());
const ask = async () => {
  try {
    const headers = { "If-None-Match": `"${version}"` };
    const answer = document.hidden ? null
      : await fetch(location.pathname, { method: "HEAD", cache: "no-store", headers });
    if (answer?.status === 200 && !busy()) { location.reload(); return; }
    if (answer?.status === 200 && !document.querySelector("#live button")) {
      const again = el("button", { type: "button" }, "Show them");
      again.addEventListener("click", () => location.reload());
      told("There are new results. ", again);
    } else if (answer?.status === 304) told(LIVE);
    else if (answer && answer.status !== 200) told("The server cannot show newer results: see its terminal.");
  } catch { told("The server has ended: this is what it showed last."); }
  setTimeout(ask, 3000);
};
setTimeout(ask, 3000);
