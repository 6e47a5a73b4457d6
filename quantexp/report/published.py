"""Published numbers beside ours, only where the two were made alike.

``published.csv`` holds what papers and their repositories print (facts, each with its source):

- ``label``: our label of the method; the name as printed where it is a variant that we have not.
- ``bits``: w/a/k/v/q/group. OmniQuant's W4A4 quantizes queries too, FlatQuant's does not.
- ``set``: ``c4`` and ``c4_old`` are two protocols (``c4_unclear``: the paper does not tell which);
  neither that nor the metric ``acc_old`` (older lm-eval) is ever compared with ours.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import option_names

PROTOCOL = "official"  # what papers print was made with each method's own settings
BASELINE = "none"
SEQ_LEN = 2048  # of all published perplexities
OK, OFF, UNJUDGED = "ok", "off", ""

# our models (by name in conf/ or on the hub) → the papers' names; all others never match
_MODELS = {
    "llama2_7b": "LLaMA-2-7B",
    "llama2_13b": "LLaMA-2-13B",
    "llama2_70b": "LLaMA-2-70B",
    "llama3_8b": "LLaMA-3-8B",
    "llama3_70b": "LLaMA-3-70B",
    "meta-llama/Llama-2-7b-hf": "LLaMA-2-7B",
    "meta-llama/Llama-2-13b-hf": "LLaMA-2-13B",
    "meta-llama/Llama-2-70b-hf": "LLaMA-2-70B",
    "meta-llama/Meta-Llama-3-8B": "LLaMA-3-8B",
    "meta-llama/Meta-Llama-3-70B": "LLaMA-3-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "LLaMA-3.1-8B-Instruct",
    "meta-llama/Llama-3.3-70B-Instruct": "LLaMA-3.3-70B-Instruct",
    "huggyllama/llama-7b": "LLaMA-1-7B",
    "huggyllama/llama-13b": "LLaMA-1-13B",
    "huggyllama/llama-30b": "LLaMA-1-30B",
    "huggyllama/llama-65b": "LLaMA-1-65B",
    "Qwen/Qwen2.5-7B-Instruct": "Qwen2.5-7B-Instruct",
    "Qwen/Qwen2.5-32B-Instruct": "Qwen2.5-32B-Instruct",
}
# Where papers print different numbers of one thing: the method's own paper, then this order.
_PAPERS = ("FlatQuant", "OmniQuant", "AWQ", "AffineQuant", "GPTQ", "QuaRot", "SpinQuant")

# how far our unquantized model may be from theirs: beyond it nothing can be compared
_BASELINE_TOLERANCE = {"ppl": 0.01, "acc": 0.5, "acc_norm": 0.5}
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
class Published:
    """One printed number; accuracies are in percent."""

    label: str
    model: str
    bits: str
    set: str
    metric: str
    text: str
    source: str
    note: str

    @property
    def value(self) -> float:
        """The number; ``Inf`` and ``NaN`` occur."""
        return float(self.text)

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed place."""
        return 0.5 * 10.0 ** -len(self.text.partition(".")[2].partition("e")[0])

    @property
    def key(self) -> tuple[str, ...]:
        """What must agree."""
        return (self.label, self.model, self.bits, self.set, self.metric)


@dataclass(frozen=True)
class Match:
    """A published number for one of ours; ``others`` are what other papers print for the same."""

    published: Published
    others: tuple[Published, ...]

    def delta(self, value: float) -> float:
        """Ours minus theirs, both in their unit."""
        return in_their_unit(value, self.published.metric) - self.published.value

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


@cache
def load() -> dict[tuple[str, ...], tuple[Published, ...]]:
    """All published numbers by what must agree, the preferred one first."""
    found: dict[tuple[str, ...], list[Published]] = {}
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            item = Published(text=line.pop("value"), **line)
            found.setdefault(item.key, []).append(item)
    return {key: tuple(sorted(items, key=_preference)) for key, items in found.items()}


def paper_model(row: Row) -> str | None:
    """The papers' name of a row's model; ``None`` for local, demo and unknown models."""
    config = row.config.get("model") or {}
    name = str(config.get("name", ""))
    if name in ("local", "demo"):
        return None
    return _MODELS.get(str(config.get("path", "")) if name == "hf" else name)


def bits_of(row: Row) -> str:
    """w/a/k/v/q/group as in the file."""
    bits = (row.weight_bits, row.activation_bits, row.key_bits, row.value_bits, row.query_bits)
    return "/".join([*map(str, bits), str(row.group_size or "-")])


def matches(rows: Sequence[Row]) -> dict[int, Match]:
    """The published number of each row (by its index) that has one and was made like it.

    Model, bits, protocol and set must agree, and the window for perplexities. Where a table holds
    several variants of a method at equal bits (another option each), it is not known which of them
    the paper's is: none matches.
    """
    options = option_names(rows)
    found = {}
    for index, row in enumerate(rows):
        model = paper_model(row)
        official = row.protocol == PROTOCOL or row.label == BASELINE
        if model is None or not official or row.value is None or row.status == EDITED:
            continue
        stride = row.settings.get("stride", SEQ_LEN)
        if row.metric == "ppl" and (row.settings.get("seq_len"), stride) != (SEQ_LEN, SEQ_LEN):
            continue
        if options.get(row.cell):
            continue
        # the baseline's bits are 16 whatever the configuration calls its groups
        bits = "16/16/16/16/16/-" if row.label == BASELINE else bits_of(row)
        key = (row.label, model, bits, row.dataset or "", row.metric or "")
        if items := load().get(key):
            found[index] = Match(items[0], items[1:])
    return found


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
                (in_their_unit(v, item.metric) for v in ours), key=lambda v: _gap(v, theirs)
            )
            tolerance = max(_BASELINE_TOLERANCE[item.metric], theirs.rounding)
            if _gap(worst, theirs) > tolerance + 1e-9:
                reasons[index] = (
                    f"{place}: our FP16 is {worst:.3f}, published is {theirs.text} "
                    f"({theirs.source}), more than {tolerance:g} away"
                )
    return reasons


def in_their_unit(value: float, metric: str) -> float:
    """A value of ours in the papers' unit: accuracies are fractions here, percent there."""
    return 100 * value if metric.startswith("acc") else value


def _gap(value: float, item: Published) -> float:
    gap = abs(value - item.value)
    return math.inf if math.isnan(gap) else gap  # a broken baseline is off


def _baseline(item: Published) -> Published | None:
    """The FP16 value that a paper prints beside a number, or that of another paper."""
    key = (BASELINE, item.model, "16/16/16/16/16/-", item.set, item.metric)
    items = load().get(key, ())
    paper = item.source.split()[0]
    return next((i for i in items if i.source.split()[0] == paper), items[0] if items else None)


def _preference(item: Published) -> tuple[bool, int]:
    paper = item.source.split()[0]
    own = paper.lower() == item.label.split("+")[0]
    return (not own, _PAPERS.index(paper) if paper in _PAPERS else len(_PAPERS))
