"""The report page: one safe file, and in a browser a table that sorts, filters and explains."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from fake_outputs import FakeOutputs

from quantexp.errors import ConfigError
from quantexp.report.cli import main
from quantexp.report.page.details import redacted
from quantexp.report.page.html import sort_value

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "</script><img src=x onerror=alert(1)>"
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture
def filled(outputs: FakeOutputs) -> FakeOutputs:
    cells = [outputs.cell("none", "w16a16", 5.0)]
    for bits in ("w4a4", "w4a16"):
        for n, label in enumerate(("rtn", "smoothquant", "awq")):
            cells.append(outputs.cell(label, bits, 8.0 - n + len(bits)))
        for seed in (0, 1):
            cells.append(outputs.cell("flatquant", bits, 5.5 + seed / 10, seed=seed))
    for cell in cells[1:]:
        outputs.calibration(cell)
        outputs.block_error(cell)
    # a fit that broke from the first step, and a report of another shape
    outputs.calibration(cells[1], report_blocks=[{"block": 0, "loss": ["nan", "nan"]}])
    outputs.calibration(cells[2], report_blocks=[{"loss": [1.0, 2.0]}])
    cells.append(
        outputs.cell("mine", state="failed", cause=EVIL, traceback=f"api_key=abcdef123 {EVIL}")
    )
    outputs.sweep("demo", cells)
    jobs = outputs.root / "sweeps" / "demo" / "jobs"
    jobs.mkdir()
    submitted = {"id": "7", "place": "local", "kind": "both", "time": "2026", "tasks": [cells]}
    (jobs / "7.json").write_text(json.dumps(submitted))
    (jobs / "7_0_log.out").write_text(f"first\nlast words {EVIL} token=hf_abcdefghijklmnop\n")
    return outputs


def page(outputs: FakeOutputs) -> str:
    file = outputs.root / "page.html"
    arguments = ["--sweep", "demo", "--format", "html", "--to", str(file)]
    assert main(["--outputs", str(outputs.root), *arguments]) == 0
    return file.read_text()


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return dict(json.loads(found[1]))


def test_nothing_is_loaded_and_nothing_of_a_record_can_run(filled: FakeOutputs) -> None:
    text = page(filled)
    assert "http:" not in text
    assert "https:" not in text
    assert "<img" not in text
    assert text.count("</script>") == 2
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; style-src 'sha256-" in text
    assert f"script-src 'sha256-{digest}'" in text


def test_equal_records_give_equal_pages(filled: FakeOutputs) -> None:
    assert page(filled) == page(filled)


def test_rows_know_their_cells_and_cells_what_made_them(filled: FakeOutputs) -> None:
    data = data_of(page(filled))
    assert sorted(len(cells) for cells in data["rows"]) == [1] * 8 + [2, 2]
    flat = next(c for c in data["cells"].values() if c["id"].startswith("demo-flatquant-w4a4"))
    assert flat["changed"]["method.name"] == "flatquant"
    assert flat["changed"]["bits.weight.bits"] == 4
    assert "data.name" not in flat["changed"]
    assert flat["loss"] == [[0, [0.4, 0.2, 0.1]], [1, [0.4, 0.2, 0.1]]]
    assert len(flat["errors"]) == 2
    assert dict(map(tuple, flat["provenance"]))["quantexp"] == "0.1.0"
    assert "last words" in data["logs"][flat["log"]]
    (panel, _) = data["pareto"]
    assert {series["name"] for series in panel["series"]} >= {"FlatQuant", "RTN"}


def test_what_looks_like_a_secret_is_not_shown(filled: FakeOutputs) -> None:
    text = page(filled)
    assert "abcdefghijklmnop" not in text
    assert "abcdef123" not in text
    for kept in ("token_hash abcdef0123", "tokens: 512 of 1024", "loss 0.25"):
        assert redacted(kept) == kept


def test_printed_values_sort_as_what_they_mean() -> None:
    texts = ("0.5 s", "61 s", "1.7 min", "1.1 h")
    values = [sort_value(text) for text in texts]
    assert values == sorted(values, key=lambda v: v or 0)
    assert sort_value("5.86±0.03 (3)†") == 5.86
    assert sort_value("4.21e+05") == 421000
    assert sort_value("–") is sort_value("nan (2 broken)") is None


def test_a_file_is_written_only_in_a_named_format(filled: FakeOutputs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--to needs --format"):
        main(["--outputs", str(filled.root), "--to", str(tmp_path / "x")])
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name a file that can be written"):
        main(
            ["--outputs", str(filled.root), "--format", "csv", "--to", str(tmp_path / "file" / "x")]
        )


_WATCH = """
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
console.error = (...words) => errors.push(words.join(" "));
"""
_TELL = """
const result = (() => { %s })();
parent.postMessage(JSON.stringify({ ...result, errors }), "*");
"""
_FRAME = """<!doctype html><body style="margin:0"><pre id="result"></pre><script>
const told = document.getElementById("result");
addEventListener("message", (event) => { told.textContent = event.data; });
</script><iframe style="border:0;width:%dpx;height:800px" srcdoc="%s"></iframe>
"""


def seen(text: str, script: str, folder: Path, width: int = 1280) -> dict[str, Any]:
    """What ``script`` returns in a browser that shows the page; its policy stays in force."""
    scripts = [_WATCH, _TELL % script]
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    text = text.replace("script-src ", f"script-src {allowed} ")
    text = text.replace("<title>", f"<script>{scripts[0]}</script><title>", 1)
    text = text.replace("</body>", f"<script>{scripts[1]}</script></body>")
    outer = folder / "outer.html"
    outer.write_text(_FRAME % (width, html.escape(text)))
    command = [
        *(str(CHROMIUM), "--headless", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"),
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        *("--virtual-time-budget=5000", f"--window-size={max(width, 600)},900", "--dump-dom"),
        outer.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    assert found[1], done.stderr[-2000:]
    result = dict(json.loads(html.unescape(found[1])))
    assert result.pop("errors") == []
    return result


_HELP = """
const rows = () => [...document.querySelectorAll("#results > tbody > .row")];
const column = (n) => rows().filter((r) => !r.hidden).map((r) => r.cells[n].textContent);
const head = (n) => document.querySelectorAll("#results > thead th")[n];
"""


@pytest.mark.slow
@browser
def test_columns_sort_up_down_and_back(filled: FakeOutputs, tmp_path: Path) -> None:
    script = """
    const before = column(2), made = [];
    for (let i = 0; i < 3; i++) {
      head(2).querySelector("button").click();
      made.push([head(2).getAttribute("aria-sort"), column(2)]);
    }
    return { before, made };"""
    found = seen(page(filled), _HELP + script, tmp_path)
    (up, rising), (down, falling), (none, back) = found["made"]
    assert (up, down, none) == ("ascending", "descending", None)
    numbers = [value for text in rising if (value := sort_value(text)) is not None]
    assert numbers == sorted(numbers)
    assert rising[-1] == falling[-1] == "–"  # what has no value is last either way
    assert [sort_value(t) for t in falling[:-1]] == numbers[::-1]
    assert back == found["before"] != rising


@pytest.mark.slow
@browser
def test_filters_narrow_the_table_and_the_plots(filled: FakeOutputs, tmp_path: Path) -> None:
    script = """
    const find = document.getElementById("find"), form = document.getElementById("filters");
    const type = (words) => {
      find.value = words;
      const raf = window.requestAnimationFrame;
      window.requestAnimationFrame = (f) => f();
      find.dispatchEvent(new Event("input", { bubbles: true }));
      window.requestAnimationFrame = raf;
      return { methods: column(0), count: document.getElementById("count").textContent,
        off: document.querySelectorAll("#pareto .off").length };
    };
    return { all: type(""), flat: type("flatq"), not: type("4/4/ -flatq -rtn") };"""
    found = seen(page(filled), _HELP + script, tmp_path)
    assert found["all"]["off"] == 0
    assert found["flat"]["methods"] == ["FlatQuant", "FlatQuant"]
    assert found["flat"]["count"] == "2 of 10 rows"
    assert found["flat"]["off"] > 0
    assert {"FlatQuant", "RTN", "FP16"}.isdisjoint(found["not"]["methods"])


@pytest.mark.slow
@browser
def test_a_phone_shows_everything_without_scrolling_the_page(
    filled: FakeOutputs, tmp_path: Path
) -> None:
    script = """
    for (const button of document.querySelectorAll(".open")) button.click();
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    const text = document.getElementById("results").textContent;
    return { width: innerWidth, broken: text.includes("no finite value"),
       page: document.documentElement.scrollWidth,
      log: text.includes("last words \\u003c/script>"),
      base: text.includes("differs from the baseline"),
      images: document.images.length, plots: document.querySelectorAll("svg[role=img]").length,
      expanded: document.querySelectorAll("[aria-expanded=true]").length };"""
    found = seen(page(filled), _HELP + script, tmp_path, width=390)
    assert found["width"] == 390
    assert found["page"] <= 390
    assert found["log"]
    assert found["base"]
    assert found["images"] == 0
    assert found["expanded"] == 9  # one cell's records cannot be understood
    assert found["broken"]
    assert found["plots"] > 20


@pytest.mark.slow
@browser
def test_keys_walk_through_a_plot_and_open_a_row(filled: FakeOutputs, tmp_path: Path) -> None:
    script = """
    const plot = document.querySelector("#pareto svg[role=img]");
    const press = (key) => plot.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    press("ArrowRight");
    const tip = document.getElementById("tip").textContent;
    press("Enter");
    return { tip, opened: document.querySelectorAll(".panel").length,
      focused: document.activeElement.className };"""
    found = seen(page(filled), _HELP + script, tmp_path)
    assert re.search(r"w4a(4|16)\n4\.250 bits: ", found["tip"])
    assert (found["opened"], found["focused"]) == (1, "open")


@pytest.mark.slow
@browser
def test_a_thousand_rows_stay_quick(outputs: FakeOutputs, tmp_path: Path) -> None:
    cells = [outputs.cell("none", "w16a16", 5.0)]
    for n in range(1000):
        cells.append(outputs.cell("rtn", "w4a4", 6 + n % 97, method={"k": n}))
        outputs.calibration(cells[-1], blocks=32)
        outputs.block_error(cells[-1], blocks=32)
    outputs.sweep("demo", cells)
    began = time.monotonic()
    text = page(outputs)
    assert time.monotonic() - began < 60
    script = """
    const began = performance.now();
    head(2).querySelector("button").click();
    document.body.offsetHeight;
    return { sort: performance.now() - began, rows: rows().length, loaded: began };"""
    found = seen(text, _HELP + script, tmp_path)
    assert found["rows"] == 1001
    assert found["sort"] < 2000
    print(f"{len(text) / 1e6:.1f} MB, {found}")
