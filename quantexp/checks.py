"""What a configuration may hold: values out of range and combinations without sense are refused.

What a method or a model adds to this is in ``Method.check`` and ``experiment/preflight.py``.
"""

import re
from collections.abc import Sequence

from quantexp.calibration import corpora
from quantexp.config import (
    BITS,
    CHOICES,
    GRANULARITIES,
    SCHEMES,
    TENSORS,
    ClusterConfig,
    EvaluationConfig,
    ExperimentConfig,
    PerplexitySet,
    TensorQuantization,
)
from quantexp.errors import ConfigError
from quantexp.evaluation import objective
from quantexp.evaluation.tasks import TASKS
from quantexp.protocols.baselines import PAPERS
from quantexp.values import at_least, one_of


def check(config: ExperimentConfig) -> None:
    """Refuses values and combinations that no method could run.

    Raises:
        ConfigError: Names the key, the value, what is allowed and how to fix it.
    """
    for key, value in (
        ("rounding", config.rounding),
        ("activations", config.activations),
        ("activation_dtype", config.activation_dtype),
        ("products", config.products),
        ("keep", config.keep),
        ("tracker.mode", config.tracker.mode),
        ("model.source", config.model.source),
        ("model.dtype", config.model.dtype),
    ):
        one_of(key, value, CHOICES[key])
    one_of("protocol", config.protocol.name, ("uniform", "official"))
    if config.protocol.paper is not None:
        one_of("protocol.paper", config.protocol.paper, PAPERS)
        if config.protocol.name != "official":
            raise ConfigError(
                f"protocol.paper={config.protocol.paper} is read by protocol=official only: "
                "give that as well, or leave it out"
            )
    _check_cluster(config.cluster)
    for tensor in TENSORS:
        _check_tensor(tensor, getattr(config.bits, tensor))
    at_least("data.num_samples", config.data.num_samples)
    at_least("data.seq_len", config.data.seq_len, least=2)
    at_least("data.seed", config.data.seed, least=0)
    at_least("seed", config.seed, least=0)
    at_least("gptq.block_size", config.gptq.block_size)
    at_least("evaluation.block_error_windows", config.evaluation.block_error_windows, least=0)
    if not 0 < config.gptq.damping < 1:
        raise ConfigError(
            f"gptq.damping={config.gptq.damping} is out of range: allowed 0 < damping < 1 "
            "(a share of the Hessian's mean diagonal; 0.01 is the paper's)"
        )
    one_of("gptq.unseen_experts", config.gptq.unseen_experts, ("rtn", "error"))
    none = config.method.name == "none"
    if config.rounding == "gptq" and not config.bits.weight.active and not none:
        raise ConfigError(
            f"rounding=gptq rounds weights, but bits={config.bits.label} leaves them at 16 bits: "
            "choose bits with w2…w8, or rounding=rtn"
        )
    if config.name is not None:
        _file_name("name", config.name)
    _check_tasks(config.evaluation)
    for kind in ("perplexity", "validation"):
        _check_sets(f"evaluation.{kind}", getattr(config.evaluation, kind))
    objective.check(config.objective, config.evaluation)
    data = config.data
    corpora.check("data", data.corpus, data.path, data.join, data.field)


def _check_sets(key: str, sets: Sequence[PerplexitySet]) -> None:
    names = [item.name for item in sets]
    for i, item in enumerate(sets):
        where = f"{key}[{i}]"
        _file_name(f"{where}.name", item.name)
        at_least(f"{where}.seq_len", item.seq_len, least=2)
        at_least(f"{where}.max_windows", item.max_windows)
        corpora.check(where, item.corpus, item.path, item.join, item.field)
        if names.count(item.name) > 1:
            raise ConfigError(f"{key} has two sets named '{item.name}': rename one")


