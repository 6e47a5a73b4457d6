"""FlatQuant (arXiv 2410.09426): learned affine transforms that flatten weights and activations.

Each site of a block gets an invertible matrix P, a Kronecker product of two small factors
(section 3.1), and a per-channel scale (PS); weights, activations, keys and values get learned
clipping thresholds (LCT). All are trained together on the block's output error (equation 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.errors import ConfigError, unknown
from quantexp.methods.base import Method

if TYPE_CHECKING:
    from quantexp.calibration.blocks import CalibrationBlock
    from quantexp.config import ExperimentConfig
    from quantexp.quantization.factors import Factor


@dataclass(frozen=True)
class FlatQuantOptions:
    """The official code's recipe for LLaMA.

    Attributes:
        epochs: Passes over the calibration windows per block.
        batch_size: Windows per step.
        lr: Learning rate of transforms and per-channel scales.
        clip_lr_multiplier: The clipping thresholds learn faster by this factor.
        alpha: Migration strength of the initial per-channel scale.
        transform: Learn the matrices (LT).
        per_channel_scaling: Learn the per-channel scales (PS).
        clipping: Learn the clipping thresholds (LCT).
        parametrization: ``svd`` (orthogonal factors by Cayley maps, no inversion) or ``direct``.
        init: ``random`` (orthogonal, the official one) or ``identity``.
    """

    epochs: int = 15
    batch_size: int = 4
    lr: float = 5e-3
    clip_lr_multiplier: float = 10.0
    alpha: float = 0.3
    transform: bool = True
    per_channel_scaling: bool = True
    clipping: bool = True
    parametrization: str = "svd"
    init: str = "random"


class FlatQuant(Method):
    """Fits one block on the fp stream; the target is the unquantized block's output."""

    Options = FlatQuantOptions
    streams = ("fp",)
    uses_forward_bits = True
    seeded = True

    @classmethod
    def check(cls, config: ExperimentConfig) -> None:
        """Refuses rates, counts and choices outside their range, and nothing to learn."""
        o = config.method.options
        for key in ("epochs", "batch_size", "lr", "clip_lr_multiplier"):
            if not getattr(o, key) > 0:
                raise ConfigError(f"method.{key}={getattr(o, key)} must be greater than 0")
        if not 0 <= o.alpha <= 1:
            raise ConfigError(f"method.alpha={o.alpha} is out of range: allowed 0 to 1")
        choices = {"parametrization": ("svd", "direct"), "init": ("random", "identity")}
        for key, allowed in choices.items():
            if getattr(o, key) not in allowed:
                raise ConfigError(unknown(f"method.{key}", getattr(o, key), allowed))
        if not (o.transform or o.per_channel_scaling or o.clipping):
            raise ConfigError(
                "method=flatquant with transform, per_channel_scaling and clipping all off learns "
                "nothing: switch one on, or use method=rtn"
            )
        if o.per_channel_scaling and config.bits.weight.granularity == "per_tensor":
            raise ConfigError(
                "bits.weight.granularity=per_tensor with method.per_channel_scaling: the scale at "
                "down_proj is absorbed into the rows of up_proj, which commutes with a scale per "
                "row only; use per_channel, or method.per_channel_scaling=false"
            )
        if o.clipping and config.bits.weight.clip_search == "grid":
            raise ConfigError(
                "bits.weight.clip_search=grid on top of method.clipping: weights would be clipped "
                "twice; set one of them off"
            )

    def fit(self, block: CalibrationBlock) -> dict[str, Any]:
        """Installs transforms and clips, then trains them (equation 4)."""
        from quantexp.calibration.gradient import ParameterGroup, fit_output

        o = self.options
        self._install_transforms(block)
        block.quant.module.to(block.device)
        learned = [p for p in block.quant.module.parameters() if p.requires_grad]
        clips = self._install_clips(block) if o.clipping else []
        block.quant.start_fitting()
        losses = fit_output(
            block,
            [ParameterGroup(learned, o.lr), ParameterGroup(clips, o.lr * o.clip_lr_multiplier)],
            block.inputs,
            [block.targets],
            epochs=o.epochs,
            batch_size=o.batch_size,
            weight_decay=0.01,  # AdamW's default, which the official code leaves on
            lr_min=o.lr * 1e-3,
            log_loss=True,
        )
        return {"loss": losses}

    def _install_transforms(self, block: CalibrationBlock) -> None:
        """P_a, P_o ⊗ P_v, P_ug, P_d and P_h (figure 3), where something is quantized."""
        from quantexp.quantization.smoothing import smoothing_scale
        from quantexp.quantization.transforms import (
            Composition,
            Diagonal,
            Heads,
            Kronecker,
            Transform,
            kronecker_sizes,
        )

        o, quant = self.options, block.quant
        some = next(iter(quant.linears.values()))
        linears = some.input_quantizer.active or some.weight_quantizer.active
        attention = quant.module.get_submodule(quant.architecture.attention)
        head_dim = int(attention.head_dim)  # type: ignore[arg-type]
        for site in quant.architecture.sites:
            weights = [quant.linears[path].weight for path in site.linears]
            width = weights[0].shape[1]
            if site.name == "attention_output":
                if o.transform and (linears or quant.attention.value.active):
                    mix = self._factor(width // head_dim, block) if linears else None
                    quant.install(site.name, Heads(mix, self._factor(head_dim, block)))
                continue
            parts: list[Transform] = []
            if o.per_channel_scaling and linears:
                # the code multiplies by c = 1/s and uses α = 0.3
                s = smoothing_scale(block.channel_max[site.linears[0]], weights, o.alpha)
                parts.append(Diagonal(1 / s))
            if o.transform and linears:
                left, right = (self._factor(n, block) for n in kronecker_sizes(width))
                parts.append(Kronecker(left, right))
            if parts:
                quant.install(site.name, Composition(parts))
        if o.transform and (quant.attention.key.active or quant.attention.query.active):
            quant.install_keys(Kronecker(None, self._factor(head_dim, block)))

    def _factor(self, n: int, block: CalibrationBlock) -> Factor:
        from quantexp.quantization.factors import make_factor

        return make_factor(n, self.options.parametrization, self.options.init, block.generator)

    def _install_clips(self, block: CalibrationBlock) -> list[Any]:
        """σ(logit) thresholds: per weight row (or group), per linear input, for K, V and Q."""
        from quantexp.quantization.clipping import LearnedClamp, LearnedRange

        found = []
        for linear in block.quant.linears.values():
            spec = linear.weight_quantizer.spec
            if spec.active:
                rows, columns = linear.weight.shape
                linear.clamp = LearnedClamp(rows, columns // (spec.group_size or columns))
                found += [linear.clamp.to(block.device).logits]
        for _, quantizer in block.quant.quantizers():
            if quantizer.active:
                quantizer.clip = LearnedRange().to(block.device)
                found += list(quantizer.clip.parameters())
        return found
