"""An interval tells noise from difference, and holds what it promises."""

import json
import math

import numpy as np
import pytest
from fake_outputs import FakeOutputs

from quantexp.errors import ConfigError, DataError
from quantexp.report import significance, similar
from quantexp.report.cli import main
from quantexp.report.collect import collect
from quantexp.report.compare import compare
from quantexp.report.view import View

WINDOWS, SEQ_LEN = 64, 128


def nll(ppl: float, seed: int, noise: float = 0.01) -> list[float]:
    """Windows of one text: how hard each is does not depend on the model."""
    hard = np.random.default_rng(0).normal(0, 0.3, WINDOWS)
    own = np.random.default_rng(seed).normal(0, noise, WINDOWS)
    return list((math.log(ppl) + hard + own) * (SEQ_LEN - 1))


def measured(outputs: FakeOutputs, label: str, ppl: float, seed: int, **details: object) -> str:
    windows = nll(ppl, seed)
    value = math.exp(math.fsum(windows) / WINDOWS / (SEQ_LEN - 1))
    cell = outputs.cell(label)
    outputs.evaluation(cell, value, window_nll=windows, windows=WINDOWS, seq_len=SEQ_LEN, **details)
    return cell


def test_identical_results_are_not_different() -> None:
    found = significance.perplexity_ratio(nll(6.0, 1), nll(6.0, 1), SEQ_LEN - 1)
    assert (found.estimate, found.low, found.high) == (1.0, 1.0, 1.0)
    assert not found.significant


def test_noise_is_not_significant_and_a_difference_is() -> None:
    # windows differ by a factor of two among themselves; pairing cancels that
    noise = significance.perplexity_ratio(nll(6.0, 1), nll(6.0, 2), SEQ_LEN - 1)
    clear = significance.perplexity_ratio(nll(6.0, 1), nll(6.1, 2), SEQ_LEN - 1)
    assert noise.low < 1 < noise.high
    assert clear.high < 1
    assert clear.significant
    assert clear.estimate == pytest.approx(6.0 / 6.1, rel=0.005)


def test_the_interval_is_reproducible() -> None:
    first, again = (
        significance.perplexity_ratio(nll(6.0, 1), nll(6.1, 2), SEQ_LEN - 1) for _ in range(2)
    )
    assert first == again


@pytest.mark.parametrize(("count", "correlation", "least"), [(166, 0.4, 0.89), (24, 0.0, 0.91)])
def test_coverage_is_near_the_nominal_level(
    monkeypatch: pytest.MonkeyPatch, count: int, correlation: float, least: float
) -> None:
    monkeypatch.setattr(significance, "_DRAWS", 500)
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        noise = generator.normal(size=count + 30)
        series = [0.0]
        for value in noise:
            series.append(correlation * series[-1] + value)
        interval = significance.perplexity_ratio(series[-count:], [0.0] * count, 10)
        hits += interval.low <= 1 <= interval.high
    assert least <= hits / 400 <= 0.99


def test_neighbouring_windows_that_are_alike_widen_the_interval() -> None:
    block = np.repeat(np.random.default_rng(0).normal(size=33), 5)
    shuffled = np.random.default_rng(1).permutation(block)
    zeros = [0.0] * len(block)
    alike = significance.perplexity_ratio(list(block), zeros, 10)
    mixed = significance.perplexity_ratio(list(shuffled), zeros, 10)
    assert alike.high - alike.low > 1.3 * (mixed.high - mixed.low)


def test_accuracies_have_a_difference() -> None:
    generator = np.random.default_rng(0)
    a = (generator.random(2000) < 0.7).astype(float)
    b = np.where(generator.random(2000) < 0.1, 1 - a, a)
    found = significance.accuracy_difference(list(a), list(b))
    assert found.estimate == pytest.approx(a.mean() - b.mean())
    assert found.low < found.estimate < found.high
    assert (found.neutral, found.block) == (0.0, 1)


@pytest.mark.parametrize("b", [[1.0] * 9, [1.0] * 3, [math.nan] * 10])
def test_what_has_no_pairs_is_refused(b: list[float]) -> None:
    with pytest.raises(DataError):
        significance.perplexity_ratio([1.0] * (3 if len(b) == 3 else 10), b, 1)


def test_documents_of_a_task_are_read_from_its_record() -> None:
    details = {"scores": {"acc": [1.0, 0.0] * 10, "acc_norm": [0.0] * 20}, "text_hash": "abc"}
    a = similar.samples({"metric": "acc", "details": details})
    b = similar.samples({"metric": "acc_norm", "details": details})
    assert a is not None
    assert b is not None
    found = similar.interval(a, b)
    assert (found.estimate, found.significant) == (0.5, True)
    assert similar.samples({"metric": "f1", "details": details}) is None


def test_the_table_marks_what_is_like_the_best(outputs: FakeOutputs) -> None:
    measured(outputs, "flatquant", 6.0, 1)
    measured(outputs, "awq", 6.004, 2)
    measured(outputs, "rtn", 9.0, 3)
    found = compare(collect(outputs.root), View(significance=True))
    similar = {line.method: line.entries[0].similar for line in found.lines}
    best = [line.method for line in found.lines if line.entries[0].best]
    assert sum(similar.values()) == 1
    assert not similar["RTN"]
    assert not similar[best[0]]
    assert any(note.startswith("≈ not significantly") for note in found.notes)
    assert not any(line.entries[0].similar for line in compare(collect(outputs.root)).lines)


def test_two_cells_are_compared_by_part_of_their_names(
    outputs: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(outputs, "flatquant", 6.0, 1)
    measured(outputs, "rtn", 9.0, 3)
    arguments = ["--outputs", str(outputs.root), "--compare", "flatquant", "rtn"]
    assert main([*arguments, "--format", "json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["estimate"] == pytest.approx(6 / 9, rel=0.01)
    assert result["significant"] is True
    assert main(arguments) == 0
    assert "ppl(a) / ppl(b)" in capsys.readouterr().out


def test_unlike_tokens_unknown_and_ambiguous_cells_are_refused(outputs: FakeOutputs) -> None:
    measured(outputs, "flatquant", 6.0, 1)
    measured(outputs, "rtn", 9.0, 3, token_hash="def")
    folder = ["--outputs", str(outputs.root), "--compare"]
    with pytest.raises(DataError, match="different tokens"):
        main([*folder, "flatquant", "rtn"])
    with pytest.raises(ConfigError, match="unknown cell 'nobody'"):
        main([*folder, "nobody", "rtn"])
    with pytest.raises(ConfigError, match="part of several cells"):
        main([*folder, "demo", "rtn"])
