"""What figures 1 and 2 of FlatQuant are drawn from: equal models have no error, flat is 0."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from helpers import make_config, silent, windows

from quantexp.__main__ import main
from quantexp.experiment import record
from quantexp.experiment.calibrate import calibrate
from quantexp.experiment.cell import Cell
from quantexp.figures.flatness import measure, unflatness

Make = Callable[..., Cell]


@pytest.fixture
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Make:
    """Cells of one small model, calibrated on its own windows, in ``tmp_path / "outputs"``."""
    kind = getattr(request, "param", "llama")
    path = zoo.make(kind, tmp_path / "model", intermediate_size=172)
    text = tmp_path / "windows.json"
    text.write_text(json.dumps({"windows": windows(4).tolist()}))

    def cell(method: str, bits: tuple[int, int, int, int] = (4, 4, 16, 16), **fields: Any) -> Cell:
        found = Cell(
            make_config(
                path,
                method,
                bits,
                data={"name": "local", "path": str(text)},
                evaluation={"name": "local", "perplexity": [{"name": "own", "path": str(text)}]},
                paths={"outputs": str(tmp_path / "outputs")},
                **fields,
            )
        )
        calibrate(found, silent)
        record.write_signed(found.folder / "cell.json", found.describe())
        return found

    return cell


def test_transforms_without_quantization_leave_the_function_as_it_was(make: Make) -> None:
    cells = [make("smoothquant", (16, 16, 16, 16)), make("flatquant", (16, 16, 16, 8))]
    for cell in cells[:1]:
        found = measure([cell], None, silent)
        assert list(found["mse"]) == ["original", "smoothquant", "hadamard"]
        assert max(found["mean_mse"].values()) < 1e-9
    # values alone are quantized: their Hadamard transform must undo itself within the heads
    found = measure([cells[1]], None, silent)
    assert 0 < found["mean_mse"]["hadamard"] < 1e-2


def test_magnitudes_are_those_of_what_each_linear_reads(make: Make) -> None:
    cell = make("smoothquant")
    found = measure([cell], 1, silent)
    assert found["block"] == 1
    assert {entry["block"] for entry in found["flatness"]} == {0, 1}
    assert [len(of) for of in found["mse"]["original"]] == [24, 24]
    down = found["channels"]["mlp_output"]
    assert {len(of) for of in (*down["activations"].values(), *down["weights"].values())} == {172}
    for of in (*down["activations"].values(), *down["weights"].values()):
        assert of == sorted(of, reverse=True)
    # an orthogonal transform keeps the norm, and scaling at norms does not reach down_proj
    norms = {name: math.hypot(*of) for name, of in down["activations"].items()}
    assert norms["hadamard"] == pytest.approx(norms["original"], rel=0.05)
    assert norms["smoothquant"] == pytest.approx(norms["original"], rel=0.1)


@pytest.mark.parametrize("make", ["mixtral"], indirect=True)
def test_what_experts_read_is_what_all_tokens_are(make: Make) -> None:
    cell = make("smoothquant", (16, 16, 16, 16))
    found = measure([cell], 0, silent)
    assert max(found["mean_mse"].values()) < 1e-9
    assert set(found["channels"]) == {"attention_input", "attention_output", "mlp_input"}
    read = found["channels"]["mlp_input"]["activations"]["original"]
    # a norm's output has about one per channel and token, whichever expert it is sent to
    assert math.hypot(*read) == pytest.approx((len(read) * 4 * 24) ** 0.5, rel=0.2)


def test_flatness_is_of_the_shape_alone() -> None:
    assert unflatness(torch.full((8,), 3.0)) == pytest.approx(0, abs=1e-9)
    one = torch.zeros(16)
    one[5] = 2.0
    assert unflatness(one) == pytest.approx(math.sqrt(2 - 2 / 4))
    d = torch.rand(32)
    assert unflatness(7 * d) == pytest.approx(unflatness(d))
    assert unflatness(torch.zeros(4)) == 0


def test_the_command_measures_once_and_draws_again_without_torch(
    make: Make, tmp_path: Path
) -> None:
    make("smoothquant")
    outputs = ["--outputs", str(tmp_path / "outputs"), "--kind", "surface", "--format", "svg"]
    assert main(["figures", *outputs, "--flatness", "smoothquant"]) == 0
    folder = tmp_path / "outputs" / "figures"
    before = (folder / "surface.svg").read_bytes()
    (folder / "surface.svg").unlink()
    code = (
        "import sys; from quantexp.__main__ import main\n"
        "assert main(sys.argv[1:]) == 0; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "figures", *outputs], check=True)
    assert (folder / "surface.svg").read_bytes() == before


def test_what_cannot_be_compared_is_refused(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smooth, wide = make("smoothquant"), make("rtn", (8, 8, 16, 16))
    freed = make("rtn")
    (freed.checkpoint / "manifest.json").unlink()
    again = make("smoothquant", options={"alpha": 0.7})
    bare = Cell(replace(smooth.config, method=make_config("x", "none").method))
    record.write_signed(bare.folder / "cell.json", bare.describe())
    for names, message in (
        ([smooth.id, wide.id], "differ in their bit setting: name cells of one model"),
        ([freed.id], "has no checkpoint"),
        ([smooth.id, again.id], "two cells of smoothquant: name one per method"),
        ([bare.id], "is the baseline"),
        ([smooth.id, "--block", "2"], "--block=2: the model has blocks 0 to 1"),
    ):
        arguments = ["figures", "--outputs", str(tmp_path / "outputs"), "--flatness", *names]
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs" / "figures").exists()


@pytest.mark.slow
def test_on_the_demo_model_flatquant_is_flattest_and_its_errors_are_the_least(
    tmp_path: Path,
) -> None:
    common = ["bits=w4a4", "tracker=none", f"paths.outputs={tmp_path}", "cluster=debug"]
    for method in ("smoothquant", "flatquant"):
        command = [sys.executable, "-m", "quantexp", f"method={method}", *common]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    arguments = ["--flatness", "smoothquant", "flatquant", "--outputs", str(tmp_path)]
    assert main(["figures", "--kind", "channels,surface", "--format", "png", *arguments]) == 0
    found = json.loads((tmp_path / "figures" / "flatness.json").read_text())
    others = ("original", "smoothquant", "hadamard")
    for tensor in ("activations", "weights"):
        entries = [entry for entry in found["flatness"] if entry["tensor"] == tensor]
        mean = {
            name: sum(entry[name] for entry in entries) / len(entries)
            for name in (*others, "flatquant")
        }
        assert mean["flatquant"] < min(mean[name] for name in others), (tensor, mean)
    mse = {name: torch.tensor(of) for name, of in found["mse"].items()}
    rest = torch.stack([mse[name] for name in others]).amin(0)
    # its surface lies below all others: nearly everywhere, and in every block
    assert float((mse["flatquant"] < rest).float().mean()) > 0.99
    assert bool((mse["flatquant"].mean(1) < 0.6 * rest.mean(1)).all())
    order = ("flatquant", "hadamard", "smoothquant", "original")
    means = [found["mean_mse"][name] for name in order]
    assert means == sorted(means)
