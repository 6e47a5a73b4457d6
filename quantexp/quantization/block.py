"""A decoder block with quantized linears and attention: install, merge, round, store, rebuild."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantexp.config import BitsConfig
from quantexp.errors import CalibrationError, ConfigError
from quantexp.models.architectures import Architecture
from quantexp.quantization.attention import IMPLEMENTATION, AttentionQuantizers, intercept
from quantexp.quantization.clipping import LearnedRange
from quantexp.quantization.factors import refresh_all
from quantexp.quantization.follower import Follower
from quantexp.quantization.fused import FusedLinear, QuantExperts
from quantexp.quantization.linear import QuantLinear, Siblings
from quantexp.quantization.quantizer import Quantizer
from quantexp.quantization.transforms import Kronecker, Online, Transform, ValueTransform

ONLINE_PARTS = ("left", "right", "shift")


class TransformedNorm(nn.Module):
    """A norm followed by the online transform of the site that it feeds.

    Attributes:
        offset: What the norm adds to its weight.
    """

    def __init__(self, norm: nn.Module, transform: nn.Module, offset: float) -> None:
        super().__init__()
        self.norm = norm
        self.transform = transform
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        """The site's tensor (B, T, C), computed once for all linears that read it."""
        if isinstance(self.transform, Transform):
            return self.transform.normed(self.norm, x, self.offset)
        out: Tensor = self.transform(self.norm(x))
        return out


