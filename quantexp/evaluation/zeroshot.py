"""Zero-shot tasks by lm-eval, on the model as rebuilt from its checkpoint.

Tasks are lm-eval's own definitions, with their own prompts, processing and metrics; only where the
documents come from may be a local file. One call measures one task, so that one task is one record.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval import evaluator
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from torch import Tensor

from quantexp.errors import DataError
from quantexp.evaluation.task_files import TaskFile, documents
from quantexp.evaluation.tasks import HARNESS, TASKS, Task, unreachable

_RESAMPLES = 1000  # for the standard error of metrics that have no closed form (LAMBADA's ppl)


def zeroshot(
    model: Any,
    tokenizer: Any,
    task: str,
    file: TaskFile | None,
    limit: int | None,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """One task, zero-shot.

    Args:
        model: A ``PreTrainedModel``.
        tokenizer: Its tokenizer.
        task: A name of :data:`~quantexp.evaluation.tasks.TASKS`.
        file: Local documents; ``None`` lets lm-eval load the hub's.
        limit: The first so many documents; ``None``: all.
        batch_size: Requests that are run at once, padded to the longest.
        progress: Told the number of finished requests and of all.

    Returns:
        ``metric value stderr details`` of the record. Shares, not per cent.

    Raises:
        DataError: The documents could not be fetched.
    """
    known = TASKS[task]
    harness = _Model(model, tokenizer, batch_size, progress)
    with _quiet():
        result: Any = lm_eval.simple_evaluate(
            harness,
            tasks=[_definition(task, known, file)],
            num_fewshot=0,
            limit=limit,
            batch_size=batch_size,
            bootstrap_iters=_RESAMPLES,
            log_samples=True,
            task_manager=TaskManager(include_defaults=False),
        )
    samples = sorted(result.pop("samples")[task], key=lambda sample: int(sample["doc_id"]))
    metrics = _metrics(result["results"][task])
    return {
        "metric": known.metric,
        "value": metrics[known.metric],
        "stderr": metrics.get(f"{known.metric}_stderr"),
        "details": {
            "task": task,
            "lm_eval": version(HARNESS),
            "task_version": result["versions"][task],
            "num_fewshot": result["n-shot"][task],
            "documents": len(samples),
            "documents_of": result["n-samples"][task]["original"],
            "limit": limit,
            "layout": file.layout.name if file else "hub",
            "note": file.layout.note if file else "",
            "chance": known.chance,
            "text_hash": _text_hash(samples),
            "batch_size": batch_size,
            "max_length": harness.max_length,
            "truncated_requests": harness.truncated,
            "metrics": metrics,
            "scores": _scores(samples),
            # everything else that lm-eval says: its configuration, versions, hashes, seeds
            "harness": json.loads(json.dumps(result, default=_text)),
        },
    }


class _Model(HFLM):
    """lm-eval's Transformers model on a model that exists; counts what is done and truncated."""

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, progress: Callable[[int, int], None]
    ) -> None:
        self.truncated = 0
        self._told = progress
        self._requests = self._done = 0
        with _quiet():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> Any:
        self._requests = len(requests)
        longest = self.max_length + 1
        self.truncated += sum(len(c) + len(answer) > longest for _, c, answer in requests)
        found = super()._loglikelihood_tokens(requests, True, override_bs)
        self._told(self._requests, self._requests)
        return found

    def _model_call(self, inps: Tensor, attn_mask: Any = None, labels: Any = None) -> Any:
        out = super()._model_call(inps, attn_mask, labels)
        self._done += len(inps)
        # one run serves all answers of one token, so that fewer run than are asked for
        self._told(min(self._done, self._requests - 1), self._requests)
        return out


def _definition(name: str, task: Task, file: TaskFile | None) -> ConfigurableTask:
    config = dict(load_yaml(Path(lm_eval.__file__).parent / "tasks" / task.yaml))
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    if file is not None:
        config |= {"training_split": None, "validation_split": None, "test_split": None}
        config[f"{task.split}_split"] = task.split
        config["custom_dataset"] = lambda **_: _local(name, task, file)
        if file.layout.name == "processed":
            config["process_docs"] = None
    try:
        return ConfigurableTask(config=config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if file is not None:
            raise
        raise DataError(unreachable(name, f"{type(error).__name__}: {error}")) from error


def _local(name: str, task: Task, file: TaskFile) -> datasets.DatasetDict:
    rows = datasets.Dataset.from_list(documents(name, file))
    return datasets.DatasetDict({task.split: rows})


def _metrics(results: dict[str, Any]) -> dict[str, float]:
    """``acc,none`` → ``acc``; what has no number (a deviation of one document) is left out."""
    named = {key.partition(",")[0]: value for key, value in results.items() if "," in key}
    return {k: float(v) for k, v in named.items() if isinstance(v, int | float)}


def _scores(samples: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Each metric's score of each document, in the documents' order (whole numbers as such)."""
    found: dict[str, list[float]] = {}
    for metric in samples[0]["metrics"]:
        values = [float(sample[metric]) for sample in samples]
        whole = all(math.isfinite(v) and v == int(v) for v in values)
        found[metric] = [int(v) for v in values] if whole else values
    return found


def _text_hash(samples: list[dict[str, Any]]) -> str:
    """What the model was shown and asked, whatever columns it came from."""
    digest = hashlib.sha256()
    for sample in samples:
        # arguments: context and answer of each request, as lm-eval logs them
        digest.update(json.dumps(sample["arguments"], sort_keys=True).encode())
    return digest.hexdigest()


def _text(value: Any) -> str:
    # a function's address would differ from run to run
    return str(getattr(value, "__name__", value))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval logs, prints and draws progress bars; status.json has what matters.

    It would also start a pool of processes, one per core, for each bootstrap, and describe the
    machine and the working directory's commit for a second; the record's provenance does that.
    """
    logger = logging.getLogger("lm_eval")
    level, pool = logger.level, os.environ.get("DISABLE_MULTIPROC")
    probes = evaluator.get_git_commit_hash, evaluator.add_env_info
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    evaluator.get_git_commit_hash, evaluator.add_env_info = lambda: None, lambda _: None
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        evaluator.get_git_commit_hash, evaluator.add_env_info = probes
        del os.environ["DISABLE_MULTIPROC"]
        if pool is not None:
            os.environ["DISABLE_MULTIPROC"] = pool
