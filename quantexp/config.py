"""The schema of ``conf/``: one experiment as frozen dataclasses, checked before any work begins.

Everything behind the command line works on these objects; no OmegaConf object goes further than
:func:`from_plain`. A stored configuration is plain data (:func:`quantexp.typed.plain`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantexp import registry
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
    "key": ("per_head", "per_token", "per_token_before_rope", "per_tensor"),
    "value": ("per_head", "per_token", "per_tensor"),
    "query": ("per_head", "per_token", "per_token_before_rope", "per_tensor"),
}
TENSORS = tuple(GRANULARITIES)
# key → what it may be, where that is a few words
CHOICES = {
    "rounding": ("rtn", "gptq"),
    "activations": ("auto", "device", "host", "disk"),
    "activation_dtype": ("float32", "bfloat16"),
    "products": ("float32", "tf32"),
    "keep": ("records", "checkpoint"),
    "tracker.mode": ("auto", "offline", "online", "disabled"),
    "model.source": ("demo", "local", "hf"),
    "model.dtype": ("auto", "float32", "bfloat16", "float16"),
    **{f"bits.{tensor}.scheme": SCHEMES for tensor in TENSORS},
    **{f"bits.{tensor}.granularity": allowed for tensor, allowed in GRANULARITIES.items()},
}


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

    @property
    def per_batch(self) -> bool:
        """Whether the range is taken from all of a batch as it runs."""
        return self.active and self.dynamic and self.granularity == "per_tensor"


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
        return {name: plain(spec) for name, spec in self._forward()}

    def _forward(self) -> Iterator[tuple[str, TensorQuantization]]:
        return ((name, getattr(self, name)) for name in TENSORS if name != "weight")

    @property
    def static(self) -> bool:
        """Whether a quantized tensor has a stored range, which calibration must observe."""
        return any(spec.active and not spec.dynamic for _, spec in self._forward())

    @property
    def per_batch(self) -> bool:
        """Whether a range is taken from all of a batch, so that its windows see each other."""
        return any(spec.per_batch for _, spec in self._forward())

    @property
    def running(self) -> bool:
        """Whether anything is quantized while the model runs: any tensor but the weights."""
        return any(spec.active for _, spec in self._forward())

    @property
    def active(self) -> bool:
        """Whether any tensor is quantized."""
        return self.weight.active or self.running


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
    """Options of ``rounding=gptq`` (GPTQ, 2210.17323); ignored by ``rounding=rtn``.

    ``unseen_experts`` says what becomes of a mixture's experts that no calibration token reached,
    which have no Hessian: rounded to nearest and named in the report (``rtn``), or an ``error``.
    """

    damping: float = 0.01
    block_size: int = 128
    act_order: bool = False
    static_groups: bool = False
    true_sequential: bool = True
    unseen_experts: str = "rtn"


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

    ``validation`` sets are measured like test sets, but shown in no table: options may be chosen
    by them (:mod:`quantexp.evaluation.objective`).

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
    validation: tuple[PerplexitySet, ...] = ()


@dataclass(frozen=True)
class ProtocolConfig:
    """``uniform``: equal tokens, schemes and granularity; ``official``: each paper's settings.

    ``paper`` (official only) takes baselines as that paper ran them; ``None``: as their authors do.
    """

    name: str
    paper: str | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job asks of SLURM; ``None`` leaves it to the model's size or to the site's default.

    ``gres`` goes to SLURM as it is, in place of ``gpus`` and ``gpu_type``.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | None = None
    gpu_type: str | None = None
    gres: str | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    time_min: int | None = None


# Fields of ``cluster`` that a shell would execute: they are read from conf/ and the command line
# of the moment, never from a stored configuration or a sweep's file.
EXECUTED = ("setup", "python", "container", "sbatch")


@dataclass(frozen=True)
class ClusterConfig(Resources):
    """Where jobs run; nothing here may change a number (see docs/architecture.md).

    What ``calibrate`` and ``evaluate`` say goes before the common values, for their kind of job.
    ``sbatch`` holds further options as sbatch knows them (``mail-type=END``, ``exclusive``).
    """

    name: str
    threads: int = 2
    max_jobs: int | None = None
    pack: int | None = None
    calibrate: Resources = field(default_factory=Resources)
    evaluate: Resources = field(default_factory=Resources)
    setup: tuple[str, ...] = ()
    python: str | None = None
    container: str | None = None
    sbatch: tuple[str, ...] = ()
    signal_s: int = 120
    canary: bool = False
    detach: bool = False
    poll_s: float = 30.0


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
    activations: str = "auto"  # where they lie between blocks; no number depends on it
    activation_dtype: str = "float32"  # of what lies there while calibrating
    products: str = "float32"  # of matrices in passes without gradients, on an accelerator
    objective: str = "block_error"
    keep: str = "checkpoint"
    name: str | None = None
    plugins: tuple[str, ...] = ()  # folders of the user's own methods; for records, never loaded

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
    from quantexp import checks  # it reads the schema above

    checks.check(config)
    if name == "none":  # so that method=none,rtn bits=w4a4 holds the baseline, not an error
        config = baseline(config)
    if config.protocol.name == "official":
        from quantexp.protocols import official  # likewise

        config = official.apply(config)
    registry.method(name).check(config)
    return config


def to_plain(config: ExperimentConfig) -> dict[str, Any]:
    """The inverse of :func:`from_plain`: plain data, safe to store and to read back.

    What a shell would execute (:data:`EXECUTED`) is left out.
    """
    data: dict[str, Any] = plain(config)
    for name in EXECUTED:
        del data["cluster"][name]
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
        validation=tuple(replace(item, **changes) for item in evaluation.validation),
        path=None,
        seq_len=None,
        max_windows=None,
    )
