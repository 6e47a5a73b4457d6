"""A published value stands beside ours only where both were made alike."""

import json
import math
from typing import Any

import pytest
from fake_outputs import FakeOutputs

from quantexp.report import agreement, published, table
from quantexp.report.collect import collect
from quantexp.report.compare import Comparison, Entry, compare
from quantexp.report.layout import lay_out
from quantexp.report.view import View

PAPER = {"seq_len": 2048, "stride": 2048}


def official(outputs: FakeOutputs, label: str, bits: str, **values: float) -> str:
    """A cell of LLaMA-2-7B under the official protocol with perplexities by set."""
    cell = outputs.cell(label, bits, model="llama2_7b", protocol="official")
    for dataset, value in values.items():
        outputs.evaluation(cell, value, dataset, **PAPER)
    return cell


def entry(comparison: Comparison, method: str, column: str = "wikitext2 ppl ↓") -> Entry:
    (line,) = [line for line in comparison.lines if line.method == method]
    return line.entries[comparison.columns.index(column)]


def of(outputs: FakeOutputs, **view: Any) -> Comparison:
    return compare(collect(outputs.root), View(**view))


def test_value_difference_and_verdict_stand_beside_ours(outputs: FakeOutputs) -> None:
    official(outputs, "none", "w16a16", wikitext2=5.472)
    official(outputs, "flatquant", "w4a4kv4", wikitext2=5.80)
    official(outputs, "flatquant+gptq", "w4a4kv4", wikitext2=5.90)
    found = of(outputs)
    assert (entry(found, "FP16").paper, entry(found, "FP16").delta) == ("5.47", "+0.00 ok")
    assert (entry(found, "FlatQuant").paper, entry(found, "FlatQuant").delta) == (
        *("5.79", "+0.01 ok"),
    )
    assert entry(found, "FlatQuant+GPTQ").delta == "+0.12 off"
    assert "published values: FlatQuant Table 1" in found.notes
    assert entry(of(outputs, published=False), "FlatQuant").paper == ""


@pytest.mark.parametrize(
    ("change", "details"),
    [
        ({"model": "demo"}, PAPER),
        ({"model": "local"}, PAPER),
        ({"model": "my_llama"}, PAPER),
        ({"bits": "w4a4"}, PAPER),  # keys and values
        ({"bits": "w4a4qkv4"}, PAPER),  # queries
        ({"protocol": "uniform"}, PAPER),
        ({}, {"seq_len": 4096, "stride": 4096}),
        ({}, {"seq_len": 2048, "stride": 512}),
    ],
)
def test_whatever_does_not_agree_has_no_published_value(
    outputs: FakeOutputs, change: dict[str, Any], details: dict[str, Any]
) -> None:
    settings = {"bits": "w4a4kv4", "model": "llama2_7b", "protocol": "official", **change}
    outputs.evaluation(outputs.cell("flatquant", **settings), 5.79, "wikitext2", **details)
    assert agreement.matches(collect(outputs.root)) == {}


def test_old_and_new_c4_are_two_sets(outputs: FakeOutputs) -> None:
    official(outputs, "none", "w16a16", c4=7.26, c4_old=6.97)
    found = of(outputs)
    assert entry(found, "FP16", "c4 ppl ↓").paper == "7.26"
    assert entry(found, "FP16", "c4_old ppl ↓").paper == "6.97"


def test_omniquant_is_matched_with_quantized_queries_only(outputs: FakeOutputs) -> None:
    official(outputs, "omniquant", "w4a4qkv4", wikitext2=14.0)
    official(outputs, "omniquant", "w4a4kv4", wikitext2=14.0)
    matches = agreement.matches(collect(outputs.root))
    (match,) = matches.values()
    # its own paper comes before the rerun of another
    assert (match.published.text, match.published.source) == ("14.26", "OmniQuant Table A23")
    assert [other.text for other in match.others] == ["14.74"]
    assert any("others print 14.74 (FlatQuant Table 1)" in note for note in of(outputs).notes)


