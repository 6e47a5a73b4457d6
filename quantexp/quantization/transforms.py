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

from quantexp.quantization.factors import Factor


class Transform(nn.Module):
    """Base: the identity."""

    def refresh(self) -> None:
        """Recomputes the matrices from the parameters."""

    def freeze(self, stored: torch.dtype) -> None:
        """Fixes the matrices as they will be stored (see :meth:`Factor.freeze`)."""

    def act(self, x: Tensor) -> Tensor:
        """The transformed activation."""
        return x

    def normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        """The transformed output of the norm that makes the site's tensor."""
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


class Kronecker(Transform):
    """x (P1 ⊗ P2); with V = x as n1 × n2 (row-major), vec(P1ᵀ V P2). FlatQuant, equation 3."""

    def __init__(self, left: Factor | None, right: Factor | None) -> None:
        super().__init__()
        self.left = left
        self.right = right

    def refresh(self) -> None:
        for factor in self._factors():
            factor.refresh()

    def freeze(self, stored: torch.dtype) -> None:
        for factor in self._factors():
            factor.freeze(stored)

    def _factors(self) -> list[Factor]:
        return [f for f in (self.left, self.right) if f is not None]

    def act(self, x: Tensor) -> Tensor:
        return apply_kronecker(x, _matrix(self.left), _matrix(self.right))

    def weight_in(self, weight: Tensor) -> Tensor:
        return apply_kronecker(weight, _inverse(self.left), _inverse(self.right))

    def online(self) -> Online | None:
        return Online(_matrix(self.left), _matrix(self.right))

    def conditions(self) -> dict[str, float]:
        sides = {"left": self.left, "right": self.right}
        return {k: float(torch.linalg.cond(f.matrix)) for k, f in sides.items() if f is not None}


class ValueTransform(Transform):
    """A transform of the output projection's input whose part within heads the values carry.

    That part, :meth:`weight_out`, acts on the rows of the value projection.
    """


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
    it, since it is merged into the rows of the value projection (:meth:`weight_out`), so it
    enters ``act`` nowhere.
    """

    def act(self, x: Tensor) -> Tensor:
        if self.left is None:
            return x
        # without P_v there is no right factor to tell the head size: it follows from P_o
        return apply_kronecker(x, _matrix(self.left), None)

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

    def online(self) -> Online | None:
        return Online(_matrix(self.left), None) if self.left is not None else None


class Composition(Transform):
    """Transforms of one site, first to last; a diagonal part comes first."""

    def __init__(self, parts: Iterable[Transform]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def _parts(self) -> list[Transform]:
        return [p for p in self.parts if isinstance(p, Transform)]

    def refresh(self) -> None:
        for part in self._parts():
            part.refresh()

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
    """A merged transform: fixed matrices and a shift, applied when the model runs."""

    left: Tensor | None
    right: Tensor | None
    shift: Tensor | None

    def __init__(
        self, left: Tensor | None, right: Tensor | None, shift: Tensor | None = None
    ) -> None:
        super().__init__()
        for name, part in (("left", left), ("right", right), ("shift", shift)):
            self.register_buffer(name, None if part is None else part.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x (P1 ⊗ P2) + shift, same shape and dtype as ``x``."""
        x = apply_kronecker(x, self.left, self.right)
        return x if self.shift is None else x + self.shift.to(x.dtype)


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


def kronecker_sizes(n: int) -> tuple[int, int]:
    """The closest pair of factors of ``n`` of equal parity (the official code's rule).

    4096 → (64, 64), 11008 → (86, 128). Where no such pair exists (n ≡ 2 mod 4) the closest pair
    of any parity is taken; the official search would not end.
    """
    pairs = [(a, n // a) for a in range(1, int(n**0.5) + 1) if n % a == 0]
    equal = [(a, b) for a, b in pairs if (a - b) % 2 == 0]
    return max(equal or pairs)


def _spread(scale: Tensor) -> dict[str, float]:
    size = scale.detach().abs()
    return {"diagonal": float(size.max() / size.min())}


def _matrix(factor: Factor | None) -> Tensor | None:
    return None if factor is None else factor.matrix


def _inverse(factor: Factor | None) -> Tensor | None:
    return None if factor is None else factor.inverse_transpose
