"""What is drawn is what the records say; what they do not say is left out with a reason."""

import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_outputs import FakeOutputs
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantexp.__main__ import main
from quantexp.evaluation.tasks import TASKS
from quantexp.experiment import record
from quantexp.figures import cli, palette, style
from quantexp.figures.draw import KINDS, draw
from quantexp.figures.lines import MissingError, lines
from quantexp.report.collect import Row, collect

FLATNESS = {
    "kind": "flatness",
    "model": "demo",
    "bits": "w4a4",
    "block": 1,
    "channels": {
        site: {
            "activations": {"original": [9.0, 1, 1, 1], "flatquant": [1.1, 1, 1, 0.9]},
            "weights": {"original": [1.0, 1, 1, 0], "flatquant": [1.1, 1, 1, 0.9]},
        }
        for site in ("attention_input", "mlp_output")
    },
    "mse": {"original": [[2.0] * 5, [4.0] * 5], "flatquant": [[0.1] * 5, [0.0] * 5]},
    "mean_mse": {"original": 3.0, "flatquant": 0.05},
}


def rows(outputs: FakeOutputs) -> list[Row]:
    return collect(outputs.root)


def points(axis: Axes) -> set[tuple[float, ...]]:
    """The y values of each line that is drawn."""
    return {tuple(round(float(y), 6) for y in line.get_ydata()) for line in axis.lines}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_pareto_shows_each_method_at_its_bits_and_perplexity(filled: FakeOutputs) -> None:
    figure = draw("pareto", rows(filled))
    (axis,) = figure.axes
    data = {tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in axis.lines}
    assert {(4.05, 9.0), (4.11, 5.8), (0.0, 1.0, 5.5, 5.5)} <= data
    assert (4.05, 4.11, 9.0, 5.8) in data  # the front
    assert legend(figure) == ["FP16", "RTN", "FlatQuant"]


def test_precisions_of_activations_have_panels_of_their_own(filled: FakeOutputs) -> None:
    for bits in ("w4a16", "w3a16g128"):
        filled.calibration(filled.cell("gptq", bits, 6.0))
    titles = [axis.get_title() for axis in draw("pareto", rows(filled)).axes]
    assert titles == ["weights only", "activations 4 bit"]


def test_seeds_are_one_point_with_their_deviation(outputs: FakeOutputs) -> None:
    for seed, ppl in enumerate((5.0, 6.0, 7.0)):
        outputs.calibration(outputs.cell("flatquant", ppl=ppl, seed=seed))
    (line,) = lines([row for row in rows(outputs) if row.metric == "ppl"])
    assert (line.mean, line.spread) == (6.0, 1.0)
    (axis,) = draw("pareto", rows(outputs)).axes
    (bars,) = axis.containers
    low, high = bars.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == (5.0, 7.0)


def test_a_broken_run_is_named_and_an_edited_one_left_out(outputs: FakeOutputs) -> None:
    for label, ppl in (("rtn", math.inf), ("gptq", 6.0), ("smoothquant", 7.0)):
        outputs.calibration(outputs.cell(label, "w4a16", ppl))
    (path,) = outputs.root.glob("cells/demo-smoothquant-*/evaluations/*.json")
    path.write_text(path.read_text().replace("7.0", "1.0"))
    figure = draw("pareto", collect(outputs.root, warn=lambda _: None))
    assert figure.legends[0].get_title().get_text() == "not finite: RTN w4a16"
    assert legend(figure) == ["GPTQ"]


def test_block_errors_are_relative_to_the_signal(filled: FakeOutputs) -> None:
    (axis,) = draw("blocks", rows(filled)).axes
    expected = tuple(round(10 ** (-(20 - i) / 10), 6) for i in range(3))
    assert points(axis) == {expected}


def test_accuracies_stand_with_their_error_and_the_level_of_guessing(filled: FakeOutputs) -> None:
    (axis,) = draw("accuracy", rows(filled)).axes
    heights = sorted(round(float(bar.get_height())) for bar in axis.patches)
    assert heights == [50, 50, 60, 60, 70, 70]
    segments = [s for c in axis.collections for s in c.get_segments()]
    errors = {round(float(np.ptp(s[:, 1])) / 2, 3) for s in segments if np.ptp(s[:, 1])}
    assert errors == {1.2}
    levels = {round(float(s[0, 1])) for s in segments if not np.ptp(s[:, 1])}
    assert levels == {round(100 * TASKS[task].chance) for task in ("piqa", "arc_easy")}
    assert axis.get_ylim()[0] == 0


