"""The schema of ``conf/``: one experiment as frozen dataclasses, checked before any work begins.

Everything behind the command line works on these objects; no OmegaConf object goes further than
:func:`from_plain`. A stored configuration is plain data (:func:`quantexp.typed.plain`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantexp import registry
from quantexp.calibration import corpora
from quantexp.errors import ConfigError, unknown
from quantexp.evaluation.tasks import TASKS
from quantexp.typed import build, plain

BITS = (2, 3, 4, 5, 6, 7, 8, 16)
SCHEMES = (
    "symmetric",
    "symmetric_full",
    "symmetric_mirrored",
    "asymmetric",
    "asymmetric_free",
    "asymmetric_clamped",
)
GRANULARITIES = {
    "weight": ("per_channel", "per_tensor"),
    "activation": ("per_token", "per_tensor"),
    "key": ("per_head", "per_token", "per_tensor"),
    "value": ("per_head", "per_token", "per_tensor"),
    "query": ("per_head", "per_token", "per_tensor"),
}
TENSORS = tuple(GRANULARITIES)


@dataclass(frozen=True)
class ModelConfig:
    """Which checkpoint, and how it is read."""

    name: str
    source: str  # demo | local | hf
    path: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class TensorQuantization:
    """How one kind of tensor is quantized; 16 bits leave it as it is.

    ``group_size`` cuts each row of the granularity into groups of so many elements that have
    their own scale; ``None`` keeps the row whole.
    """

    bits: int = 16
    scheme: str = "symmetric"
    granularity: str = "per_channel"
    group_size: int | None = None
    dynamic: bool = True
    clip_ratio: float = 1.0
    clip_search: str = "none"

    @property
    def active(self) -> bool:
        """Whether the tensor is changed at all."""
        return self.bits < 16


@dataclass(frozen=True)
class BitsConfig:
    """Weights, linear inputs (activation), and the attention's keys, values and queries."""

    weight: TensorQuantization
    activation: TensorQuantization
    key: TensorQuantization
    value: TensorQuantization
    query: TensorQuantization

    @property
    def label(self) -> str:
        """Canonical name such as ``w4a4kv4``, ``w2a16g64`` or ``kv4``, made from the numbers."""
        w, a = self.weight.bits, self.activation.bits
        k, v, q = self.key.bits, self.value.bits, self.query.bits
        cache = "" if k == v == 16 else f"kv{k}" if k == v else f"k{k}v{v}"
        query = "" if q == 16 else f"q{q}"
        group = f"g{self.weight.group_size}" if self.weight.group_size else ""
        body = "" if w == a == 16 and (cache or query) else f"w{w}a{a}"
        return body + cache + query + group

    @property
    def forward(self) -> dict[str, Any]:
        """What acts only when the model runs: everything but the weights."""
        return {name: plain(getattr(self, name)) for name in TENSORS if name != "weight"}

    @property
    def active(self) -> bool:
        """Whether any tensor is quantized."""
        return any(getattr(self, name).active for name in TENSORS)


def _unquantized(tensor: str) -> TensorQuantization:
    scheme = "symmetric" if tensor in ("weight", "activation") else "asymmetric"
    return TensorQuantization(
        scheme=scheme, granularity=GRANULARITIES[tensor][0], dynamic=tensor != "weight"
    )


# What ``bits=w16a16`` is: the baseline has one fingerprint, whatever a sweep's other cells ask for.
UNQUANTIZED = BitsConfig(**{tensor: _unquantized(tensor) for tensor in TENSORS})


@dataclass(frozen=True)
class MethodConfig:
    """The method's name and its own typed options (a dataclass of the method's module)."""

    name: str
    options: Any


@dataclass(frozen=True)
class GPTQConfig:
    """Options of ``rounding=gptq`` (GPTQ, 2210.17323); ignored by ``rounding=rtn``."""

    damping: float = 0.01
    block_size: int = 128
    act_order: bool = False
    static_groups: bool = False
    true_sequential: bool = True


@dataclass(frozen=True)
class DataConfig:
    """Calibration windows: ``num_samples`` windows of ``seq_len`` tokens, drawn by ``seed``.

    ``join`` and ``field`` say how a user's file of documents is read: what stands between two
    documents (a blank line), and which key or column holds the text (``text``).
    """

    name: str
    corpus: str | None = None
    path: str | None = None
    num_samples: int | None = None
    seq_len: int | None = None
    seed: int = 0
    join: str | None = None
    field: str | None = None


