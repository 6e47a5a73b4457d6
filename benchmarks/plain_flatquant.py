"""FlatQuant as one would write it down from the paper: the yardstick for ``quantexp``'s speed.

Llama blocks, W4A4KV4, SVD parametrization, every learned part on. Each line of the method is one
line of PyTorch and autograd does the rest: orthogonal parametrizations by ``torch.nn.utils``, two
products for a Kronecker matrix, each linear on its own, attention written out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss, softmax
from torch.nn.utils.parametrizations import orthogonal
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from quantexp.quantization.sizes import kronecker_sizes

ALPHA = 0.3


def round_through(x: Tensor) -> Tensor:
    return (x.round() - x).detach() + x


class Matrix(nn.Module):
    """P = U diag(d) Vᵀ."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.u, self.v = (
            orthogonal(
                nn.Linear(n, n, bias=False), orthogonal_map="cayley", use_trivialization=False
            )
            for _ in range(2)
        )
        self.d = nn.Parameter(torch.ones(n))

    def forward(self, inverse_transpose: bool = False) -> Tensor:
        d = 1 / self.d if inverse_transpose else self.d
        out: Tensor = self.u.weight @ torch.diag(d) @ self.v.weight.T
        return out


class Kronecker(nn.Module):
    """(x ⊙ c)(P1 ⊗ P2) and (W ⊘ c)(P1^-T ⊗ P2^-T)."""

    def __init__(self, n: int, c: Tensor) -> None:
        super().__init__()
        left, right = kronecker_sizes(n)
        self.left, self.right, self.c = Matrix(left), Matrix(right), nn.Parameter(c)

    def forward(self, x: Tensor, inverse_transpose: bool = False) -> Tensor:
        x = x / self.c if inverse_transpose else x * self.c
        return apply(x, self.left(inverse_transpose), self.right(inverse_transpose))


def apply(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    V = x.reshape(-1, len(left), len(right))
    return (left.T @ (V @ right)).reshape(x.shape)


class Activation(nn.Module):
    """Dynamic 4-bit quantizer with learned clips."""

    def __init__(self, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.upper, self.lower = (nn.Parameter(torch.full((1,), 4.0)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        high = x.amax(-1, keepdim=True).clamp(min=0) * self.upper.sigmoid()
        low = x.amin(-1, keepdim=True).clamp(max=0) * self.lower.sigmoid()
        if self.symmetric:
            scale = torch.maximum(high, -low) / 7
            scale = torch.where(scale == 0, torch.ones_like(scale), scale)
            return round_through(x / scale).clamp(-8, 7) * scale
        scale = (high - low) / 15
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = (-low / scale).round().detach()
        return ((round_through(x / scale) + zero).clamp(0, 15) - zero) * scale


class Linear(nn.Module):
    """Clamped and quantized weight, input with its own clips."""

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        self.weight = original.weight.detach()
        self.upper, self.lower = (
            nn.Parameter(torch.full((len(self.weight), 1), 4.0)) for _ in range(2)
        )
        self.input = Activation(symmetric=True)

    def forward(self, x: Tensor, weight: Tensor, turn: Tensor | None = None) -> Tensor:
        high = weight.amax(1, keepdim=True) * self.upper.sigmoid()
        low = weight.amin(1, keepdim=True) * self.lower.sigmoid()
        weight = torch.clamp(weight, low, high)
        if turn is not None:
            weight = (weight.T.reshape(-1, len(turn)) @ turn).reshape(weight.T.shape).T
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-5) / 7
        weight = round_through(weight / scale).clamp(-8, 7) * scale
        return linear(self.input(x), weight)


class Block(nn.Module):
    """A Llama block whose linears, keys and values are quantized behind FlatQuant's transforms."""

    def __init__(self, block: Any, maxima: dict[str, Tensor]) -> None:
        super().__init__()
        self.block = [block]  # in a list: its parameters are not trained
        attention, mlp = block.self_attn, block.mlp
        self.heads, self.head_dim = attention.config.num_attention_heads, attention.head_dim
        self.q, self.k, self.v, self.o = (Linear(getattr(attention, f"{n}_proj")) for n in "qkvo")
        self.gate, self.up, self.down = (
            Linear(getattr(mlp, f"{n}_proj")) for n in ("gate", "up", "down")
        )

        def site(name: str, *linears: Linear) -> Kronecker:
            w_max = torch.cat([item.weight for item in linears]).abs().amax(0)
            c = (w_max ** (1 - ALPHA) / maxima[name].clamp(min=1e-5) ** ALPHA).clamp(min=1e-5)
            return Kronecker(len(c), c)

        self.P_a = site("attention", self.q, self.k, self.v)
        self.P_ug = site("mlp", self.gate, self.up)
        self.P_d = site("down", self.down)
        self.P_o, self.P_v, self.P_h = (
            Matrix(self.heads),
            Matrix(self.head_dim),
            Matrix(self.head_dim),
        )
        self.keys, self.values = Activation(symmetric=False), Activation(symmetric=False)

    def forward(self, x: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
        [block] = self.block
        B, T, _ = x.shape
        h = self.P_a(block.input_layernorm(x))
        q, k, v = (
            part(h, self.P_a(part.weight, True), turn).view(B, T, -1, self.head_dim).transpose(1, 2)
            for part, turn in ((self.q, None), (self.k, None), (self.v, self.P_v()))
        )
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        q, k = q @ self.P_h(True), self.keys(k @ self.P_h())
        k, v = (repeat_kv(t, self.heads // t.shape[1]) for t in (k, self.values(v)))
        scores = q @ k.mT / self.head_dim**0.5 + torch.full((T, T), -torch.inf).triu(1)
        out = (softmax(scores, -1) @ v).transpose(1, 2)
        out = (self.P_o().T @ out).reshape(B, T, -1)
        x = x + self.o(out, apply(self.o.weight, self.P_o(True), self.P_v(True)))
        h = self.P_ug(block.post_attention_layernorm(x))
        gate, up = (part(h, self.P_ug(part.weight, True)) for part in (self.gate, self.up))
        out = self.P_d(block.mlp.act_fn(gate) * up)
        return x + self.down(out, self.P_d(self.down.weight, True))


def fit(block: Any, inputs: Tensor, kwargs: dict[str, Any], epochs: int, batch: int) -> list[float]:
    """Trains one block on (B, T, C) inputs; mean loss of each epoch."""
    maxima: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: maxima.__setitem__(
                name,
                torch.maximum(
                    args[0].abs().flatten(0, -2).amax(0), maxima.get(name, args[0].new_zeros(1))
                ),
            )
        )
        for name, module in (
            ("attention", block.self_attn.q_proj),
            ("mlp", block.mlp.up_proj),
            ("down", block.mlp.down_proj),
        )
    ]
    with torch.no_grad():
        targets = torch.cat([block(part, **kwargs) for part in inputs.split(batch)])
    for hook in hooks:
        hook.remove()
    model = Block(block, maxima)
    named = list(model.named_parameters())
    clips = [p for name, p in named if name.endswith(("upper", "lower"))]
    others = [p for name, p in named if not name.endswith(("upper", "lower"))]
    optimizer = torch.optim.AdamW([{"params": others, "lr": 5e-3}, {"params": clips, "lr": 5e-2}])
    steps = epochs * (len(inputs) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=5e-6)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for x, y in zip(inputs.split(batch), targets.split(batch), strict=True):
            loss = mse_loss(model(x, kwargs["position_embeddings"]), y)
            optimizer.zero_grad()
            (loss / loss.detach()).backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        losses.append(total * batch / len(inputs))
    return losses