def test_cost_shows_time_and_memory_of_each_calibration(filled: FakeOutputs) -> None:
    time, memory = draw("cost", rows(filled)).axes
    assert [text.get_text() for text in time.get_yticklabels()] == ["RTN w4a4", "FlatQuant w4a4"]
    assert [float(line.get_xdata()[0]) for line in time.lines] == [61.0, 61.0]
    assert [float(line.get_xdata()[0]) for line in memory.lines] == [2.0, 2.0]


def test_kronecker_sizes_are_ordered_and_the_methods_own_is_a_line(outputs: FakeOutputs) -> None:
    for size, ppl in (([16, 16], 6.0), ([4, 64], 6.2), (None, 5.9)):
        options = {"kronecker_hidden": size, "kronecker_intermediate": None}
        outputs.calibration(outputs.cell("flatquant", "w4a4", ppl, method=options))
    ppl, products, time = draw("kronecker", rows(outputs)).axes
    assert points(ppl) == {(6.2, 6.0), (5.9, 5.9)}
    assert [text.get_text() for text in ppl.get_xticklabels()] == ["4", "16"]
    assert points(products) == {(68.0, 32.0)}
    assert time.get_ylabel() == "calibration (min)"


def test_figures_without_data_say_what_would_give_it(outputs: FakeOutputs) -> None:
    outputs.cell("rtn", "w4a4", 9.0)
    for kind in KINDS:
        with pytest.raises(MissingError):
            draw(kind, rows(outputs))


def test_methods_differ_in_colour_or_marker_and_rounding_in_fill() -> None:
    known = [*palette.METHODS]
    looks = [(style.line(name)["color"], style.line(name)["marker"]) for name in known]
    assert len(set(looks)) == len(set(known) - {"original", "hadamard"})
    plain, gptq = style.line("flatquant"), style.line("flatquant+gptq")
    assert plain["color"] == gptq["color"]
    assert plain["markerfacecolor"] != gptq["markerfacecolor"]
    assert style.line("mine") == style.line("mine")
    assert style.line("mine")["marker"] != style.line("mine", variant=3)["marker"]


def test_the_command_writes_all_formats_and_equal_bytes(
    filled: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    record.write_signed(filled.root / "sweeps/quickstart/figures/flatness.json", FLATNESS)
    assert cli.main(["quickstart", "--outputs", str(filled.root)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    folder = filled.root / "sweeps" / "quickstart" / "figures"
    drawn = [kind for kind in KINDS if kind != "kronecker"]
    assert written == [folder / f"{kind}.{form}" for kind in drawn for form in cli.FORMATS]
    again = [
        folder / f"{kind}.{form}" for kind in ("accuracy", "surface") for form in ("svg", "pdf")
    ]
    before = [path.read_bytes() for path in again]
    kinds = ["--kind", "accuracy,surface", "--format", "pdf,svg"]
    cli.main(["quickstart", "--outputs", str(filled.root), *kinds])
    assert [path.read_bytes() for path in again] == before
    assert not list(folder.glob(".*"))


def test_what_is_left_out_is_said(
    filled: FakeOutputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--kind", "cost,kronecker", "--format", "svg", "--to", str(tmp_path / "here")]
    assert cli.main([*arguments, "--outputs", str(filled.root)]) == 0
    out, err = capsys.readouterr()
    assert out.split() == [str(tmp_path / "here" / "cost.svg")]
    assert "kronecker: left out: no sweep over Kronecker sizes" in err


def test_no_results_say_how_to_get_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--outputs", str(tmp_path)]) == 1
    assert "run `python -m quantexp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quikstart"], "did you mean 'quickstart'"),
        (["--kind", "parto"], "unknown kind of figure 'parto': did you mean 'pareto'"),
        (["--format", "jpg"], "unknown format 'jpg'"),
        (["--block", "1"], "--block says what --flatness measures"),
        (["--flatness", "flatquand"], "unknown cell 'flatquand'"),
        (["--flatness", "demo-"], "is part of several cells"),
    ],
)
def test_wrong_arguments_are_refused(
    filled: FakeOutputs,
    arguments: Sequence[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["figures", *arguments, "--outputs", str(filled.root)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (filled.root / "figures").exists()


def test_an_edited_measurement_is_refused(filled: FakeOutputs) -> None:
    path = filled.root / "figures" / "flatness.json"
    record.write_signed(path, FLATNESS)
    path.write_text(path.read_text().replace("9.0", "1.0"))
    assert main(["figures", "--outputs", str(filled.root)]) == 2


def test_records_are_drawn_without_torch_and_help_without_matplotlib(filled: FakeOutputs) -> None:
    code = (
        "import sys; from quantexp.__main__ import main; main(sys.argv[2:]); "
        "heavy = set(sys.argv[1].split(',')) & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    for heavy, arguments in (
        ("torch,transformers,hydra", ["figures", "--outputs", str(filled.root)]),
        ("torch,hydra,matplotlib,numpy", ["figures", "--help"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, heavy, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
