"""Oracles O36 to O40 on the bundled model: what must hold for a whole language model.

O38 (the order of the methods at W4A4) is in ``test_demo_claims.py``.
"""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers import make_config, silent

from quantexp.experiment.calibrate import calibrate
from quantexp.experiment.cell import Cell
from quantexp.experiment.evaluate import evaluate
from quantexp.models import demo

pytestmark = pytest.mark.slow
WEIGHTS = {8: (8, 16, 16, 16), 4: (4, 16, 16, 16), 3: (3, 16, 16, 16), 2: (2, 16, 16, 16)}


class Demo:
    """Cells on the demo model, each measured once."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs

    @cache  # noqa: B019 - lives as long as the module's tests
    def cell(
        self,
        method: str,
        bits: tuple[int, int, int, int],
        rounding: str = "rtn",
        group_size: int | None = None,
        data_seed: int = 0,
        options: tuple[tuple[str, Any], ...] = (),
    ) -> Cell:
        """A calibrated cell."""
        config = make_config(
            demo.CHECKPOINT, method, bits, options=dict(options), rounding=rounding,
            tensors={"weight": {"group_size": group_size}},
            data={"name": "pydocs", "corpus": "pydocs", "num_samples": 32, "seq_len": 128,
                  "seed": data_seed},
            evaluation={"name": "pydocs", "block_error_windows": 0, "perplexity": [
                {"name": "pydocs", "corpus": "pydocs", "seq_len": 256, "max_windows": 40}]},
            paths={"outputs": str(self.outputs)},
        )  # fmt: skip
        cell = Cell(config)
        if cell.quantized:
            calibrate(cell, silent)
        return cell

    def ppl(self, *setting: Any, **more: Any) -> float:
        """Perplexity of a setting."""
        cell = self.cell(*setting, **more)
        (evaluation,) = cell.evaluations
        if cell.result(evaluation) is None:
            evaluate(cell, evaluation, silent)
        result = cell.result(evaluation)
        assert result is not None
        return float(result["value"])

    @property
    def fp(self) -> float:
        """Of the unquantized model."""
        return self.ppl("none", (16, 16, 16, 16))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("outputs"))


def test_o36_perplexity_never_falls_with_fewer_bits(model: Demo) -> None:
    found = [model.fp, *(model.ppl("rtn", bits) for bits in WEIGHTS.values())]
    for better, worse in pairwise(found):
        assert better <= worse * 1.005
    assert model.ppl("rtn", (8, 8, 16, 16)) == pytest.approx(model.fp, rel=0.01)


@pytest.mark.parametrize("bits", [3, 4])
def test_o37_groups_are_at_least_as_good_as_whole_rows(model: Demo, bits: int) -> None:
    grouped = model.ppl("rtn", WEIGHTS[bits], group_size=64)
    assert grouped <= model.ppl("rtn", WEIGHTS[bits]) * 1.01


@pytest.mark.parametrize("bits", [3, 4])
def test_o37_gptq_is_at_least_as_good_as_rtn(model: Demo, bits: int) -> None:
    seeds = [model.ppl("rtn", WEIGHTS[bits], "gptq", data_seed=seed) for seed in range(3)]
    assert sum(seeds) / len(seeds) <= model.ppl("rtn", WEIGHTS[bits]) * 1.02


def test_o39_scaling_and_clipping_do_not_hurt_the_transform(model: Demo) -> None:
    def error(**on: bool) -> float:
        options = {"per_channel_scaling": False, "clipping": False, "epochs": 4, **on}
        cell = model.cell("flatquant", (4, 4, 4, 4), options=tuple(options.items()))
        blocks = json.loads((cell.checkpoint / "report.json").read_text())["blocks"]
        return float(sum(block["error"]["method"] for block in blocks))

    alone = error()
    assert error(clipping=True) <= alone
    assert error(per_channel_scaling=True) <= alone * 1.05


def test_o40_a_4_bit_cache_is_free_and_keys_are_the_sensitive_half(model: Demo) -> None:
    assert model.ppl("rtn", (16, 16, 4, 4)) <= model.fp * 1.02
    assert model.ppl("rtn", (16, 16, 2, 4)) >= model.ppl("rtn", (16, 16, 4, 2))
