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
from quantexp.experiment import record
from quantexp.report.cli import main
from quantexp.report.page.details import redacted
from quantexp.report.page.html import sort_value

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLATNESS = {
    "kind": "flatness",
    "model": "demo",
    "bits": "w4a4",
    "block": 1,
    "cells": [],
    "channels": {
        "attention_input": {
            "activations": {"original": [9.0, 1, 1, 1], "flatquant": [1.1, 1, 1, 0.9]},
            "weights": {"original": [1.0, 1, 1, 0], "flatquant": [1.1, 1, 1, 0.9]},
        }
    },
    "mse": {"original": [[2.0] * 5, [4.0] * 5], "flatquant": [[0.1] * 5, [0.0] * 5]},
    "mean_mse": {"original": 3.0, "flatquant": 0.05},
}
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


def test_figures_that_need_the_model_are_shown_once_measured_and_never_before(
    filled: FakeOutputs,
) -> None:
    text = page(filled)
    command = re.search(r"python -m quantexp figures demo --flatness (\S+) (\S+) --outputs", text)
    assert command
    assert [name.split("-")[1] for name in command.groups()] == ["smoothquant", "flatquant"]
    path = filled.root / "sweeps" / "demo" / "figures" / "flatness.json"
    record.write_signed(path, FLATNESS)
    text = page(filled)
    assert "--flatness" not in text
    data = data_of(text)
    assert [panel["title"] for panel in data["maps"]] == [
        "original: mean 3",
        "FlatQuant: mean 0.05",
    ]
    curve = data["channels"][0]["series"][0]
    assert (curve["name"], [p["x"] for p in curve["points"]]) == ("original", [1, 2, 3, 4])
    assert curve["points"][0]["y"] == pytest.approx(9 / (84 / 4) ** 0.5, rel=1e-3)
    path.write_text(path.read_text().replace("9.0", "1.0"))  # edited: as if it were not there
    assert data_of(page(filled))["channels"] == []