def _check_cluster(cluster: ClusterConfig) -> None:
    one_of("cluster", cluster.name, ("auto", "slurm", "local", "debug"))
    at_least("cluster.threads", cluster.threads)
    at_least("cluster.max_jobs", cluster.max_jobs)
    at_least("cluster.pack", cluster.pack)
    at_least("cluster.signal_s", cluster.signal_s, least=0)
    if not cluster.poll_s > 0:
        raise ConfigError(f"cluster.poll_s={cluster.poll_s} is too small: give seconds, 30 or so")
    scopes = {"": cluster, "calibrate.": cluster.calibrate, "evaluate.": cluster.evaluate}
    for scope, asked in scopes.items():
        where = f"cluster.{scope}"
        at_least(f"{where}gpus", asked.gpus, least=0)
        at_least(f"{where}cpus", asked.cpus)
        at_least(f"{where}time_min", asked.time_min)
        if asked.memory_gb is not None and not asked.memory_gb > 0:
            raise ConfigError(f"{where}memory_gb={asked.memory_gb} is too small: give GiB, as 64")
        if asked.gres is not None and (asked.gpus or asked.gpu_type):
            raise ConfigError(
                f"{where}gres={asked.gres} stands in place of gpus and gpu_type: leave them out"
            )


def _check_tasks(evaluation: EvaluationConfig) -> None:
    nothing = not evaluation.perplexity and not evaluation.tasks
    if nothing and evaluation.name in ("local", "zeroshot"):
        raise ConfigError(
            f"evaluation={evaluation.name} has nothing to measure: add evaluation.path=FILE "
            "(.txt, .jsonl, or token windows in .json) or evaluation.tasks=[arc_easy,…]"
        )
    for name in evaluation.tasks:
        one_of("task in evaluation.tasks", name, TASKS)
        if evaluation.tasks.count(name) > 1:
            raise ConfigError(f"evaluation.tasks names '{name}' twice: remove one")
    if evaluation.task_data is not None and not evaluation.tasks:
        raise ConfigError(
            f"evaluation.task_data={evaluation.task_data} is read by no task: add "
            "evaluation.tasks=[arc_easy,…] or evaluation=zeroshot"
        )
    at_least("evaluation.task_limit", evaluation.task_limit)
    at_least("evaluation.batch_size", evaluation.batch_size)


def _check_tensor(tensor: str, spec: TensorQuantization) -> None:
    where = f"bits.{tensor}"
    if spec.bits not in BITS:
        raise ConfigError(
            f"{where}.bits={spec.bits} is out of range: allowed {', '.join(map(str, BITS))} "
            "(16 leaves the tensor as it is)"
        )
    one_of(f"{where}.scheme", spec.scheme, SCHEMES)
    one_of(f"{where}.granularity", spec.granularity, GRANULARITIES[tensor])
    one_of(f"{where}.clip_search", spec.clip_search, ("none", "grid"))
    at_least(f"{where}.group_size", spec.group_size)
    if not 0 < spec.clip_ratio <= 1:
        raise ConfigError(
            f"{where}.clip_ratio={spec.clip_ratio} is out of range: allowed 0 < ratio <= 1"
        )
    if spec.granularity == "per_tensor" and spec.group_size:
        raise ConfigError(
            f"{where}.group_size={spec.group_size} cannot be combined with granularity=per_tensor: "
            f"set {where}.group_size=null"
        )
    if spec.clip_search == "grid" and tensor != "weight":
        raise ConfigError(
            f"{where}.clip_search=grid: only weights are searched; use {where}.clip_ratio"
        )
    if spec.clip_search == "grid" and spec.clip_ratio != 1:
        raise ConfigError(
            f"{where}.clip_ratio={spec.clip_ratio} with clip_search=grid: the grid finds the "
            f"ratio itself; leave one of them out"
        )
    if tensor != "weight" and not spec.dynamic and spec.granularity != "per_tensor":
        raise ConfigError(
            f"{where}.dynamic=false has one stored range: set {where}.granularity=per_tensor"
        )


def _file_name(where: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", value):
        raise ConfigError(
            f"{where}='{value}' becomes a file's name: "
            "allowed are letters, digits, '_', '-' and '.'"
        )
