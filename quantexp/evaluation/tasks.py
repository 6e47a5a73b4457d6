"""The zero-shot tasks: a table of what lm-eval calls them; no torch.

lm-eval's own index of all its tasks takes seconds to build and cannot be read on a login node, so
that what a configuration, a preflight and a report need of a task stands here.
"""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HARNESS = "lm-eval"  # the distribution whose version is part of every zero-shot fingerprint


@dataclass(frozen=True)
class Layout:
    """Columns of a local file.

    Attributes:
        name: ``hub`` where the rows are those of the hub.
        columns: Those that every row must have.
        note: What a reader of the number must know; empty where the text is the hub's.
    """

    name: str
    columns: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Task:
    """One task of lm-eval.

    Attributes:
        yaml: Its definition, within ``lm_eval/tasks``.
        version: The definition's version; another one is another protocol.
        hub: The data set that the definition names.
        split: The split that is measured.
        metric: ``acc_norm`` where the task defines it, else ``acc`` (QuaRot, FlatQuant).
        chance: What guessing gets, as a share; choices are weighed equally.
        layouts: The columns that a local file may have, the hub's first.
        config: Which of the data set's configurations; ``None``: it has one.
    """

    yaml: str
    version: float
    hub: str
    split: str
    metric: str
    chance: float
    layouts: tuple[Layout, ...]
    config: str | None = None


def _hub(*columns: str) -> Layout:
    return Layout("hub", columns)


_CHOICES = (_hub("question", "choices", "answerKey"),)
_HELLASWAG = (
    _hub("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    Layout(
        "processed",
        ("query", "choices", "label"),
        "the file holds texts processed before; lm-eval's own processing of contexts did not run",
    ),
)
_COPA = (
    _hub("premise", "choice1", "choice2", "question", "label"),
    Layout(
        "query",
        ("query", "choices", "label"),
        "premise and question are read back from a query that ends in ', because' or ', therefore'",
    ),
)
_GLUE, _ARC = "aps/super_glue", "allenai/ai2_arc"
_BOOLQ = _hub("passage", "question", "label")
_OPENBOOKQA = _hub("question_stem", "choices", "answerKey")
_PIQA = _hub("goal", "sol1", "sol2", "label")
_WINOGRANDE = _hub("sentence", "option1", "option2", "answer")

TASKS = {
    "arc_challenge": Task(
        "arc/arc_challenge.yaml", 1, _ARC, "test", "acc_norm", 1 / 4, _CHOICES, "ARC-Challenge"
    ),
    "arc_easy": Task("arc/arc_easy.yaml", 1, _ARC, "test", "acc_norm", 1 / 4, _CHOICES, "ARC-Easy"),
    "boolq": Task(
        "super_glue/boolq/default.yaml", 2, _GLUE, "validation", "acc", 1 / 2, (_BOOLQ,), "boolq"
    ),
    "copa": Task(
        "super_glue/copa/default.yaml", 1, _GLUE, "validation", "acc", 1 / 2, _COPA, "copa"
    ),
    "hellaswag": Task(
        "hellaswag/hellaswag.yaml", 1, "Rowan/hellaswag", "validation", "acc_norm", 1 / 4,
        _HELLASWAG,
    ),
    "lambada_openai": Task(
        "lambada/lambada_openai.yaml", 1, "EleutherAI/lambada_openai", "test", "acc", 0,
        (_hub("text"),), "default",
    ),
    "openbookqa": Task(
        "openbookqa/openbookqa.yaml", 1, "allenai/openbookqa", "test", "acc_norm", 1 / 4,
        (_OPENBOOKQA,), "main",
    ),
    "piqa": Task("piqa/piqa.yaml", 1, "baber/piqa", "validation", "acc_norm", 1 / 2, (_PIQA,)),
    "winogrande": Task(
        "winogrande/default.yaml", 1, "allenai/winogrande", "validation", "acc", 1 / 2,
        (_WINOGRANDE,), "winogrande_xl",
    ),
}  # fmt: skip


def offline() -> bool:
    """Whether the user told Hugging Face's libraries to stay off the network."""
    said = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in said)


@cache
def network(timeout: float = 5.0) -> str | None:
    """Why the hub cannot be reached from here, or ``None``; asked once per process, in seconds.

    Any answer of the server counts, an error too: whether it has the data is told later.
    """
    import urllib.error
    import urllib.request

    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=timeout).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:  # no route, no name, a malformed address
        return f"{host} cannot be reached ({getattr(error, 'reason', error)})"
    return None


def is_cached(task: str) -> bool:
    """Whether Hugging Face's cache holds a task's data set, whatever its revision."""
    return cache_folder(TASKS[task].hub, TASKS[task].config).is_dir()


def cache_folder(hub: str, config: str | None) -> Path:
    """Where the library ``datasets`` keeps a data set, below it ``<version>/<commit>/``."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    folder = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()
    return folder / hub.replace("/", "___") / (config or "")


def unreachable(task: str, cause: str) -> str:
    """What to do where the hub's documents of a task cannot be had."""
    return (
        f"the documents of task {task} ({TASKS[task].hub} on the hub) cannot be had ({cause}): "
        "give a folder that holds them, evaluation.task_data=DIR with "
        f"DIR/{task}.jsonl, or fetch it where there is network, 'python -m quantexp prefetch' with "
        "the same arguments, which fills the cache of Hugging Face (HF_HOME)"
    )
