"""Equivalent transforms of a site: act(x) · weight_in(W)ᵀ = x Wᵀ.

While a block is fitted a transform owns parameters; :meth:`Transform.refresh` computes its
matrices once per step, all users of the site share them, and their gradients meet there. At merge
a diagonal scale is absorbed into what precedes the site; what is left is online
(:class:`Online`), and weights take the inverse.

Shapes: x (…, C); W (O, C).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantexp.quantization.factors import Factor, refresh_all

# Up to so many channels P1 ⊗ P2 is multiplied out once per step while fitting: one dense product
# then costs less than two with tiny matrices and the transpositions between them.
DENSE = 256


class Transform(nn.Module):
    """Base: the identity."""

    def factors(self) -> list[Factor]:
        """Learned matrices, whose P and P^-T are recomputed once per step."""
        return []

    def refresh(self) -> None:
        """Recomputes all matrices from the parameters."""
        refresh_all(self.factors())
        self.prepare()

    def prepare(self) -> None:
        """Derives what needs more than one factor, once all are refreshed."""

    def freeze(self, stored: torch.dtype) -> None:
        """Fixes the matrices as they will be stored (see :meth:`Factor.freeze`)."""

    def act(self, x: Tensor) -> Tensor:
        """The transformed activation."""
        return x

    def normed(self, norm: nn.Module, x: Tensor, offset: float = 0.0) -> Tensor:
        """The transformed output of the norm that makes the site's tensor.

        Args:
            norm: The norm.
            x: Its input.
            offset: What it adds to its weight.
        """
        return self.act(norm(x))

    def weight_in(self, weight: Tensor) -> Tensor:
        """The inverse transform on the input columns of a weight that reads the site."""
        return weight

    def bias_in(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """The bias of a linear that reads the site, given its untransformed weight."""
        return bias

    def weight_out(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What a transform between a linear and its site does to the linear's rows and bias."""
        return weight, bias

    def channel_scale(self) -> Tensor | None:
        """The diagonal part (C,), to be absorbed before the site, or ``None``."""
        return None

    def online(self) -> Online | None:
        """What stays to be computed when the model runs, without the diagonal part."""
        return None

    def conditions(self) -> dict[str, float]:
        """Condition number of each part: how far from orthogonal it is (1 is best)."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Same as :meth:`act`."""
        return self.act(x)