@dataclass(frozen=True)
class PerplexitySet:
    """One held-out set: a corpus by name or a file, cut into windows of ``seq_len`` tokens."""

    name: str
    corpus: str | None = None
    path: str | None = None
    seq_len: int | None = None
    max_windows: int | None = None
    join: str | None = None
    field: str | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on the quantized model.

    ``path``, ``seq_len`` and ``max_windows`` are short forms for the command line: a further set
    from a file, and one value for every set. :func:`from_plain` writes them into the sets.

    ``tasks`` are zero-shot tasks of lm-eval, ``task_data`` a folder with their documents
    (``arc_easy.jsonl``, …; ``None``: from the hub), ``task_limit`` the first so many documents of
    each. ``batch_size`` is how many requests run at once. Padding changes nothing, but sums are
    rounded otherwise in another batch, and a 4-bit integer at the edge may follow.
    """

    name: str
    perplexity: tuple[PerplexitySet, ...] = ()
    path: str | None = None
    seq_len: int | None = None
    max_windows: int | None = None
    block_error_windows: int = 4
    tasks: tuple[str, ...] = ()
    task_data: str | None = None
    task_limit: int | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class ProtocolConfig:
    """``uniform``: equal tokens, schemes and granularity; ``official``: each paper's settings."""

    name: str


@dataclass(frozen=True)
class ClusterConfig:
    """Where jobs run; nothing here may change a number (see docs/architecture.md)."""

    name: str
    threads: int = 2
    max_jobs: int | None = None


@dataclass(frozen=True)
class TrackerConfig:
    """The mirror of records that dashboards show."""

    name: str
    mode: str = "auto"
    project: str = "quantexp"
    entity: str | None = None


@dataclass(frozen=True)
class PathsConfig:
    """Where results go."""

    outputs: str = "./outputs"


@dataclass(frozen=True)
class ExperimentConfig:
    """One fully resolved experiment."""

    model: ModelConfig
    method: MethodConfig
    bits: BitsConfig
    data: DataConfig
    evaluation: EvaluationConfig
    protocol: ProtocolConfig
    cluster: ClusterConfig
    tracker: TrackerConfig
    paths: PathsConfig = field(default_factory=PathsConfig)
    rounding: str = "rtn"
    gptq: GPTQConfig = field(default_factory=GPTQConfig)
    seed: int = 0
    keep: str = "checkpoint"
    name: str | None = None

    @property
    def label(self) -> str:
        """What tables call the method: ``rtn`` rounded by GPTQ is GPTQ."""
        if self.rounding == "rtn":
            return self.method.name
        return "gptq" if self.method.name == "rtn" else f"{self.method.name}+gptq"


def from_plain(data: Mapping[str, Any]) -> ExperimentConfig:
    """Reads one composed configuration.

    Args:
        data: Plain, resolved data as Hydra composes it or as :func:`to_plain` wrote it.

    Raises:
        ConfigError: Names the key, the value, what is allowed and how to fix it.
    """
    data = dict(data)
    method = dict(data.pop("method", {}) or {})
    name = str(method.pop("name", ""))
    options = registry.method(name).Options
    # The options are typed by the method itself, so they are built before the rest.
    hollow = build(ExperimentConfig, {**data, "method": {"name": name, "options": ()}})
    typed: Any = build(options, method, "method")
    config = replace(
        hollow, method=MethodConfig(name, typed), evaluation=_expand(hollow.evaluation)
    )
    _check(config)
    if name == "none":  # so that method=none,rtn bits=w4a4 holds the baseline, not an error
        config = baseline(config)
    if config.protocol.name == "official":
        from quantexp.protocols import official  # it reads the schema above

        config = official.apply(config)
    registry.method(name).check(config)
    return config


def to_plain(config: ExperimentConfig) -> dict[str, Any]:
    """The inverse of :func:`from_plain`: plain data, safe to store and to read back."""
    data: dict[str, Any] = plain(config)
    data["method"] = {"name": config.method.name, **plain(config.method.options)}
    return data


def baseline(config: ExperimentConfig) -> ExperimentConfig:
    """The unquantized cell that tables compare with: ``method=none bits=w16a16``."""
    options = registry.method("none").Options()
    return replace(config, method=MethodConfig("none", options), rounding="rtn", bits=UNQUANTIZED)


def _expand(evaluation: EvaluationConfig) -> EvaluationConfig:
    sets = list(evaluation.perplexity)
    if evaluation.path is not None:
        stem = re.sub(r"[^\w.-]+", "-", Path(evaluation.path).stem)
        sets.append(PerplexitySet(stem, path=evaluation.path))
    given = {"seq_len": evaluation.seq_len, "max_windows": evaluation.max_windows}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    return replace(
        evaluation,
        perplexity=tuple(replace(item, **changes) for item in sets),
        path=None,
        seq_len=None,
        max_windows=None,
    )


