"""FlatQuant (arXiv 2410.09426): learned affine transforms that flatten weights and activations.

Each site of a block gets an invertible matrix P, a Kronecker product of two small factors
(section 3.1), and a per-channel scale (PS); weights, activations, keys and values get learned
clipping thresholds (LCT). All are trained together on the block's output error (equation 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

from quantexp.config import TENSORS
from quantexp.errors import ConfigError
from quantexp.methods.base import Holds, Method
from quantexp.quantization.sizes import hadamard, kronecker_sizes
from quantexp.values import above_zero, one_of, share

if TYPE_CHECKING:
    from quantexp.calibration.blocks import CalibrationBlock
    from quantexp.config import BitsConfig, ExperimentConfig
    from quantexp.models.architectures import Site
    from quantexp.models.source import ModelSource
    from quantexp.quantization.factors import Factor
    from quantexp.quantization.quantizer import Quantizer
    from quantexp.quantization.transforms import Diagonal, TokenClamp


PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}
CHOICES = {
    "clipping_position": ("after", "before"),
    "parametrization": ("svd", "direct"),
    "init": ("random", "hadamard", "identity"),
    "scale_init": ("smoothquant", "one"),
    "value_transform": ("merged", "online"),
    "precision": tuple(PRECISIONS),
}


@dataclass(frozen=True)
class FlatQuantOptions:
    """The official code's recipe for LLaMA, and what the paper's ablations vary.

    Attributes:
        epochs: Passes over the calibration windows per block.
        batch_size: Windows per step.
        lr: Learning rate of transforms and per-channel scales.
        clip_lr_multiplier: The clipping thresholds learn faster by this factor.
        alpha: Migration strength of the initial per-channel scale.
        transform: Learn the matrices (LT).
        per_channel_scaling: Learn the per-channel scales (PS).
        clipping: Learn the clipping thresholds (LCT).
        clipping_position: Clip ``after`` the matrices or ``before`` them (Table 18). Before them,
            weights are clamped as they are, site inputs behind their scale, keys before P_h;
            values, which v_proj makes with P_v already in them, keep their clip after it unless
            ``value_transform=online``. Table 18's fixed ratios are ``clipping=false`` with
            ``bits.activation.clip_ratio=0.9`` and 0.95 for keys and values.
        parametrization: ``svd`` (orthogonal factors by Cayley maps, no inversion) or ``direct``.
        init: ``random`` (orthogonal, the official one), ``hadamard`` or ``identity``.
        scale_init: ``smoothquant`` (by ``alpha``) or ``one``.
        kronecker_hidden: Sizes [n1, n2] of the factors at the inputs of q, k, v and of gate, up;
            ``None`` is the official rule (equal parity, as close as possible), one ``None`` in it
            what the other leaves, and 1 a full-size matrix on the other side.
        kronecker_intermediate: The same at the input of down.
        value_transform: P_v ``merged`` into v_proj, or ``online`` on the values (the official
            code's ``separate_vtrans``, its choice for LLaMA-3-70B).
        precision: Of the matrix products while fitting; parameters stay in float32.
        zero_point_gradient: Let the zero points of asymmetric tensors (K, V) pass a gradient
            straight through their rounding. The official code stops it there; passing it on gives
            2 to 4 % less perplexity on small models at W4A4KV4.
    """

    epochs: int = 15
    batch_size: int = 4
    lr: float = 5e-3
    clip_lr_multiplier: float = 10.0
    alpha: float = 0.3
    transform: bool = True
    per_channel_scaling: bool = True
    clipping: bool = True
    clipping_position: str = "after"
    parametrization: str = "svd"
    init: str = "random"
    scale_init: str = "smoothquant"
    kronecker_hidden: tuple[int | None, ...] | None = None
    kronecker_intermediate: tuple[int | None, ...] | None = None
    value_transform: str = "merged"
    precision: str = "fp32"
    zero_point_gradient: bool = False


class FlatQuant(Method):
    """Fits one block on the fp stream; the target is the unquantized block's output."""

    Options = FlatQuantOptions
    version = 2
    streams = ("fp",)
    uses_forward_bits = True

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Random numbers are drawn for the initial matrices alone."""
        return bool(self.options.transform and self.options.init == "random")

    @property
    def autocast(self) -> str | None:  # type: ignore[override]
        """The 16-bit dtype of ``precision``."""
        return PRECISIONS[self.options.precision]

    @classmethod
    def check(cls, config: ExperimentConfig) -> None:
        """Refuses rates, counts and choices outside their range, and what makes no sense."""
        o, bits = config.method.options, config.bits
        for key in ("epochs", "batch_size", "lr", "clip_lr_multiplier"):
            above_zero(f"method.{key}", getattr(o, key))
        share("method.alpha", o.alpha)
        for key, allowed in CHOICES.items():
            one_of(f"method.{key}", getattr(o, key), allowed)
        if not (o.transform or o.per_channel_scaling or o.clipping):
            raise ConfigError(
                "method=flatquant with transform, per_channel_scaling and clipping all off learns "
                "nothing: switch one on, or use method=rtn"
            )
        if o.clipping_position == "before" and not (o.transform and o.clipping):
            raise ConfigError(
                "method.clipping_position=before needs method.transform and method.clipping: "
                "without both there is nothing to clip before; use clipping_position=after"
            )
        for tensor in ("key", "query"):
            if o.transform and getattr(bits, tensor).granularity == "per_token_before_rope":
                raise ConfigError(
                    f"bits.{tensor}.granularity=per_token_before_rope with method=flatquant: P_h "
                    "acts behind RoPE, on what would be quantized already; use per_head or "
                    "per_token, or method.transform=false"
                )
        if not o.transform:
            for key in ("parametrization", "init", "kronecker_hidden", "kronecker_intermediate"):
                _unused(o, key, "method.transform=false has no matrices")
            _unused(o, "value_transform", "method.transform=false has no P_v")
        if not o.per_channel_scaling:
            _unused(o, "scale_init", "method.per_channel_scaling=false has no scales")
        for key in ("kronecker_hidden", "kronecker_intermediate"):
            sizes = getattr(o, key)
            if sizes is not None and (
                len(sizes) != 2
                or sizes == (None, None)
                or any(n is not None and n < 1 for n in sizes)
            ):
                raise ConfigError(
                    f"method.{key}={list(sizes)} must be two sizes of at least 1, as [64,86], or "
                    "one and null, as [64,null]"
                )
        if o.per_channel_scaling and bits.weight.granularity == "per_tensor":
            raise ConfigError(
                "bits.weight.granularity=per_tensor with method.per_channel_scaling: the scale at "
                "down_proj is absorbed into the rows of up_proj, which commutes with a scale per "
                "row only; use per_channel, or method.per_channel_scaling=false"
            )
        if o.clipping:
            for tensor in TENSORS:
                spec = getattr(bits, tensor)
                key, value = "clip_search", spec.clip_search
                if value == "none":
                    key, value = "clip_ratio", spec.clip_ratio
                if spec.active and value not in ("none", 1.0):
                    raise ConfigError(
                        f"bits.{tensor}.{key}={value} on top of method.clipping: the tensor would "
                        "be clipped twice; leave it out, or set method.clipping=false"
                    )

    @classmethod
    def check_model(cls, config: ExperimentConfig, model: ModelSource) -> None:
        """Refuses factors that do not give the model's widths, or have no Hadamard matrix."""
        o = config.method.options
        if not o.transform or not config.bits.active:
            return
        found = {"the heads (P_o)": model.heads, "a head's channels (P_v, P_h)": model.head_dim}
        for key, width in (("hidden", model.hidden), ("intermediate", model.intermediate)):
            option = f"kronecker_{key}"
            given = getattr(o, option)
            left, right = _sizes(given, width)
            if left * right != width:
                pairs = [[n, width // n] for n in range(1, isqrt(width) + 1) if width % n == 0]
                raise ConfigError(
                    f"method.{option}={list(given)} does not multiply to the model's {key} size "
                    f"{width}: allowed {', '.join(map(str, pairs[::-1][:6]))} in "
                    "either order, or null"
                )
            found |= {f"method.{option}, left": left, f"method.{option}, right": right}
        if o.init == "hadamard":
            for where, n in found.items():
                if hadamard(n) is None:
                    raise ConfigError(
                        f"method.init=hadamard: no Hadamard matrix of size {n} ({where}) is known "
                        "here (1, 2, multiples of 4 by Paley and Sylvester: 2^k, 12·2^k, 20·2^k, "
                        "28·2^k, …); give other kronecker sizes, or method.init=random"
                    )

    def holds(self, bits: BitsConfig) -> Holds:
        """Each weight between two transforms, rounded, and what autograd keeps of that."""
        return Holds(weights=8.0, trained=3.5)

    def fit(self, block: CalibrationBlock) -> dict[str, Any]:
        """Installs transforms and clips, then trains them (equation 4)."""
        from quantexp.calibration.gradient import ParameterGroup, fit_output

        o = self.options
        self._install_transforms(block)
        clips = self._install_clips(block) if o.clipping else []
        apart = {id(p) for p in clips}
        parameters = block.quant.module.parameters()
        learned = [p for p in parameters if p.requires_grad and id(p) not in apart]
        for _, quantizer in block.quant.quantizers():
            quantizer.zero_gradient = o.zero_point_gradient
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
        report: dict[str, Any] = {"loss": losses}
        if left := [s.name for s in block.quant.architecture.sites if not _scalable(s)]:
            report["unscaled"] = left
        return report

    def _install_transforms(self, block: CalibrationBlock) -> None:
        """P_a, P_o ⊗ P_v, P_ug, P_d and P_h (figure 3), where something is quantized."""
        from quantexp.quantization.transforms import Composition, Heads, Kronecker, Transform

        o, quant = self.options, block.quant
        some = next(iter(quant.linears.values()))
        linears = some.input_quantizer.active or some.weight_quantizer.active
        key, value, query = quant.attention.key, quant.attention.value, quant.attention.query
        attention = quant.module.get_submodule(quant.architecture.attention)
        head_dim = int(attention.head_dim)  # type: ignore[arg-type]
        for site in quant.architecture.sites:
            linear = quant.linears[site.linears[0]]
            width = linear.weight.shape[1]
            clamp = self._clamp_before(linear.input_quantizer)
            if site.name == "attention_output":
                if o.transform and (linears or value.active):
                    mix = self._factor(width // head_dim, block) if linears else None
                    P_v, merged = self._factor(head_dim, block), o.value_transform == "merged"
                    quant.install(site.name, Heads(mix, P_v, clamp, merged))
                    if not merged:
                        quant.install_values(Kronecker(None, P_v, self._clamp_before(value)))
                continue
            parts: list[Transform] = []
            if o.per_channel_scaling and linears and _scalable(site):
                parts.append(self._scale(block, site))
            if o.transform and linears:
                left, right = (self._factor(n, block) for n in self._sizes(site, width))
                parts.append(Kronecker(left, right, clamp))
            if parts:
                quant.install(site.name, Composition(parts))
        if o.transform and (key.active or query.active):
            P_h = self._factor(head_dim, block)
            quant.install_keys(Kronecker(None, P_h, self._clamp_before(key)))

    def _scale(self, block: CalibrationBlock, site: Site) -> Diagonal:
        """PS: c = 1/s with SmoothQuant's s at α = 0.3, as the official code has it."""
        from torch import ones_like

        from quantexp.quantization.smoothing import smoothing_scale
        from quantexp.quantization.transforms import Diagonal

        weights = [block.quant.linears[path].weight for path in site.linears]
        s = smoothing_scale(block.channel_max[site.linears[0]], weights, self.options.alpha)
        return Diagonal(ones_like(s) if self.options.scale_init == "one" else 1 / s)

    def _sizes(self, site: Site, width: int) -> tuple[int, int]:
        o = self.options
        return _sizes(
            o.kronecker_hidden if site.norm is not None else o.kronecker_intermediate, width
        )

    def _factor(self, n: int, block: CalibrationBlock) -> Factor:
        from quantexp.quantization.factors import make_factor

        return make_factor(n, self.options.parametrization, self.options.init, block.generator)

    def _clamp_before(self, quantizer: Quantizer) -> TokenClamp | None:
        """LCT before the matrices, where the tensor is quantized behind them."""
        from quantexp.quantization.clipping import INITIAL_LOGIT
        from quantexp.quantization.transforms import TokenClamp

        before = self.options.clipping_position == "before" and quantizer.active
        return TokenClamp(INITIAL_LOGIT) if before else None

    def _install_clips(self, block: CalibrationBlock) -> list[Any]:
        """σ(logit) thresholds: per weight row (or group), per linear input, for K, V and Q."""
        from quantexp.quantization.clipping import LearnedClamp, LearnedRange
        from quantexp.quantization.transforms import TokenClamp

        o, quant, found = self.options, block.quant, []
        before = o.clipping_position == "before"
        for linear in quant.linears.values():
            spec = linear.weight_quantizer.spec
            if spec.active:
                rows, columns = linear.weight.shape
                linear.clamp = LearnedClamp(rows, columns // (spec.group_size or columns))
                linear.clamp_first = before
                found += [linear.clamp.to(block.device).logits]
        found += [m.logits for m in quant.module.modules() if isinstance(m, TokenClamp)]
        for name, quantizer in quant.quantizers():
            # values that come with P_v in them have no "before"; queries take the inverse of P_h
            late = name == "query" or (name == "value" and o.value_transform == "merged")
            if quantizer.active and (late or not before):
                quantizer.clip = LearnedRange().to(block.device)
                found += list(quantizer.clip.parameters())
        return found


def _scalable(site: Site) -> bool:
    """Whether a learned scale can be absorbed: it may change its sign, which a ReLU stops."""
    return not (site.unscaled or site.positive)


def _sizes(given: tuple[int | None, ...] | None, width: int) -> tuple[int, int]:
    """The user's pair, the rest of ``width`` for a ``None`` in it, or the official rule's."""
    if given is None:
        return kronecker_sizes(width)
    left, right = given
    return left or width // (right or width), right or width // (left or width)


def _unused(options: FlatQuantOptions, key: str, reason: str) -> None:
    given = getattr(options, key)
    if given != getattr(FlatQuantOptions(), key):
        raise ConfigError(f"method.{key}={given}, but {reason}: leave it out")
