"""AWQ (arXiv 2306.00978): scales and clips of weights, searched on the error of outputs.

Few channels matter far more than the others, and activations tell which. Scaling them up before
rounding, and their activations down, protects them (equations 2 and 3); each scale is searched on
a grid over one exponent (equations 4 and 5). Then the range of each weight group is searched.
Only weights are quantized here: the search leaves activations, keys and values as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from quantexp.errors import CalibrationError, ConfigError
from quantexp.methods.base import Holds, Method
from quantexp.values import at_least, one_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quantexp.calibration.blocks import CalibrationBlock
    from quantexp.config import BitsConfig, ExperimentConfig
    from quantexp.models.architectures import Site
    from quantexp.quantization.block import QuantBlock
    from quantexp.quantization.quantizer import Quantizer

# The official code's constants.
SCALE_FLOOR = 1e-4  # of a^r, before it is normalized: silent channels
CLIPS = tuple(1 - i / 20 for i in range(10))  # ranges tried: 1.0, 0.95, … 0.55 of max|w|
CLIP_TOKENS = 512  # on which clips are judged, spread evenly over all tokens
CLIP_ELEMENTS = 2**22  # output errors held at once: weight rows are taken in parts


@dataclass(frozen=True)
class AWQOptions:
    """The official code's recipe.

    Attributes:
        scaling: Search the scales.
        clipping: Search the clips (not of q and k).
        grid: Exponents tried per scale: 0, 1/grid, … ; 1 tries 0 alone, which scales nothing.
        gqa: With grouped queries, the scale of the output projection's input is left out
            (``skip``, the official code) or shared by the query heads that read a value head
            (``tie``).
    """

    scaling: bool = True
    clipping: bool = True
    grid: int = 20
    gqa: str = "skip"


class AWQ(Method):
    """Searches one block on the fp stream; nothing depends on bits other than the weights'."""

    Options = AWQOptions
    streams = ("fp",)

    @classmethod
    def check(cls, config: ExperimentConfig) -> None:
        """Refuses what leaves nothing to search, and ranges that would be clipped twice."""
        o, weight = config.method.options, config.bits.weight
        one_of("method.gqa", o.gqa, ("skip", "tie"))
        at_least("method.grid", o.grid)
        if not (o.scaling or o.clipping):
            raise ConfigError(
                "method=awq with scaling and clipping both off searches nothing: switch one on, "
                "or use method=rtn"
            )
        if not weight.active:
            raise ConfigError(
                f"method=awq with bits={config.bits.label}: AWQ searches scales and clips of "
                "quantized weights, but they keep 16 bits; choose bits with w2…w8, or "
                "method=smoothquant"
            )
        if weight.granularity == "per_tensor":
            raise ConfigError(
                "bits.weight.granularity=per_tensor with method=awq: scales are absorbed into the "
                "rows of v_proj and up_proj and clips are searched per row, which one range for "
                "the whole tensor undoes; use per_channel"
            )
        if o.clipping and (weight.clip_search != "none" or weight.clip_ratio != 1):
            raise ConfigError(
                f"bits.weight.clip_search={weight.clip_search} "
                f"bits.weight.clip_ratio={weight.clip_ratio} on top of method.clipping: weights "
                "would be clipped twice; leave them at none and 1.0, or set method.clipping=false"
            )

    def holds(self, bits: BitsConfig) -> Holds:
        """Scaled weights beside the others; inputs and outputs of the modules it searches."""
        return Holds(weights=3.3, passes=1.9)

    def fit(self, block: CalibrationBlock) -> dict[str, Any]:
        """Installs the best scale of each site, then the best clip of each weight group."""
        from quantexp.quantization.clipping import FixedClamp

        quant = block.quant
        o = self.options
        searches = _searches(block, o.grid, o.gqa) if o.scaling else []
        # activations stay at full precision during the search, whatever their bits
        with quant.bypass(weights=False):
            tokens = _pass(block, searches)
        report = {}
        weights = {path: linear.weight.data for path, linear in quant.linears.items()}
        for search in searches:
            site = search.site
            s, report[site.name] = search.best(block.index)
            search.install(quant, s)
            # what the merged weights will be, in the official code's order of operations
            tokens[site.name] /= s
            for path in site.linears:
                weights[path] = weights[path] * s
            if site.previous is not None:
                weights[site.previous] = weights[site.previous] / search.shared(s).unsqueeze(1)
        if o.clipping:
            for path, name in _clipped(quant):
                linear = quant.linears[path]
                clips = best_clips(weights[path], tokens[name], linear.weight_quantizer)
                linear.final_clamp = FixedClamp(clips)
        quant.start_fitting()
        return {"scales": report}


