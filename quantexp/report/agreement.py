"""Ours against published: what agrees, what the difference is, and whether it says anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantexp.report import names
from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import unlike
from quantexp.report.published import BASELINE, Published, bits_of, load, paper_model
from quantexp.report.variants import paper, printed

PROTOCOL = "official"  # what papers print was made with each method's own settings
SEQ_LEN = 2048  # of all published perplexities
OK, OFF, UNJUDGED = "ok", "off", ""

# how far our unquantized model may be from theirs: beyond it nothing can be compared
_BASELINE_TOLERANCE = {"ppl": 0.01, "acc": 0.5, "acc_norm": 0.5, "mean_accuracy": 0.5}
# perplexity: label, bits that the tolerance is known for (a prefix), tolerance
_TOLERANCES = (
    ("rtn", "4/16/", 0.15),
    ("gptq", "4/16/", 0.1),
    ("awq", "4/16/16/16/16/128", 0.05),
    ("omniquant", "4/16/", 0.05),
    ("omniquant", "3/16/", 0.05),
    ("omniquant", "2/16/", 0.05),
    ("omniquant", "4/4/", 1.0),
    ("quarot", "4/4/", 0.3),
    ("quarot+gptq", "4/4/", 0.3),
    ("flatquant", "", 0.03),
    ("flatquant+gptq", "", 0.03),
)


@dataclass(frozen=True)
class Match:
    """A published number for one of ours; ``others`` are what other papers print for the same."""

    published: Published
    others: tuple[Published, ...]

    def delta(self, value: float) -> float:
        """Ours minus theirs, both in their unit."""
        return names.as_shown(self.published.metric, value) - self.published.value

    def verdict(self, value: float) -> str:
        """``ok`` or ``off`` against the tolerance; empty where none is known."""
        found = self.published
        if found.label == BASELINE:
            tolerance = max(_BASELINE_TOLERANCE[found.metric], found.rounding)
        else:
            tolerance = next(
                (
                    allowed
                    for label, bits, allowed in _TOLERANCES
                    if label == found.label and found.bits.startswith(bits)
                ),
                math.nan,
            )
            if found.metric != "ppl":
                tolerance = math.nan
        if math.isnan(tolerance):
            return UNJUDGED
        return OK if abs(self.delta(value)) <= tolerance + 1e-9 else OFF


def matches(rows: Sequence[Row]) -> dict[int, Match]:
    """The published number of each row (by its index) that has one and was made like it.

    Model, bits, protocol and set must agree, and the window for perplexities. Where a table holds
    several variants of a method at equal bits (another option each), it is not known which of them
    the paper's is: none matches, but those that papers print by a name of their own. A baseline
    that was run as a paper did (``protocol.paper``) has that paper's values only.
    """
    options = unlike(rows)
    found = {}
    for index, row in enumerate(rows):
        model = paper_model(row)
        official = row.protocol == PROTOCOL or row.label == BASELINE
        if model is None or not official or row.value is None or row.status == EDITED:
            continue
        if not measured_alike(row):
            continue
        label, explained = printed(row)
        if label is None or options.get(row.cell, {}).keys() - explained:
            continue
        # the baseline's bits are 16 whatever the configuration calls its groups
        bits = "16/16/16/16/16/-" if row.label == BASELINE else bits_of(row)
        key = (label, model, bits, row.dataset or "", row.metric or "")
        items = load().get(key, ())
        if (whose := paper(row)) and label != BASELINE:
            items = tuple(item for item in items if item.source.split()[0].lower() == whose)
        if items:
            found[index] = Match(items[0], items[1:])
    return found


def measured_alike(row: Row) -> bool:
    """Whether a value was measured as papers do: their windows; whole tasks without examples."""
    told = row.settings
    if row.metric == "ppl":
        return (told.get("seq_len"), told.get("stride", SEQ_LEN)) == (SEQ_LEN, SEQ_LEN)
    return not told.get("limit") and not told.get("num_fewshot")


def withheld(rows: Sequence[Row], found: dict[int, Match]) -> dict[int, str]:
    """Why the difference of a row (by its index) says nothing: its baseline is off or missing.

    The unquantized model is compared first: where it is not the papers', nothing else can be.
    """
    baselines: dict[tuple[str | None, ...], list[float]] = {}
    for row in rows:
        if row.label == BASELINE and row.value is not None and row.status != EDITED:
            key = (row.model, row.dataset, row.metric, str(row.settings.get("seq_len")))
            baselines.setdefault(key, []).append(row.value)
    reasons = {}
    for index, match in found.items():
        row, item = rows[index], match.published
        place = f"{item.model} on {item.set} {item.metric}"
        ours = baselines.get(
            (row.model, row.dataset, row.metric, str(row.settings.get("seq_len"))), []
        )
        theirs = _baseline(item)
        if row.label == BASELINE:
            theirs = item
        if theirs is None:
            reasons[index] = f"{place}: no published FP16 value to compare first"
        elif not ours:
            reasons[index] = f"{place}: no FP16 cell of ours to compare first (method=none)"
        else:
            worst = max(
                (names.as_shown(item.metric, v) for v in ours), key=lambda v: _gap(v, theirs)
            )
            tolerance = max(_BASELINE_TOLERANCE[item.metric], theirs.rounding)
            if _gap(worst, theirs) > tolerance + 1e-9:
                reasons[index] = (
                    f"{place}: our FP16 is {worst:.3f}, published is {theirs.text} "
                    f"({theirs.source}), more than {tolerance:g} away"
                )
    return reasons


def _gap(value: float, item: Published) -> float:
    gap = abs(value - item.value)
    return math.inf if math.isnan(gap) else gap  # a broken baseline is off


def _baseline(item: Published) -> Published | None:
    """The FP16 value that a paper prints beside a number, or that of another paper."""
    key = (BASELINE, item.model, "16/16/16/16/16/-", item.set, item.metric)
    items = load().get(key, ())
    paper = item.source.split()[0]
    return next((i for i in items if i.source.split()[0] == paper), items[0] if items else None)