class QuantBlock:
    """Wraps one decoder block in place; 16 bits everywhere leave its function as it was.

    Attributes:
        module: The block, to be called as before.
        bits: What is quantized in it.
        linears: The quantized linears by path.
        attention: Quantizers of keys, values and queries.
        transforms: The transform of each site that has one.
    """

    def __init__(self, module: nn.Module, architecture: Architecture, bits: BitsConfig) -> None:
        self.module = module
        self.architecture = architecture
        self.bits = bits
        self.linears: dict[str, QuantLinear] = {}
        self.transforms: dict[str, Transform] = {}
        self._followers: list[Follower] = []
        for fused in architecture.fused:
            whole = module.get_submodule(fused.path)
            assert isinstance(whole, nn.Linear), fused.path
            _set(module, fused.path, FusedLinear(whole, fused, bits))
        if architecture.experts is not None:
            path = architecture.experts.path
            _set(module, path, QuantExperts(module.get_submodule(path), bits))
        for path in architecture.linears:
            linear = module.get_submodule(path)
            if not isinstance(linear, QuantLinear):
                assert isinstance(linear, nn.Linear), path
                linear = QuantLinear(linear, bits)
                _set(module, path, linear)
            self.linears[path] = linear
        self.attention = AttentionQuantizers(bits)
        attention = module.get_submodule(architecture.attention)
        setattr(attention, IMPLEMENTATION, self.attention)
        if not architecture.interface:
            intercept(attention)
        for name in ("key", "query"):
            quantizer = getattr(self.attention, name)
            if quantizer.before_rope:
                self.linears[getattr(architecture, name)].output_quantizer = quantizer

    def install(self, site_name: str, transform: Transform) -> None:
        """Puts a transform at a site: on the norm, or on the input of the linear behind it.

        Raises:
            ConfigError: It is not defined there.
        """
        site = self.architecture.site(site_name)
        if site.unscaled and transform.channel_scale() is not None:
            raise ConfigError(f"no scale at {site_name}: {site.unscaled}")
        self._move(transform)
        self.transforms[site_name] = transform
        for path in site.linears:
            self.linears[path].site = transform
            self.linears[path].fitting = True  # else the weight would not undo the transform
            if site.norm is None:
                self.linears[path].online = transform
        for path in site.followers:
            self._followers.append(Follower(self.module.get_submodule(path), transform))
        if site.norm is not None:
            norm = self.module.get_submodule(site.norm)
            _set(self.module, site.norm, self._transformed(norm, transform))
        if isinstance(transform, ValueTransform) and transform.merged:
            self.install_rows(self.architecture.value, transform)

    def install_rows(self, path: str, transform: Transform) -> None:
        """Puts a transform on the rows of a linear; what undoes it is the caller's matter."""
        self._move(transform)
        self.linears[path].heads = transform
        self.linears[path].fitting = True

    def install_keys(self, transform: Kronecker) -> None:
        """Puts a transform on keys, its inverse transpose on queries, after RoPE."""
        self._move(transform)
        self.attention.transform = transform

    def install_values(self, transform: Kronecker) -> None:
        """Puts a transform on values, online: P_v where it is not merged into the projection."""
        self._move(transform)
        self.attention.value_transform = transform

    def _move(self, transform: Transform) -> None:
        """To the block's device, wherever a method made it."""
        transform.to(next(iter(self.linears.values())).weight.device)

    def start_fitting(self) -> None:
        """Weights are derived from the parameters at every call from now on."""
        for linear in self.linears.values():
            linear.fitting = True
        for site in self.architecture.sites:
            linears = [self.linears[path] for path in site.linears]
            if Siblings.possible(linears):
                siblings = Siblings(linears)
                for linear in linears:
                    linear.siblings = siblings

    def refresh(self) -> None:
        """Recomputes all transforms from their parameters: once per step, before the forward."""
        transforms = [*self._installed(), *self.attention.transforms()]
        # P_v may be a factor of two
        refresh_all({id(f): f for transform in transforms for f in transform.factors()}.values())
        for transform in transforms:
            transform.prepare()
        for linear in self.linears.values():
            if linear.siblings is not None:
                linear.siblings.invalidate()

    def quantizers(self) -> Iterator[tuple[str, Quantizer]]:
        """Forward-time quantizers by name: linear inputs, then key, value and query."""
        for path, linear in self.linears.items():
            yield path, linear.input_quantizer
        for name in ("key", "value", "query"):
            yield name, getattr(self.attention, name)

    def all_quantizers(self) -> list[Quantizer]:
        """Those of :meth:`quantizers`, and the weights'."""
        forward = [quantizer for _, quantizer in self.quantizers()]
        return forward + [linear.weight_quantizer for linear in self.linears.values()]

    @contextmanager
    def bypass(self, *, weights: bool = True) -> Iterator[None]:
        """Within it nothing is quantized; ``weights=False`` leaves weights quantized."""
        found = self.all_quantizers() if weights else [q for _, q in self.quantizers()]
        for quantizer in found:
            quantizer.bypassed = True
        try:
            yield
        finally:
            for quantizer in found:
                quantizer.bypassed = False

    @torch.no_grad()
    def merge(self, stored: torch.dtype) -> None:
        """Folds transforms and clamps into weights, norms and what precedes each site."""
        for transform in self._installed():
            transform.freeze(stored)
        for linear in self.linears.values():
            linear.merge()
        for follower in self._followers:
            follower.merge()
        for name, transform in self.transforms.items():
            self._absorb(name, transform)
            self._set_online(name, self._into_bias(name, transform.online()))
        for linear in self.linears.values():
            linear.finish()
        self.attention.merge(stored)
        self.transforms, self._followers = {}, []

    def state(self, stored: torch.dtype) -> dict[str, Tensor]:
        """All tensors of the merged block, floating-point ones in ``stored``."""
        found: dict[str, Tensor] = {}
        for path, linear in self.linears.items():
            for key, tensor in linear.state().items():
                found[f"{path}.{key}"] = tensor
        for name, parameter in self._others():
            found[name] = parameter.data
        for name, online in self._onlines():
            for part in ONLINE_PARTS:
                if getattr(online, part) is not None:
                    found[f"online.{name}.{part}"] = getattr(online, part)
        found = {k: v.to(stored) if v.is_floating_point() else v for k, v in found.items()}
        # Ranges and clips are a handful of scalars: they keep their precision.
        for name, online in self._onlines():
            if online.clip is not None:
                found[f"online.{name}.clip"] = online.clip
        for name, quantizer in self.quantizers():
            if isinstance(quantizer.clip, LearnedRange):
                found[f"clip.{name}"] = quantizer.clip.logits.data
            if quantizer.low is not None and quantizer.high is not None:
                found[f"range.{name}"] = torch.stack([quantizer.low, quantizer.high])
        return {k: v.detach().cpu().contiguous() for k, v in found.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Rebuilds the merged block from :meth:`state`."""
        for path, linear in self.linears.items():
            prefix = f"{path}."
            linear.load({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        for name, parameter in self._others():
            parameter.data = state[name].to(parameter.dtype)
        for name in {k.split(".")[1] for k in state if k.startswith("online.")}:
            parts = {part: state.get(f"online.{name}.{part}") for part in (*ONLINE_PARTS, "clip")}
            self._set_online(name, Online(**parts))
        for name, quantizer in self.quantizers():
            if f"clip.{name}" in state and quantizer.active:
                clip = LearnedRange()
                clip.logits = nn.Parameter(state[f"clip.{name}"], requires_grad=False)
                quantizer.clip = clip
            if f"range.{name}" in state:
                quantizer.low, quantizer.high = state[f"range.{name}"].unbind()

    def _installed(self) -> list[Transform]:
        """Each transform once: those of the sites and those on rows alone."""
        rows = [linear.heads for linear in self.linears.values() if linear.heads is not None]
        return list(dict.fromkeys([*self.transforms.values(), *rows]))

    def _others(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters outside the quantized linears (norms, …) under their original names."""
        inside = (*(f"{path}." for path in self.linears), f"{self._attention_path}.")
        for name, parameter in self.module.named_parameters():
            if name.startswith(inside) or ".transform." in name:
                continue
            yield name.replace(".norm.weight", ".weight").replace(".norm.bias", ".bias"), parameter

    @property
    def _attention_path(self) -> str:
        return f"{self.architecture.attention}.{IMPLEMENTATION}"

    def _onlines(self) -> Iterator[tuple[str, Online]]:
        for site in self.architecture.sites:
            if site.norm is None:
                holder: nn.Module | None = self.linears[site.linears[0]].online
            else:
                norm = self.module.get_submodule(site.norm)
                holder = norm.transform if isinstance(norm, TransformedNorm) else None
            if isinstance(holder, Online):
                yield site.name, holder
        for name in ("key", "query", "value"):
            online = getattr(self.attention, f"{name}_online")
            if online is not None:
                yield name, online

    def _absorb(self, name: str, transform: Transform) -> None:
        scale = transform.channel_scale()
        if scale is None:
            return
        site, offset = self.architecture.site(name), 0.0
        if site.norm is not None:
            norm = self.module.get_submodule(site.norm)
            assert isinstance(norm, TransformedNorm)
            target: nn.Module = norm.norm
            offset = norm.offset
        else:
            assert site.previous is not None
            target = self.linears[site.previous]
        if site.positive and not bool((scale > 0).all()):
            raise CalibrationError(
                f"{name}: a scale of {float(scale.min()):.3g} does not pass the ReLU before it"
            )
        for parameter in (target.weight, target.bias if hasattr(target, "bias") else None):
            if isinstance(parameter, nn.Parameter):
                rows = scale.unsqueeze(-1) if parameter.dim() == 2 else scale
                added = offset if parameter is target.weight else 0.0
                wide = parameter.data.double()
                # 0.0 would change nothing but a sign of zero: existing results stay as they are
                wide = (wide + added) * rows - added if added else wide * rows
                parameter.data = wide.to(parameter.dtype)

    def _into_bias(self, name: str, online: Online | None) -> Online | None:
        """What stays online once a shift alone has gone into the norm's bias, if it has one."""
        norm = self.architecture.site(name).norm
        if norm is None or online is None or online.shift is None:
            return online
        transformed = self.module.get_submodule(norm)
        assert isinstance(transformed, TransformedNorm)
        bias = getattr(transformed.norm, "bias", None)
        alone = online.left is None and online.right is None and online.clip is None
        if bias is None or not alone:
            return online
        bias.data = (bias.data.double() + online.shift).to(bias.dtype)
        return None

    def _transformed(self, norm: nn.Module, transform: nn.Module) -> TransformedNorm:
        return TransformedNorm(norm, transform, self.architecture.norm_offset)

    def _set_online(self, name: str, online: Online | None) -> None:
        if name in ("key", "query", "value"):
            setattr(self.attention, f"{name}_online", online)
            return
        site = self.architecture.site(name)
        if site.norm is None:
            self.linears[site.linears[0]].online = online
            return
        norm = self.module.get_submodule(site.norm)
        bare = norm.norm if isinstance(norm, TransformedNorm) else norm
        assert isinstance(bare, nn.Module)
        _set(self.module, site.norm, bare if online is None else self._transformed(bare, online))


def _set(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