def searched_scales(block: CalibrationBlock, grid: int = 20) -> dict[str, Tensor]:
    """The scale of each site by AWQ's search, for a method that starts from it.

    Returns:
        Site → (R,), one factor for each row of what precedes the site; query heads that read one
        value head share theirs.
    """
    searches = _searches(block, grid, "tie")
    with block.quant.bypass(weights=False):
        _pass(block, searches)
    return {search.site.name: search.shared(search.best(block.index)[0]) for search in searches}


def _searches(block: CalibrationBlock, grid: int, gqa: str) -> list[_ScaleSearch]:
    """One for each site whose scale what precedes it can absorb."""
    quant = block.quant
    rows = len(quant.linears[quant.architecture.value].weight)
    found = []
    for site in quant.architecture.sites:
        if site.unscaled:
            continue
        a, repeats = block.channel_mean[site.linears[0]], 1
        if site.name == "attention_output":
            repeats = len(a) // rows
            if repeats > 1 and gqa == "skip":
                continue
            a = _tied(a, repeats, quant)
        found.append(_ScaleSearch(quant, site, scales(a, grid), repeats))
    return found


def scales(a: Tensor, grid: int) -> Tensor:
    """Candidates s = a^r for r = 0, 1/grid, …, less than 1 (equation 5).

    Args:
        a: (C,) mean |x| of each channel.
        grid: How many.

    Returns:
        (grid, C), normalized so that the largest and the least of each are inverses.
    """
    import torch

    s = torch.stack([a.pow(i / grid) for i in range(grid)]).clamp(min=SCALE_FLOOR)
    return s / (s.amax(1, keepdim=True) * s.amin(1, keepdim=True)).sqrt()