@pytest.mark.parametrize("baseline", [5.49, 5.44, math.nan])
def test_differences_are_withheld_where_the_baseline_is_off(
    outputs: FakeOutputs, baseline: float
) -> None:
    official(outputs, "none", "w16a16", wikitext2=baseline)
    official(outputs, "flatquant", "w4a4kv4", wikitext2=5.79)
    found = of(outputs)
    assert (entry(found, "FlatQuant").paper, entry(found, "FlatQuant").delta) == ("5.79", "–")
    assert any(f"our FP16 is {baseline:.3f}, published is 5.47" in note for note in found.notes)


def test_differences_are_withheld_without_a_baseline(outputs: FakeOutputs) -> None:
    official(outputs, "flatquant", "w4a4kv4", wikitext2=5.79)
    found = of(outputs)
    assert entry(found, "FlatQuant").delta == "–"
    assert any("no FP16 cell of ours" in note for note in found.notes)


def test_variants_of_a_method_match_nothing(outputs: FakeOutputs) -> None:
    for alpha in (0.5, 0.7):
        cell = outputs.cell(
            "smoothquant",
            "w4a4qkv4",
            model="llama2_7b",
            protocol="official",
            method={"alpha": alpha},
        )
        outputs.evaluation(cell, 80.0, "wikitext2", **PAPER)
    assert agreement.matches(collect(outputs.root)) == {}


def test_a_uniform_protocol_is_said_not_to_be_compared(outputs: FakeOutputs) -> None:
    outputs.cell("flatquant", "w4a4kv4", 5.8, model="llama2_7b")
    assert any("another protocol than 'official'" in note for note in of(outputs).notes)


def test_json_has_value_source_difference_and_verdict(outputs: FakeOutputs) -> None:
    official(outputs, "none", "w16a16", wikitext2=5.47)
    official(outputs, "flatquant", "w4a4kv4", wikitext2=5.90)
    official(outputs, "rtn", "w4a4kv4", wikitext2=math.nan)
    found = json.loads(table.to_json(collect(outputs.root)))
    rows = {row["method"]: row for row in found if row["dataset"] == "wikitext2"}
    flat = rows["flatquant"]
    assert (flat["published"], flat["published_source"], flat["verdict"]) == (
        *(5.79, "FlatQuant Table 1"),
        "off",
    )
    assert flat["delta"] == pytest.approx(0.11)
    assert rows["none"]["verdict"] == "ok"
    assert (rows["rtn"]["delta"], rows["rtn"]["verdict"]) == (None, None)


def test_methods_that_we_lack_become_rows_that_are_not_ranked(outputs: FakeOutputs) -> None:
    official(outputs, "none", "w16a16", wikitext2=5.47)
    official(outputs, "flatquant", "w4a4kv4", wikitext2=5.80)
    methods = {line.method: line for line in of(outputs, published_rows=True).lines}
    quarot = methods["QuaRot+GPTQ (published)"]
    assert (quarot.entries[0].text, quarot.entries[0].best) == ("6.10", False)
    assert "FlatQuant (published)" not in methods
    assert not any("ablation" in name for name in methods)
    assert methods["FlatQuant"].entries[0].best


def test_accuracies_are_compared_in_percent() -> None:
    key = ("none", "LLaMA-2-7B", "16/16/16/16/16/-", "arc_easy", "acc_norm")
    match = agreement.Match(published.load()[key][0], ())
    assert match.delta(match.published.value / 100) == pytest.approx(0)
    assert match.verdict(match.published.value / 100) == "ok"


def test_every_published_value_is_a_number_with_a_source() -> None:
    items = [item for found in published.load().values() for item in found]
    assert len(items) > 2000
    for item in items:
        assert item.value >= 0 or math.isnan(item.value)
        assert item.source
        assert len(item.bits.split("/")) == 6