class Diagonal(Transform):
    """x ⊙ c and W ⊘ c."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    def act(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype)

    def weight_in(self, weight: Tensor) -> Tensor:
        return weight / self.scale.to(weight.dtype)

    def channel_scale(self) -> Tensor | None:
        return self.scale.detach()

    def conditions(self) -> dict[str, float]:
        return _spread(self.scale)


class TokenClamp(nn.Module):
    """Clamps each token to [σ(l_min)·min, σ(l_max)·max] of its own range (LCT before a transform).

    Attributes:
        logits: Of the upper and the lower threshold.
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((2,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """The clamped tensor, same shape."""
        return clamp_tokens(x, torch.sigmoid(self.logits))


class Kronecker(Transform):
    """x (P1 ⊗ P2); with V = x as n1 × n2 (row-major), vec(P1ᵀ V P2). FlatQuant, equation 3.

    Attributes:
        clamp: What cuts activations before the matrices, or ``None``.
    """

    def __init__(
        self, left: Factor | None, right: Factor | None, clamp: TokenClamp | None = None
    ) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self.clamp = clamp
        self._dense: tuple[Tensor, Tensor] | None = None

    def factors(self) -> list[Factor]:
        return [f for f in (self.left, self.right) if f is not None]

    def prepare(self) -> None:
        left, right = self.left, self.right
        if left is None or right is None or len(left.matrix) * len(right.matrix) > DENSE:
            return
        self._dense = (
            _kron(left.matrix, self._right_of_act(right)),
            _kron(left.inverse_transpose, right.inverse_transpose),
        )

    def _right_of_act(self, right: Factor) -> Tensor:
        return right.matrix

    def freeze(self, stored: torch.dtype) -> None:
        self._dense = None
        for factor in self.factors():
            factor.freeze(stored)

    def act(self, x: Tensor) -> Tensor:
        if self.clamp is not None:
            x = self.clamp(x)
        if self._dense is not None:
            return x @ self._dense[0].to(x.dtype)
        return apply_kronecker(x, *self._sides())

    def _sides(self) -> tuple[Tensor | None, Tensor | None]:
        """P1 and P2 as far as they act online."""
        return _matrix(self.left), _matrix(self.right)

    def weight_in(self, weight: Tensor) -> Tensor:
        if self._dense is not None:
            return weight @ self._dense[1].to(weight.dtype)
        return apply_kronecker(weight, _inverse(self.left), _inverse(self.right))

    def online(self) -> Online | None:
        left, right = self._sides()
        if left is None and right is None and self.clamp is None:
            return None
        clip = None if self.clamp is None else torch.sigmoid(self.clamp.logits)
        return Online(left, right, clip)

    def conditions(self) -> dict[str, float]:
        sides = {"left": self.left, "right": self.right}
        return {k: float(torch.linalg.cond(f.matrix)) for k, f in sides.items() if f is not None}


class ValueTransform(Transform):
    """A transform of the output projection's input whose part within heads the values carry.

    That part, :meth:`weight_out`, acts on the rows of the value projection.

    Attributes:
        merged: Whether the rows of the value projection bring it, or something online does.
    """

    merged: bool = True


class ValueScale(ValueTransform):
    """x ⊙ c at the input of the output projection, merged into the rows of the value projection.

    With grouped queries each value channel feeds ``repeats`` channels of the site, one in each
    head of its group: they share its factor. While fitting, the value projection derives its rows
    from it, so that quantized values carry it; at merge it is absorbed like every diagonal.
    """

    def __init__(self, scale: Tensor, repeats: int, head_dim: int) -> None:
        """Takes the factors (H_kv·D,) of the value projection's rows."""
        super().__init__()
        self.scale = nn.Parameter(scale)
        self.repeats = repeats
        self.head_dim = head_dim
        self.frozen = False

    def freeze(self, stored: torch.dtype) -> None:
        self.frozen = True

    def channel_scale(self) -> Tensor | None:
        return self.scale.detach()

    def weight_in(self, weight: Tensor) -> Tensor:
        return weight / repeat_heads(self.scale, self.repeats, self.head_dim).to(weight.dtype)

    def weight_out(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.frozen:
            return weight, bias
        scale = self.scale.to(weight.dtype)
        return weight * scale.unsqueeze(-1), None if bias is None else bias * scale

    def conditions(self) -> dict[str, float]:
        return _spread(self.scale)


def repeat_heads(values: Tensor, repeats: int, head_dim: int) -> Tensor:
    """Channels of key-value heads (H_kv·D,) → those of the query heads (H·D,) that read them."""
    heads: Tensor = values.unflatten(0, (-1, head_dim)).repeat_interleave(repeats, 0)
    return heads.flatten()


class Heads(Kronecker, ValueTransform):
    """Input of the output projection (FlatQuant's P_o ⊗ P_v).

    P_o (H × H) mixes heads online. P_v (D × D) acts within each head; the values already carry
    it, since it is merged into the rows of the value projection (:meth:`weight_out`), or acts on
    them online, so it enters ``act`` nowhere.

    Attributes:
        merged: Whether P_v is merged into the value projection.
    """

    def __init__(
        self,
        left: Factor | None,
        right: Factor | None,
        clamp: TokenClamp | None = None,
        merged: bool = True,
    ) -> None:
        super().__init__(left, right, clamp)
        self.merged = merged

    def _right_of_act(self, right: Factor) -> Tensor:
        return torch.eye(len(right.matrix), dtype=right.matrix.dtype, device=right.matrix.device)

    def _sides(self) -> tuple[Tensor | None, Tensor | None]:
        return _matrix(self.left), None

    def weight_out(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """P_vᵀ on each head's rows of the value projection (and on its bias)."""
        if self.right is None:
            return weight, bias
        P = self.right.matrix.to(weight.dtype)
        heads = weight.unflatten(0, (-1, len(P)))
        weight = torch.einsum("dk,hdc->hkc", P, heads).flatten(0, 1)
        if bias is not None:
            bias = apply_kronecker(bias, None, P)
        return weight, bias


class Composition(Transform):
    """Transforms of one site, first to last; a diagonal part comes first."""

    def __init__(self, parts: Iterable[Transform]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def _parts(self) -> list[Transform]:
        return [p for p in self.parts if isinstance(p, Transform)]

    def factors(self) -> list[Factor]:
        return [f for part in self._parts() for f in part.factors()]

    def prepare(self) -> None:
        for part in self._parts():
            part.prepare()

    def freeze(self, stored: torch.dtype) -> None:
        for part in self._parts():
            part.freeze(stored)

    def act(self, x: Tensor) -> Tensor:
        for part in self._parts():
            x = part.act(x)
        return x

    def weight_in(self, weight: Tensor) -> Tensor:
        for part in self._parts():
            weight = part.weight_in(weight)
        return weight

    def channel_scale(self) -> Tensor | None:
        scales = [s for p in self._parts() if (s := p.channel_scale()) is not None]
        return scales[0] if scales else None

    def conditions(self) -> dict[str, float]:
        return {key: value for p in self._parts() for key, value in p.conditions().items()}

    def online(self) -> Online | None:
        found = [o for p in self._parts() if (o := p.online()) is not None]
        assert len(found) <= 1, "one matrix per site"
        return found[0] if found else None


class Online(nn.Module):
    """A merged transform: what is applied to activations when the model runs.

    Attributes:
        left: P1, or ``None`` for the identity.
        right: P2, likewise.
        clip: (2,) factors of the upper and the lower end of a token's range before the matrices.
        shift: (C,) added after them.
    """

    left: Tensor | None
    right: Tensor | None
    clip: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        left: Tensor | None,
        right: Tensor | None,
        clip: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__()
        parts = {"left": left, "right": right, "clip": clip, "shift": shift}
        for name, part in parts.items():
            self.register_buffer(name, None if part is None else part.detach())

    def forward(self, x: Tensor) -> Tensor:
        """clamp(x) (P1 ⊗ P2) + shift, same shape and dtype as ``x``."""
        if self.clip is not None:
            x = clamp_tokens(x, self.clip)
        x = apply_kronecker(x, self.left, self.right)
        return x if self.shift is None else x + self.shift.to(x.dtype)


def clamp_tokens(x: Tensor, factors: Tensor) -> Tensor:
    """``x`` (…, C) cut to its range along the last dimension times (upper, lower) ``factors``."""
    upper, lower = factors.to(x.dtype)
    lo, hi = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return torch.clamp(x, lo.clamp(max=0) * lower, hi.clamp(min=0) * upper)


def apply_kronecker(x: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """vec(leftᵀ V right) for V = the last dimension of ``x`` as n1 × n2; ``None`` is the identity.

    Costs C·(n1 + n2) multiplications per row instead of C².
    """
    if left is None and right is None:
        return x
    n1 = len(left) if left is not None else x.shape[-1] // len(right)  # type: ignore[arg-type]
    V = x.reshape(-1, n1, x.shape[-1] // n1)
    if right is not None:
        V = V @ right.to(x.dtype)
    if left is not None:
        V = left.T.to(x.dtype) @ V
    return V.reshape(x.shape)


def _kron(left: Tensor, right: Tensor) -> Tensor:
    """P1 ⊗ P2; torch.kron does not take transposed matrices."""
    product = left[:, None, :, None] * right[None, :, None, :]
    n = len(left) * len(right)
    return product.reshape(n, n)


def _spread(scale: Tensor) -> dict[str, float]:
    size = scale.detach().abs()
    return {"diagonal": float(size.max() / size.min())}


def _matrix(factor: Factor | None) -> Tensor | None:
    return None if factor is None else factor.matrix


def _inverse(factor: Factor | None) -> Tensor | None:
    return None if factor is None else factor.inverse_transpose