class _ScaleSearch:
    """The search of one site (equation 4): ‖Q(W·s)(s⁻¹·X) - WX‖² of what the site feeds.

    Attributes:
        site: The site.
        inspected: The module whose output is compared: all of attention for q, k and v, all of
            the MLP for gate and up, else the linear itself (the architecture's table says it).
        scales: (grid, C), all candidates.
        repeats: Query heads that share a value head.
        call: Arguments and output of the inspected module in the unquantized block, on a batch.
        errors: (grid,) squared errors so far.
        count: Output elements so far.
    """

    def __init__(self, quant: QuantBlock, site: Site, scales: Tensor, repeats: int) -> None:
        self.site, self.scales = site, scales
        self.repeats, self.head_dim = repeats, _head_dim(quant)
        self.linears = [quant.linears[path] for path in site.linears]
        path = site.linears[0] if site.inspected is None else site.inspected
        self.inspected = quant.module.get_submodule(path)
        self.call: tuple[tuple[Any, ...], dict[str, Any], Tensor] | None = None
        self.errors = scales.new_zeros(len(scales)).double()
        self.count = 0

    def note(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """A forward hook."""
        self.call = args, kwargs, _tensor(out)

    def try_all(self) -> None:
        """Adds the error of each candidate on the batch noted last."""
        assert self.call is not None
        args, kwargs, exact = self.call
        weights = [linear.weight.data for linear in self.linears]
        for i, s in enumerate(self.scales):
            for linear, weight in zip(self.linears, weights, strict=True):
                linear.weight.data = linear.weight_quantizer(weight * s) / s
            out = _tensor(self.inspected(*args, **kwargs))
            self.errors[i] += (out - exact).float().square().sum().double()
        for linear, weight in zip(self.linears, weights, strict=True):
            linear.weight.data = weight
        self.count += exact.numel()
        self.call = None

    def best(self, index: int) -> tuple[Tensor, dict[str, float]]:
        """The scale of least error, the smallest exponent among equals.

        Raises:
            CalibrationError: No candidate has a finite error.
        """
        errors = (self.errors / self.count).tolist()  # the search's only synchronisation
        finite = [i for i, error in enumerate(errors) if math.isfinite(error)]
        if not finite:
            raise CalibrationError(
                f"block {index}, {self.site.name}: no scale of AWQ's search gives finite outputs: "
                "the inputs or weights overflow; check the checkpoint"
            )
        chosen = min(finite, key=errors.__getitem__)
        s = self.scales[chosen]
        return s, {
            "exponent": chosen / len(errors),
            "error": errors[chosen],
            "error_unscaled": errors[0],
            "scale_min": float(s.min()),
            "scale_max": float(s.max()),
        }

    def install(self, quant: QuantBlock, s: Tensor) -> None:
        """Activations get 1/s, absorbed into what precedes the site; weight columns get s."""
        from quantexp.quantization.transforms import Diagonal, ValueScale

        # float64: W / (1/s), rounded to float32 when it is merged, is then exactly W·s
        factor = 1 / self.shared(s).double()
        if self.site.name == "attention_output":
            quant.install(self.site.name, ValueScale(factor, self.repeats, self.head_dim))
        else:
            quant.install(self.site.name, Diagonal(factor))

    def shared(self, s: Tensor) -> Tensor:
        """One factor for each row of what precedes the site."""
        if self.repeats == 1:
            return s
        rows: Tensor = s.unflatten(0, (-1, self.repeats, self.head_dim))
        return rows[:, 0].flatten()


def _pass(block: CalibrationBlock, searches: list[_ScaleSearch]) -> dict[str, Tensor]:
    """Tries all scales on all windows, batch by batch, and keeps the tokens that judge the clips.

    Every site is searched on the unquantized block, before any scale is applied. Besides the
    stream, memory holds one batch of the inspected modules' inputs and outputs, and the tokens.

    Returns:
        For each site (N, C), N < 2·512 inputs spread evenly over all tokens.
    """
    import torch

    B, T, _ = block.inputs.shape
    stride = max(1, B * T // CLIP_TOKENS)
    kept: dict[str, list[Tensor]] = {}
    tokens = 0
    with torch.no_grad():
        for part in block.batches(block.inputs):
            with _noted(block.quant, searches) as seen:
                block.forward(part)
            for name, x in seen.items():
                first = -tokens % stride  # the tokens are counted through all batches
                kept.setdefault(name, []).append(x.flatten(0, -2)[first::stride])
            for search in searches:
                search.try_all()
            tokens += len(part) * T
    return {name: torch.cat(parts) for name, parts in kept.items()}


@contextmanager
def _noted(quant: QuantBlock, searches: list[_ScaleSearch]) -> Iterator[dict[str, Tensor]]:
    """Within it each search notes its module's call; yields the input of each site."""
    seen: dict[str, Tensor] = {}
    hooks = [s.inspected.register_forward_hook(s.note, with_kwargs=True) for s in searches]
    for site in quant.architecture.sites:
        reader = quant.module.get_submodule(quant.architecture.module_of(site.linears[0]))
        hooks.append(reader.register_forward_pre_hook(partial(_keep, seen, site.name)))
    yield seen
    for hook in hooks:
        hook.remove()


def _keep(seen: dict[str, Tensor], name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
    """A forward hook: notes a module's input."""
    seen[name] = args[0]


def _clipped(quant: QuantBlock) -> Iterator[tuple[str, str]]:
    """Linears that are clipped, each with its site.

    Not q and k: they meet in a product, which the error of their own outputs does not show.
    """
    names = quant.architecture
    for site in names.sites:
        for path in site.linears:
            if path not in (names.query, names.key):
                yield path, site.name


def best_clips(weight: Tensor, x: Tensor, quantizer: Quantizer) -> Tensor:
    """The range m of each weight group that minimizes the mean of (Σ_g x·(Q(clamp(w, ±m)) - w))².

    Errors of groups are measured one by one, not summed over a row.

    Args:
        weight: (O, C), scaled.
        x: (N, C) inputs, scaled.
        quantizer: Q.

    Returns:
        m/max|w| of each group, (O, G, 1); 1 wherever no smaller range is better.
    """
    import torch

    g = quantizer.spec.group_size or weight.shape[1]
    X = x.unflatten(1, (-1, g)).permute(1, 2, 0)  # (G, g, N)
    found = []
    # an accelerator takes microseconds to start each operation
    at_once = CLIP_ELEMENTS if weight.device.type == "cpu" else 8 * CLIP_ELEMENTS
    for rows in weight.split(max(1, at_once // (len(X) * X.shape[2]))):
        w = rows.unflatten(1, (-1, g))
        top = w.abs().amax(-1, keepdim=True)
        best, least = torch.ones_like(top), torch.full_like(top, torch.inf)
        for ratio in CLIPS:
            m = top * ratio
            q = quantizer(w.clamp(-m, m).flatten(1)).unflatten(1, (-1, g))
            delta = (q - w).transpose(0, 1) @ X  # (G, O, N)
            error = delta.square().mean(-1).T.unsqueeze(-1)
            best = torch.where(error < least, ratio, best)
            least = torch.minimum(error, least)
        found.append(best)
    return torch.cat(found)


def _tied(a: Tensor, repeats: int, quant: QuantBlock) -> Tensor:
    """The mean over the query heads that read a value head, for each of them: (H·D,) → (H·D,)."""
    heads: Tensor = a.unflatten(0, (-1, repeats, _head_dim(quant)))
    return heads.mean(1, keepdim=True).expand_as(heads).flatten()


def _head_dim(quant: QuantBlock) -> int:
    attention = quant.module.get_submodule(quant.architecture.attention)
    return int(attention.head_dim)  # type: ignore[arg-type]


def _tensor(out: Any) -> Tensor:
    """Attention modules return their weights as well."""
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found