def test_accuracies_costs_and_sizes_are_what_the_figures_show(outputs: FakeOutputs) -> None:
    cells = [outputs.cell("none", "w16a16", 5.5), outputs.cell("rtn", "w4a4", 9.0)]
    for cell, value in zip(cells, (0.7, 0.6), strict=True):
        zeroshot = {"kind": "zeroshot", "dataset": "piqa", "metric": "acc_norm", "value": value}
        path = outputs.folder(cell) / "evaluations" / "zeroshot-piqa.json"
        record.write_signed(path, {**zeroshot, "stderr": 0.02, "details": {}})
    for size, ppl in (([16, 16], 6.0), ([4, 64], 6.2), (None, 5.9)):
        options = {"kronecker_hidden": size, "kronecker_intermediate": None}
        cells.append(outputs.cell("flatquant", "w4a4", ppl, method=options))
        outputs.calibration(cells[-1])
    outputs.sweep("demo", cells)
    data = data_of(page(outputs))
    (panel,) = data["accuracy"]
    assert panel["names"] == ["piqa acc_norm"]
    assert [m["x"] for m in panel["marks"]] == [50]
    points = {s["name"]: s["points"][0] for s in panel["series"]}
    assert [points[name]["x"] for name in ("FP16", "RTN")] == [70, 60]
    assert (points["RTN"]["low"], points["RTN"]["high"]) == (58, 62)
    time, memory = data["cost"]
    assert {s["points"][0]["x"] for s in time["series"]} == {61}
    assert {s["points"][0]["x"] for s in memory["series"]} == {2}
    ppl, products, _ = data["kronecker"]
    assert (ppl["ticks"], ppl["baseline"]) == ([4, 16], [{"y": 5.9}])
    assert [p["y"] for p in products["series"][0]["points"]] == [68, 32]


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
</script><iframe style="border:0;width:%dpx;height:800px" src="%s"></iframe>
"""


def seen(
    text: str, script: str, folder: Path, width: int = 1280, fragment: str = "", dark: bool = False
) -> dict[str, Any]:
    """What ``script`` returns in a browser that shows the page; its policy stays in force."""
    scripts = [_WATCH, _TELL % script]
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    text = text.replace("script-src ", f"script-src {allowed} ")
    text = text.replace("<title>", f"<script>{scripts[0]}</script><title>", 1)
    text = text.replace("</body>", f"<script>{scripts[1]}</script></body>")
    outer = folder / "outer.html"
    inner = folder / "inner.html"
    inner.write_text(text)
    outer.write_text(_FRAME % (width, html.escape(f"{inner.as_uri()}#{fragment}")))
    command = [
        *(str(CHROMIUM), "--headless", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"),
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        f"--blink-settings=preferredColorScheme={int(not dark)}",
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
def test_a_view_is_in_the_address_and_comes_back_from_it(
    filled: FakeOutputs, tmp_path: Path
) -> None:
    script = """
    const view = () => ({ hash: location.hash, methods: column(0),
      open: [...document.querySelectorAll(".panel code")].map((c) => c.textContent),
      sorted: [...document.querySelectorAll("[aria-sort]")].map((h) => h.textContent) });
    const before = view();
    const find = document.getElementById("find");
    const select = document.querySelector("#filters select");
    const raf = window.requestAnimationFrame;
    window.requestAnimationFrame = (f) => f();
    find.value = "4/4/ -rtn";
    find.dispatchEvent(new Event("input", { bubbles: true }));
    select.value = "FlatQuant";
    select.dispatchEvent(new Event("input", { bubbles: true }));
    window.requestAnimationFrame = raf;
    for (let i = 0; i < 2; i++) head(2).querySelector("button").click();
    rows().find((r) => !r.hidden).querySelector(".open").click();
    return { before, after: view() };"""
    text = page(filled)
    first = seen(text, _HELP + script, tmp_path)
    assert first["before"]["hash"] == ""
    after = first["after"]
    assert after["methods"] == ["FlatQuant"]
    assert len(after["open"]) == 2  # its seeds
    assert after["hash"].startswith("#find=")
    again = seen(text, _HELP + script, tmp_path, fragment=after["hash"][1:])["before"]
    assert again == after
    wrong = seen(text, _HELP + script, tmp_path, fragment="sort=nothing&is.method=x&open=%00&find")
    assert wrong["before"]["methods"] == first["before"]["methods"]


@pytest.mark.slow
@browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_figures_of_the_model_stand_in_the_page_and_answer_to_keys(
    filled: FakeOutputs, tmp_path: Path, width: int, dark: bool
) -> None:
    record.write_signed(filled.root / "sweeps/demo/figures/flatness.json", FLATNESS)
    script = """
    const at = (id) => [...document.querySelectorAll(`#${id} figcaption`)]
      .map((f) => f.textContent);
    const maps = [...document.querySelectorAll("#surface svg[role=img]")].slice(1);
    const key = (key) => maps[0]
      .dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    maps[0].focus(); key("ArrowUp"); key("ArrowUp"); key("ArrowRight");
    const ink = (e, name) => getComputedStyle(e)[name].match(/[\\d.]+/g).slice(0, 3)
      .reduce((sum, c) => sum + Number(c) / 765, 0);
    const clipped = [...document.querySelectorAll("svg[role=img] text")].filter((t) => {
      const box = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();
      return box.left < all.left - 1 || box.right > all.right + 1 || box.bottom > all.bottom + 1;
    }).map((t) => t.textContent);
    return { channels: at("channels"), surface: at("surface"), cost: at("cost"), clipped,
      tip: document.getElementById("tip").textContent, width: innerWidth,
      page: document.documentElement.scrollWidth,
      contrast: ink(document.body, "color") - ink(document.body, "backgroundColor") };"""
    found = seen(page(filled), _HELP + script, tmp_path, width, dark=dark)
    assert found["channels"][:2] == ["input of q, k, v: activations", "input of q, k, v: weights"]
    assert found["surface"] == [
        "demo w4a4: mean over tokens",
        "original: mean 3",
        "FlatQuant: mean 0.05",
    ]
    assert found["cost"] == ["Calibration time", "Peak memory"]
    assert found["tip"] == "block 1, token 1: 4.0"
    assert found["clipped"] == []
    assert found["page"] <= found["width"] == width
    assert (found["contrast"] > 0.7) if dark else (found["contrast"] < -0.7)


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
