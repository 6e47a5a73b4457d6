"""What the demo model must show, from the command line to the report."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "quantexp", *arguments],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def ppl(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], float]:
    """Perplexity by method, rounding and bits."""
    outputs = tmp_path_factory.mktemp("outputs")
    common = ("-m", f"paths.outputs={outputs}", "tracker=none")
    run("method=rtn,smoothquant,flatquant", "bits=w4a4", *common)
    run("method=rtn", "rounding=rtn,gptq", "bits=w3a16", *common)
    run("method=flatquant", "bits=w8a8", *common)
    rows: list[dict[str, Any]] = json.loads(
        run("report", "--format", "json", "--outputs", str(outputs))
    )
    assert all(row["status"] == "done" for row in rows)
    return {
        (row["method"], row["rounding"], row["bits"]): row["value"]
        for row in rows
        if row["metric"] == "ppl"
    }


def test_o38_w4a4_orders_the_methods_as_on_large_models(
    ppl: dict[tuple[str, str, str], float],
) -> None:
    fp = ppl["none", "rtn", "w16a16"]
    rtn, smooth, flat = (ppl[m, "rtn", "w4a4"] for m in ("rtn", "smoothquant", "flatquant"))
    assert fp < flat < smooth < rtn
    assert rtn >= 3 * fp
    # FlatQuant closes at least 90 % of the gap in log-perplexity
    assert math.log(rtn / flat) >= 0.9 * math.log(rtn / fp)


def test_gptq_beats_rtn_at_w3a16(ppl: dict[tuple[str, str, str], float]) -> None:
    assert ppl["rtn", "gptq", "w3a16"] < ppl["rtn", "rtn", "w3a16"]


def test_flatquant_at_w8a8_is_the_baseline_within_one_percent(
    ppl: dict[tuple[str, str, str], float],
) -> None:
    assert ppl["flatquant", "rtn", "w8a8"] == pytest.approx(ppl["none", "rtn", "w16a16"], rel=0.01)
