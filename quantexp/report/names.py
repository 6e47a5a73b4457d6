"""How papers print the names of methods and metrics, and the order in which tables list them."""

# In the order of a table: simplest first.
_METHODS = {
    "none": "FP16",
    "rtn": "RTN",
    "gptq": "GPTQ",
    "smoothquant": "SmoothQuant",
    "awq": "AWQ",
    "omniquant": "OmniQuant",
    "affinequant": "AffineQuant",
    "quarot": "QuaRot",
    "spinquant": "SpinQuant",
    "flatquant": "FlatQuant",
}
_LOWER = ("ppl", "nll", "mse")
_SHARES = (
    "acc",
    "acc_norm",
    "exact_match",
    "mean_accuracy",
)  # records hold shares, tables per cent
_HIGHER = (*_SHARES, "f1", "sqnr_db")


def method_name(label: str) -> str:
    """``flatquant+gptq`` → ``FlatQuant+GPTQ``; a name not known here stays as its author wrote it.

    The baseline is ``FP16`` whatever the checkpoint's dtype: so do the papers.
    """
    return "+".join(_METHODS.get(part, part) for part in label.split("+"))


def method_order(label: str) -> tuple[int, str]:
    """Sort key: the papers' order, unknown methods after it by name, ``+gptq`` after its method."""
    known = list(_METHODS)
    first = label.split("+")[0]
    return (known.index(first) if first in known else len(known), label)


def better(metric: str) -> int:
    """-1 where lower is better, 1 where higher is, 0 where it is not known (nothing is bold)."""
    return -1 if metric in _LOWER else 1 if metric in _HIGHER else 0


def as_shown(metric: str, value: float) -> float:
    """A record's value in the unit of tables: per cent for accuracies."""
    return 100 * value if metric in _SHARES else value


def column_name(dataset: str, metric: str, variant: str = "") -> str:
    """``wikitext2 ppl ↓``; ``variant`` tells two ways of measuring apart.

    The name of an average says its metric.
    """
    arrow = {-1: " ↓", 1: " ↑", 0: ""}[better(metric)]
    name = dataset if metric == "mean_accuracy" else f"{dataset} {metric}"
    return f"{name}{f' ({variant})' if variant else ''}{arrow}"


def known() -> tuple[str, ...]:
    """Methods as the papers print them."""
    return tuple(_METHODS.values())
