"""Published numbers beside ours, only where the two were made alike.

``published.csv`` holds what papers and their repositories print (facts, each with its source):

- ``label``: our label of the method; the name as printed where it is a variant that we have not.
- ``bits``: w/a/k/v/q/group. OmniQuant's W4A4 quantizes queries too, FlatQuant's does not.
- ``set``: ``c4`` and ``c4_old`` are two protocols (``c4_unclear``: the paper does not tell which);
  neither that nor the metric ``acc_old`` (older lm-eval) is ever compared with ours.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from quantexp.report.collect import Row

BASELINE = "none"

# our models (by name in conf/ or on the hub) → the papers' names; all others never match
_MODELS = {
    "llama2_7b": "LLaMA-2-7B",
    "llama2_13b": "LLaMA-2-13B",
    "llama2_70b": "LLaMA-2-70B",
    "llama3_8b": "LLaMA-3-8B",
    "llama3_70b": "LLaMA-3-70B",
    "llama3_1_8b_instruct": "LLaMA-3.1-8B-Instruct",
    "qwen2_5_7b_instruct": "Qwen2.5-7B-Instruct",
    "qwen2_5_32b_instruct": "Qwen2.5-32B-Instruct",
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


def _preference(item: Published) -> tuple[bool, int]:
    paper = item.source.split()[0]
    own = paper.lower() == item.label.split("+")[0]
    return (not own, _PAPERS.index(paper) if paper in _PAPERS else len(_PAPERS))
