"""OmniQuant (arXiv 2308.13137): learned ranges of weights (LWC), learned channel scales (LET).

LWC (section 3.2): hi = σ(u)·max(W), lo = σ(l)·min(W) for each row or group. LET (section 3.3):
activations are divided by s, weights multiplied by it, at both norms, between values and output
projection, and between queries and keys. Both are trained on the block's output error
(equation 1), with inputs as the quantized blocks before make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.errors import ConfigError
from quantexp.methods.base import Holds, Method
from quantexp.values import above_zero, one_of, share

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quantexp.calibration.blocks import CalibrationBlock
    from quantexp.config import BitsConfig, ExperimentConfig
    from quantexp.models.source import ModelSource


@dataclass(frozen=True)
class OmniQuantOptions:
    """The official code's recipe for LLaMA.

    Attributes:
        epochs: Passes over the calibration windows per block.
        batch_size: Windows per step.
        lwc: Learn weight ranges.
        lwc_lr: Their learning rate (the paper swaps the two rates; this is the code's).
        let: Learn channel scales: ``on``, ``off``, or ``auto``: where linear inputs, keys, values
            or queries are quantized, as the official scripts do for LLaMA.
        let_lr: Learning rate of scales and shifts.
        letqk: Scale between queries and keys. ``tied`` has s_i = s_{i+D/2}, which RoPE leaves
            alone; ``untied`` is the official code's, which changes the function that is
            quantized; ``off``.
        letvo: Scale between values and output projection.
        shift: Learn shifts beside the scales (the paper's LLaMA-13B at W4A4: 10.87 with, 11.47
            without; the official code has them off for LLaMA).
        init: Of the scales: ``smoothquant``, ``awq`` (its search on the error of outputs, see
            :mod:`quantexp.methods.awq`; no paper's, a start of our own) or ``ones``.
        alpha: Migration strength of ``init=smoothquant``.
        aug_loss: Add the error against the unquantized block on the quantized inputs.
        zero_point_gradient: Gradients pass through the rounding of zero points too. The official
            code forgets them there, so that a range learns less from the values that it cuts off.
    """

    epochs: int = 20
    batch_size: int = 1
    lwc: bool = True
    lwc_lr: float = 1e-2
    let: str = "auto"
    let_lr: float = 5e-3
    letqk: str = "tied"
    letvo: bool = True
    shift: bool = False
    init: str = "smoothquant"
    alpha: float = 0.5
    aug_loss: bool = False
    zero_point_gradient: bool = False


class OmniQuant(Method):
    """Fits one block on the quantized stream; targets are the unquantized model's outputs."""

    Options = OmniQuantOptions
    streams = ("fp", "quantized")
    uses_forward_bits = True

    @property
    def more_streams(self) -> tuple[str, ...]:  # type: ignore[override]
        """Targets for the quantized inputs, where the loss has both."""
        return ("more targets",) if self.options.aug_loss else ()

    @classmethod
    def check(cls, config: ExperimentConfig) -> None:
        """Refuses rates, counts and choices outside their range, and what would learn nothing."""
        o, bits = config.method.options, config.bits
        for key in ("epochs", "batch_size", "lwc_lr", "let_lr"):
            above_zero(f"method.{key}", getattr(o, key))
        share("method.alpha", o.alpha)
        choices = {
            "let": ("auto", "on", "off"),
            "letqk": ("tied", "untied", "off"),
            "init": ("smoothquant", "awq", "ones"),
        }
        for key, allowed in choices.items():
            one_of(f"method.{key}", getattr(o, key), allowed)
        let = scales_are_learned(o, bits)
        if not (o.lwc or let):
            raise ConfigError(
                f"method=omniquant with lwc=false, let={o.let} and bits={bits.label} learns "
                "nothing: set method.lwc=true or method.let=on, or use method=rtn"
            )
        if o.shift and not let:
            raise ConfigError(
                f"method.shift=true with let={o.let} and bits={bits.label}: shifts are learned "
                "with the scales, and there are none; set method.let=on or method.shift=false"
            )
        if o.init == "awq" and not bits.weight.active:
            raise ConfigError(
                f"method.init=awq with bits={bits.label}: AWQ searches the scales that quantized "
                "weights want, but they keep 16 bits; use method.init=smoothquant"
            )
        if o.letqk == "untied" and not (let and (bits.key.active or bits.query.active)):
            raise ConfigError(
                f"method.letqk=untied with let={o.let} and bits={bits.label}: a scale between "
                "queries and keys is learned where one of them is quantized, and untied is there "
                "only to compare with the official code; use method.letqk=tied"
            )
        moved = config.rounding == "gptq" and config.gptq.act_order
        if o.lwc and bits.weight.group_size and moved and not config.gptq.static_groups:
            raise ConfigError(
                "gptq.act_order=true with method.lwc and bits.weight.group_size="
                f"{bits.weight.group_size}: GPTQ would form other groups than those whose ranges "
                "were learned; set gptq.static_groups=true"
            )
        if o.lwc and bits.weight.clip_search == "grid":
            raise ConfigError(
                "bits.weight.clip_search=grid on top of method.lwc: weights would be clipped "
                "twice; set one of them off"
            )

    @classmethod
    def check_model(cls, config: ExperimentConfig, model: ModelSource) -> None:
        """Refuses scales between queries and keys where they would not cancel, and lost shifts.

        Untied scales under GQA too, where the official code does not run.
        """
        o, bits, names = config.method.options, config.bits, model.architecture
        kind = model.architecture_name
        scaled = o.letqk != "off" and scales_are_learned(o, bits)
        if scaled and (bits.key.active or bits.query.active):
            if names.query_key_norm:
                raise ConfigError(
                    f"method.letqk={o.letqk} with model_type {kind}: its norms of queries and keys "
                    "undo every scale of the projections before them; set method.letqk=off"
                )
            if names.partial_rope and o.letqk == "tied":
                raise ConfigError(
                    f"method.letqk=tied with model_type {kind}: its RoPE turns a part of each "
                    "head's channels only, in other pairs than i and i+D/2; set method.letqk=off"
                )
        followers = [path for site in names.sites for path in site.followers]
        if o.shift and followers and scales_are_learned(o, bits):
            raise ConfigError(
                f"method.shift=true with model_type {kind}: {followers[0]} reads what would be "
                "shifted and has no bias that could undo it; set method.shift=false"
            )
        if o.letqk == "untied" and model.heads != model.kv_heads:
            raise ConfigError(
                f"method.letqk=untied needs as many key heads as query heads (the model has "
                f"{model.kv_heads} and {model.heads}): it is there only to compare with the "
                "official code, which has no GQA; use method.letqk=tied"
            )

    def holds(self, bits: BitsConfig) -> Holds:
        """Learned scales multiply each weight before it is rounded: more that autograd keeps."""
        scaled = scales_are_learned(self.options, bits)
        return Holds(weights=4.9 if scaled else 3.0, passes=0.9, trained=3.5)

    def fit(self, block: CalibrationBlock) -> dict[str, Any]:
        """Installs scales and ranges, then trains them (equation 1)."""
        from quantexp.calibration.gradient import ParameterGroup, fit_output

        o = self.options
        targets = [block.targets]
        if o.aug_loss:
            targets.append(block.unquantized(block.quantized_inputs))
        scales = self._install_let(block)
        ranges = self._install_lwc(block) if o.lwc else []
        if not (scales or ranges):
            return {}
        for quantizer in block.quant.all_quantizers():
            quantizer.zero_gradient = o.zero_point_gradient
        block.quant.start_fitting()
        losses = fit_output(
            block,
            [ParameterGroup(scales, o.let_lr), ParameterGroup(ranges, o.lwc_lr)],
            block.quantized_inputs,
            targets,
            epochs=o.epochs,
            batch_size=o.batch_size,
            weight_decay=0.0,
        )
        return {"loss": losses}

    def _install_lwc(self, block: CalibrationBlock) -> list[nn.Parameter]:
        """u and l of each weight row or group (equation 2)."""
        from quantexp.quantization.clipping import WeightRange

        found = []
        for linear in block.quant.linears.values():
            spec = linear.weight_quantizer.spec
            if spec.active:
                rows, columns = linear.weight.shape
                if spec.granularity == "per_tensor":
                    rows = 1
                learned = WeightRange(rows, columns // (spec.group_size or columns))
                linear.weight_quantizer.clip = learned.to(block.device)
                found.append(learned.logits)
        return found

    def _install_let(self, block: CalibrationBlock) -> list[nn.Parameter]:
        """s (and δ) at the norms, between v and o, between q and k (equations 3 to 5).

        down_proj has none: its gradients are unstable (section 3.3).
        """
        import torch
        from torch import nn

        from quantexp.methods.awq import searched_scales
        from quantexp.quantization.scaling import RowScaling, Scaling, ValueScaling

        o, quant = self.options, block.quant
        bits = quant.bits
        if not scales_are_learned(o, bits):
            return []
        names, found = quant.architecture, []
        linears = bits.weight.active or bits.activation.active
        attention = quant.module.get_submodule(names.attention)
        head_dim = int(attention.head_dim)  # type: ignore[arg-type]
        heads = quant.linears[names.query].weight.shape[0] // head_dim
        kv_heads = quant.linears[names.value].weight.shape[0] // head_dim
        repeats = heads // kv_heads
        searched = searched_scales(block) if o.init == "awq" else {}
        if linears:
            # the official code looks at the weights of one linear of each site alone
            for name in ("attention_input", "mlp_input"):
                if not names.has(name):
                    continue
                path = names.query if name == "attention_input" else names.site(name).linears[-1]
                s = searched.get(name)
                if s is None:
                    s = self._initial(block.channel_max[path], [quant.linears[path].weight])
                quant.install(name, Scaling(s, o.shift))
        if o.letvo and (linears or bits.value.active):
            (path,) = names.site("attention_output").linears
            split = (kv_heads, repeats, head_dim)
            x_max = block.channel_max[path].unflatten(0, split).amax(1).flatten()
            weights = quant.linears[path].weight.unflatten(1, split).unbind(2)
            s = searched.get("attention_output")
            if s is None:
                s = self._initial(x_max, [w.flatten(1) for w in weights])
            quant.install("attention_output", ValueScaling(s, repeats, head_dim, o.shift))
        for transform in quant.transforms.values():
            found += list(transform.parameters())
        if o.letqk != "off" and (bits.key.active or bits.query.active):
            width = head_dim // 2 if o.letqk == "tied" else head_dim
            shared = nn.Parameter(torch.ones(kv_heads, width, device=block.device))
            quant.install_rows(names.query, RowScaling(shared, head_dim, repeats, divide=True))
            quant.install_rows(names.key, RowScaling(shared, head_dim, 1, divide=False))
            found.append(shared)
        return found

    def _initial(self, x_max: Tensor, weights: list[Tensor]) -> Tensor:
        """Where a scale starts (appendix A1: as in SmoothQuant)."""
        import torch

        from quantexp.quantization.smoothing import smoothing_scale

        if self.options.init == "ones":
            return torch.ones_like(x_max)
        return smoothing_scale(x_max, weights, self.options.alpha)


def scales_are_learned(options: OmniQuantOptions, bits: BitsConfig) -> bool:
    """Whether LET is on for these bits."""
    return options.let == "on" or (options.let == "auto" and bits.running)