def _check(config: ExperimentConfig) -> None:
    _one_of("rounding", config.rounding, ("rtn", "gptq"))
    _one_of("keep", config.keep, ("records", "checkpoint"))
    _one_of("tracker.mode", config.tracker.mode, ("auto", "offline", "online", "disabled"))
    _one_of("model.source", config.model.source, ("demo", "local", "hf"))
    _one_of("model.dtype", config.model.dtype, ("auto", "float32", "bfloat16", "float16"))
    _one_of("protocol", config.protocol.name, ("uniform", "official"))
    _one_of("cluster", config.cluster.name, ("local", "debug"))
    for tensor in TENSORS:
        _check_tensor(tensor, getattr(config.bits, tensor))
    _positive("data.num_samples", config.data.num_samples)
    _positive("data.seq_len", config.data.seq_len, least=2)
    _positive("data.seed", config.data.seed, least=0)
    _positive("seed", config.seed, least=0)
    _positive("cluster.threads", config.cluster.threads)
    _positive("cluster.max_jobs", config.cluster.max_jobs)
    _positive("gptq.block_size", config.gptq.block_size)
    _positive("evaluation.block_error_windows", config.evaluation.block_error_windows, least=0)
    if not 0 < config.gptq.damping < 1:
        raise ConfigError(
            f"gptq.damping={config.gptq.damping} is out of range: allowed 0 < damping < 1 "
            "(a share of the Hessian's mean diagonal; 0.01 is the paper's)"
        )
    none = config.method.name == "none"
    if config.rounding == "gptq" and not config.bits.weight.active and not none:
        raise ConfigError(
            f"rounding=gptq rounds weights, but bits={config.bits.label} leaves them at 16 bits: "
            "choose bits with w2…w8, or rounding=rtn"
        )
    if config.name is not None:
        _file_name("name", config.name)
    _check_tasks(config.evaluation)
    names = [s.name for s in config.evaluation.perplexity]
    for i, item in enumerate(config.evaluation.perplexity):
        where = f"evaluation.perplexity[{i}]"
        _file_name(f"{where}.name", item.name)
        _positive(f"{where}.seq_len", item.seq_len, least=2)
        _positive(f"{where}.max_windows", item.max_windows)
        corpora.check(where, item.corpus, item.path, item.join, item.field)
        if names.count(item.name) > 1:
            raise ConfigError(f"evaluation.perplexity has two sets named '{item.name}': rename one")
    data = config.data
    corpora.check("data", data.corpus, data.path, data.join, data.field)


def _check_tasks(evaluation: EvaluationConfig) -> None:
    nothing = not evaluation.perplexity and not evaluation.tasks
    if nothing and evaluation.name in ("local", "zeroshot"):
        raise ConfigError(
            f"evaluation={evaluation.name} has nothing to measure: add evaluation.path=FILE "
            "(.txt, .jsonl, or token windows in .json) or evaluation.tasks=[arc_easy,…]"
        )
    for name in evaluation.tasks:
        if name not in TASKS:
            raise ConfigError(unknown("task in evaluation.tasks", name, TASKS))
        if evaluation.tasks.count(name) > 1:
            raise ConfigError(f"evaluation.tasks names '{name}' twice: remove one")
    if evaluation.task_data is not None and not evaluation.tasks:
        raise ConfigError(
            f"evaluation.task_data={evaluation.task_data} is read by no task: add "
            "evaluation.tasks=[arc_easy,…] or evaluation=zeroshot"
        )
    _positive("evaluation.task_limit", evaluation.task_limit)
    _positive("evaluation.batch_size", evaluation.batch_size)


def _check_tensor(tensor: str, spec: TensorQuantization) -> None:
    where = f"bits.{tensor}"
    if spec.bits not in BITS:
        raise ConfigError(
            f"{where}.bits={spec.bits} is out of range: allowed {', '.join(map(str, BITS))} "
            "(16 leaves the tensor as it is)"
        )
    _one_of(f"{where}.scheme", spec.scheme, SCHEMES)
    _one_of(f"{where}.granularity", spec.granularity, GRANULARITIES[tensor])
    _one_of(f"{where}.clip_search", spec.clip_search, ("none", "grid"))
    _positive(f"{where}.group_size", spec.group_size)
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


def _one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(unknown(where, value, allowed))


def _file_name(where: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", value):
        raise ConfigError(
            f"{where}='{value}' becomes a file's name: "
            "allowed are letters, digits, '_', '-' and '.'"
        )


def _positive(where: str, value: int | None, least: int = 1) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{where}={value} is too small: allowed {least} or more")
