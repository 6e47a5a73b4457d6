"""The contract of a method: typed options, what its fit reads, and a fit that is pure.

Loading, capturing, propagating, checkpointing, resuming, merging and rounding live once in
:mod:`quantexp.calibration.blocks`. Method modules import torch inside functions, so that a login
node can read and check options without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from quantexp.errors import ConfigError

if TYPE_CHECKING:
    from quantexp.calibration.blocks import CalibrationBlock
    from quantexp.config import BitsConfig, ExperimentConfig
    from quantexp.models.source import ModelSource


@dataclass(frozen=True)
class NoOptions:
    """For methods without options."""


@dataclass(frozen=True)
class Holds:
    """What a fit holds at its peak, for estimates; all of it in float32.

    Attributes:
        weights: Copies of the block's weights: as read, as integers, what rounding and storing
            take; and what is derived from them while fitting.
        passes: Activations of passes without gradients, in units of one.
        trained: Activations of a training step on ``batch_size`` windows, in the same units per
            token: autograd keeps what each operation made.
    """

    weights: float = 2.4
    passes: float = 1.0
    trained: float = 0.0


class Method:
    """Base of all methods; a subclass lives alone in ``quantexp/methods/<name>.py``.

    Attributes:
        Options: Dataclass of the keys of ``conf/method/<name>.yaml`` (without ``name``).
        version: Raised whenever results may change; part of the calibration fingerprint.
        streams: Which block inputs ``fit`` reads: ``fp`` (from the unquantized blocks before),
            ``quantized`` (from the blocks before as they were rounded), both, or none.
        uses_forward_bits: ``fit`` depends on the bits of activations, keys, values or queries.
        seeded: ``fit`` draws random numbers.
        transforms: ``fit`` installs transforms at the sites of a block; a model whose blocks have
            none (see docs/architectures.md) is then refused.
        autocast: Name of the 16-bit dtype of matrix products while fitting (``bfloat16``,
            ``float16``), or ``None``. Parameters and statistics stay in float32.
        more_streams: Buffers of activations (B, T, C) that ``fit`` makes for itself.

    An attribute that depends on the options is a property.
    """

    Options: ClassVar[type] = NoOptions
    version: ClassVar[int] = 1
    streams: tuple[str, ...] = ()
    uses_forward_bits: bool = False
    seeded: bool = False
    transforms: bool = True
    autocast: str | None = None
    more_streams: tuple[str, ...] = ()

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def check(cls, config: ExperimentConfig) -> None:
        """Refuses options or combinations that make no sense for this method.

        Raises:
            ConfigError: With the value, what is allowed and the fix.
        """

    @classmethod
    def check_model(cls, config: ExperimentConfig, model: ModelSource) -> None:
        """Refuses what this model's sizes do not allow; reads config.json, never weights.

        Raises:
            ConfigError: With the value, what is allowed and the fix.
        """

    def holds(self, bits: BitsConfig) -> Holds:
        """What ``fit`` holds in memory at its peak."""
        return Holds()

    def fit(self, block: CalibrationBlock) -> dict[str, Any]:
        """Fits one block: installs transforms and clips into ``block.module``.

        Returns:
            A small report for the record (plain data: losses, scales, …).
        """
        return {}


def check_transforms(method: Method, config: ExperimentConfig, model: ModelSource) -> None:
    """Refuses a method with transforms where the model's blocks have no place for any.

    Raises:
        ConfigError: With the reason and what can be used.
    """
    reason = model.architecture.refused
    if reason and method.transforms:
        raise ConfigError(
            f"method={config.method.name} with model_type {model.architecture_name}: {reason}; "
            "use method=rtn, with rounding=rtn or rounding=gptq"
        )