@pytest.mark.parametrize(
    ("label", "model", "bits", "dataset", "text"),
    [
        ("flatquant", "LLaMA-3-8B", "4/4/4/4/16/-", "c4", "11.13"),
        ("flatquant+gptq", "LLaMA-2-70B", "4/4/4/4/16/-", "wikitext2", "3.54"),
        ("omniquant", "LLaMA-2-7B", "4/16/16/16/16/128", "wikitext2", "5.58"),
        ("awq", "LLaMA-2-7B", "4/16/16/16/16/128", "wikitext2", "5.60"),
        ("smoothquant", "LLaMA-2-7B", "4/4/4/4/4/-", "wikitext2", "83.12"),
    ],
)
def test_known_values(label: str, model: str, bits: str, dataset: str, text: str) -> None:
    assert published.load()[label, model, bits, dataset, "ppl"][0].text == text


def test_the_papers_own_variants_have_published_values_of_their_own(outputs: FakeOutputs) -> None:
    for options in ({}, {"clipping": False}, {"clipping": False, "transform": False}):
        cell = outputs.cell(
            "flatquant", "w4a4kv4", model="llama3_8b", protocol="official", method=options
        )
        outputs.evaluation(cell, 7.0, "wikitext2", **PAPER)
    rtn = outputs.cell("rtn", "w4a4kv4", model="llama3_8b", protocol="official")
    outputs.evaluation(rtn, 1200.0, "wikitext2", **PAPER)
    texts = [m.published.text for m in agreement.matches(collect(outputs.root)).values()]
    # "PS" alone is printed as NaN, the row with nothing learned is RTN
    assert sorted(texts) == ["1266.60", "6.98", "7.95", "NaN"]


def test_a_variant_alone_never_takes_the_methods_own_value(outputs: FakeOutputs) -> None:
    cell = outputs.cell(
        "flatquant",
        "w4a4kv4",
        model="llama2_7b",
        protocol="official",
        method={"clipping": False},
    )
    outputs.evaluation(cell, 5.79, "wikitext2", **PAPER)
    assert agreement.matches(collect(outputs.root)) == {}


@pytest.mark.parametrize(("paper", "text"), [("quarot", "6.99"), ("omniquant", "6.11")])
def test_a_papers_baseline_has_that_papers_value(
    outputs: FakeOutputs, paper: str, text: str
) -> None:
    cell = outputs.cell("rtn", "w4a16", model="llama2_7b", protocol="official", paper=paper)
    outputs.evaluation(cell, 7.0, "wikitext2", **PAPER)
    (match,) = agreement.matches(collect(outputs.root)).values()
    assert (match.published.text, match.others) == (text, ())


def test_gptq_with_reordering_is_a_row_of_its_own_in_awqs_table(outputs: FakeOutputs) -> None:
    for order in (False, True):
        cell = outputs.cell(
            "gptq",
            "w3a16g128",
            model="llama2_7b",
            protocol="official",
            paper="awq",
            gptq={"act_order": order},
        )
        outputs.evaluation(cell, 6.4, "wikitext2", **PAPER)
    texts = {m.published.text for m in agreement.matches(collect(outputs.root)).values()}
    assert texts == {"6.43", "6.42"}


def test_a_published_row_stands_below_paper_not_below_ours(outputs: FakeOutputs) -> None:
    official(outputs, "none", "w16a16", wikitext2=5.4699)
    official(outputs, "flatquant", "w4a4kv4", wikitext2=5.80)
    view = View(published_rows=True)
    grid = lay_out(compare(collect(outputs.root), view), view)
    columns = {column.header[-1]: [cell.text for cell in column.cells] for column in grid.columns}
    row = columns["method"].index("QuaRot+GPTQ (published)")
    assert (columns["ours"][row], columns["paper"][row]) == ("–", "6.10")
    assert columns["Δ"][0] == "+0.00 ok"  # and never -0.00
