"""The table compares like with like, and says when it does not."""

import math

from fake_outputs import FakeOutputs

from quantexp.report.collect import collect
from quantexp.report.compare import Comparison, compare
from quantexp.report.names import method_name


def of(outputs: FakeOutputs) -> Comparison:
    return compare(collect(outputs.root))


def shown(outputs: FakeOutputs) -> dict[str, str]:
    """Method → its first value, the best in stars."""
    found = {}
    for line in of(outputs).lines:
        entry = line.entries[0]
        found[line.method] = f"*{entry.text}*" if entry.best else entry.text
    return found


def test_the_baseline_comes_first_then_many_bits_before_few(outputs: FakeOutputs) -> None:
    for bits in ("w3a16g128", "w4a4kv4", "w4a4", "w8a8"):
        outputs.cell("rtn", bits, 9.0)
        outputs.cell("flatquant", bits, 8.0)
    outputs.cell("none", "w16a16", 5.0)
    lines = of(outputs).lines
    assert [(line.method, line.bits) for line in lines[::2]] == [
        ("FP16", "16/16/16/16/16/–"),
        ("FlatQuant", "8/8/16/16/16/–"),
        ("FlatQuant", "4/4/16/16/16/–"),
        ("FlatQuant", "4/4/4/4/16/–"),
        ("FlatQuant", "3/16/16/16/16/128"),
    ]


def test_the_best_is_marked_within_each_bit_setting(outputs: FakeOutputs) -> None:
    for bits, values in {"w4a4": (9.0, 8.0, 7.0), "w8a8": (5.0, 5.2, 5.1)}.items():
        for label, value in zip(("rtn", "awq", "flatquant"), values, strict=True):
            outputs.cell(label, bits, value)
    outputs.cell("none", "w16a16", 5.0)
    best = {(ln.bits, ln.method) for ln in of(outputs).lines if ln.entries[0].best}
    assert best == {
        ("8/8/16/16/16/–", "RTN"),
        ("4/4/16/16/16/–", "FlatQuant"),
    }


def test_ties_as_printed_are_all_best(outputs: FakeOutputs) -> None:
    for label, value in (("rtn", 7.001), ("awq", 7.004), ("flatquant", 7.1)):
        outputs.cell(label, ppl=value)
    assert shown(outputs) == {"RTN": "*7.00*", "AWQ": "*7.00*", "FlatQuant": "7.10"}


def test_a_broken_value_is_shown_and_never_the_best(outputs: FakeOutputs) -> None:
    outputs.cell("rtn", ppl=math.nan)
    outputs.cell("awq", ppl=-math.inf)
    outputs.cell("flatquant", ppl=8.0)
    assert shown(outputs) == {"RTN": "nan", "AWQ": "-inf", "FlatQuant": "*8.00*"}


def test_seeds_are_averaged_and_broken_ones_counted(outputs: FakeOutputs) -> None:
    for seed, value in enumerate((8.0, 9.0, 10.0)):
        outputs.cell("flatquant", ppl=value, seed=seed)
    for seed, value in enumerate((1.0, math.nan, 2.0)):
        outputs.cell("awq", ppl=value, seed=seed)
    assert shown(outputs) == {
        "FlatQuant": "*9.00±1.00 (3)*",
        "AWQ": "1.50±0.71 (2, 1 broken)",  # lower, but not without its broken run
    }


def test_cells_that_differ_in_an_option_are_not_averaged(outputs: FakeOutputs) -> None:
    outputs.cell("smoothquant", ppl=9.0, method={"alpha": 0.5})
    outputs.cell("smoothquant", ppl=8.0, method={"alpha": 0.7})
    assert shown(outputs) == {
        "SmoothQuant (alpha=0.5)": "9.00",
        "SmoothQuant (alpha=0.7)": "*8.00*",
    }


def test_options_without_effect_tell_nothing_apart(outputs: FakeOutputs) -> None:
    # the scheme of tensors that stay at 16 bits
    outputs.cell("none", "w16a16", 5.0, scheme="symmetric")
    outputs.cell("none", "w16a16", 5.0, scheme="asymmetric", updated="2026-02-01")
    assert list(shown(outputs)) == ["FP16"]


def test_a_cell_replaced_by_newer_code_is_left_out_and_said(outputs: FakeOutputs) -> None:
    outputs.cell("rtn", ppl=9.0, updated="2026-01-01")
    outputs.cell("rtn", ppl=8.0, updated="2026-01-02", code="new")
    assert shown(outputs) == {"RTN": "*8.00*"}
    assert "1 older cell " in of(outputs).notes[0]


def test_values_measured_in_unlike_ways_get_columns_of_their_own(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn", ppl=9.0)
    outputs.evaluation(cell, 8.0, seq_len=256, windows=4)
    outputs.evaluation(cell, 7.0, dataset="wikitext2")
    outputs.evaluation(outputs.cell("awq"), 6.0, windows=4, token_hash="def")
    columns = of(outputs).columns
    assert "wikitext2 ppl ↓" in columns
    assert "pydocs ppl (seq_len=256, windows=4) ↓" in columns
    assert "pydocs ppl (seq_len=128, windows=8) ↓" in columns
    assert "pydocs ppl (seq_len=128, windows=4) ↓" in columns


def test_two_models_may_have_their_own_tokens(outputs: FakeOutputs) -> None:
    outputs.evaluation(outputs.cell("rtn"), 9.0, token_hash="abc", windows=8)
    outputs.evaluation(outputs.cell("rtn", model="llama"), 9.0, token_hash="def", windows=9)
    assert of(outputs).columns == ("pydocs ppl ↓",)


def test_models_and_protocols_are_never_compared(outputs: FakeOutputs) -> None:
    outputs.cell("rtn", ppl=9.0)
    outputs.cell("rtn", ppl=8.0, protocol="official")
    outputs.cell("rtn", ppl=7.0, model="llama")
    lines = of(outputs).lines
    assert [(ln.model, ln.protocol) for ln in lines] == [
        ("demo", "official"),
        ("demo", "uniform"),
        ("llama", "uniform"),
    ]
    assert all(line.entries[0].best for line in lines)


def test_unfinished_cells_say_what_they_are_at(outputs: FakeOutputs) -> None:
    outputs.cell("rtn", ppl=9.0)
    outputs.cell("awq", state="running", phase="calibrate", done=3, total=6)
    failed = outputs.cell("flatquant", state="failed", cause="DataError: no text\nmore")
    outputs.cell("smoothquant", ppl=8.0, seed=0)
    outputs.cell("smoothquant", state="queued", seed=1)
    states = {line.method: (line.entries[0].text, line.state) for line in of(outputs).lines}
    assert states == {
        "RTN": ("9.00", ""),
        "AWQ": ("–", "running: calibrate 3/6"),
        "FlatQuant": ("–", "failed"),
        "SmoothQuant": ("8.00 (1)", "1 done, 1 queued"),
    }
    assert of(outputs).notes == (f"{failed} failed: DataError: no text",)


def test_diagnostics_stay_out_of_the_table(outputs: FakeOutputs) -> None:
    outputs.block_error(outputs.cell("rtn", ppl=9.0))
    assert of(outputs).columns == ("pydocs ppl ↓",)


def test_names_are_printed_as_in_the_papers() -> None:
    names = ["none", "rtn", "gptq", "flatquant+gptq", "omniquant", "mine+gptq"]
    assert [method_name(name) for name in names] == [
        *("FP16", "RTN", "GPTQ", "FlatQuant+GPTQ"),
        *("OmniQuant", "mine+GPTQ"),
    ]
