"""Tells apart what would print alike: what a line or column must say more than its name."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from quantexp.report.collect import Row

_WORDS = {None: "null", True: "true", False: "false"}
Column = tuple[str, str, str]  # data set, metric, what tells it from the others of that name


def place(row: Row) -> tuple[Any, ...]:
    """Model, protocol and bits: lines that are compared with one another share it."""
    return (
        row.model,
        row.protocol,
        row.weight_bits,
        row.activation_bits,
        row.key_bits,
        row.value_bits,
        row.query_bits,
        row.group_size,
    )


def options(row: Row) -> dict[str, str]:
    """Everything of a configuration that makes a line another line: all but the seeds.

    What has no effect is left out: the range of a tensor that stays at 16 bits, GPTQ's options
    where nothing is rounded by GPTQ, and everything but the model for the baseline. The protocol
    is part of :func:`place`; what it sets is in the configuration.
    """
    config = dict(row.config)
    for key in ("seed", "evaluation", "protocol"):
        config.pop(key, None)
    for key in ("activation_dtype", "products"):
        if config.get(key) == "float32":  # as before the key existed
            del config[key]
    if row.label == "none":
        config = {"model": config.get("model")}
    if row.rounding != "gptq":
        config.pop("gptq", None)
    if "data" in config:
        config["data"] = {k: v for k, v in config["data"].items() if k != "seed"}
    if "bits" in config:
        config["bits"] = {
            tensor: spec if spec.get("bits", 16) < 16 else {"bits": 16}
            for tensor, spec in config["bits"].items()
        }
    return dict(_flat(config))


def option_names(rows: Sequence[Row]) -> dict[str, str]:
    """Cell → :func:`unlike` as tables print it: ``alpha=0.7`` for SmoothQuants of unlike alpha."""
    return {
        cell: ", ".join(
            f"{key.removeprefix('method.').removeprefix('bits.')}={value}"
            for key, value in found.items()
        )
        for cell, found in unlike(rows).items()
    }


def unlike(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Cell → the options in which it differs from cells of the same place and label.

    Empty for cells that are alike.
    """
    named: dict[str, dict[str, str]] = {}
    groups: dict[Any, dict[str, dict[str, str]]] = {}
    for row in rows:
        cells = groups.setdefault((place(row), row.label), {})
        if row.cell not in cells:
            cells[row.cell] = options(row)
    for cells in groups.values():
        keys = sorted({key for found in cells.values() for key in found})
        differing = [k for k in keys if len({found.get(k) for found in cells.values()}) > 1]
        for cell, found in cells.items():
            named[cell] = {key: found[key] for key in differing if key in found}
    return named


def columns(rows: Sequence[Row]) -> dict[int, Column]:
    """The column of each row (by its index) that has a value.

    Two records of one name that were measured in unlike ways (another window length, more
    windows) get two columns. Tokens are compared within a model: each has its own tokenizer.
    """
    found: dict[int, Column] = {}
    groups: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        if row.value is not None:
            groups.setdefault((row.dataset or "", row.metric or ""), []).append(index)
    for name, indices in groups.items():
        telling: list[tuple[str, bool]] = []
        for key, by_model in (
            ("seq_len", False),
            ("stride", False),
            ("bos", False),
            ("windows", True),
            ("token_hash", True),
            ("limit", False),
            ("num_fewshot", False),
            ("task_version", False),
            ("lm_eval", False),
            ("text_hash", False),
        ):
            sofar = {_ways(rows[i], telling, by_model) for i in indices}
            finer = {_ways(rows[i], [*telling, (key, by_model)], by_model) for i in indices}
            if len(finer) > len(sofar):
                telling.append((key, by_model))
        for i in indices:
            parts = [f"{key}={str(rows[i].settings.get(key))[:8]}" for key, _ in telling]
            found[i] = (*name, ", ".join(parts))
    return found


def _ways(row: Row, telling: Iterable[tuple[str, bool]], by_model: bool) -> str:
    ways = [row.settings.get(key) for key, _ in telling]
    return json.dumps([row.model if by_model else None, *ways])


def _json(value: Any) -> str:
    """``json.dumps``, without its cost where a value is simple: a report has millions of them."""
    if value is None or value is True or value is False:
        return _WORDS[value]
    return repr(value) if type(value) is int else json.dumps(value)


def _flat(value: Any, where: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, str):
        yield where, value
    else:
        yield where, _json(value)
