"""Keys, values and queries: transformed and quantized between RoPE and the attention product.

transformers calls a registered function with queries (B, H, T, D) and keys and values
(B, H_kv, T, D) after RoPE; what to do with them hangs on the attention module as ``quantexp``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from quantexp.config import BitsConfig
from quantexp.errors import DataError
from quantexp.quantization.quantizer import Quantizer
from quantexp.quantization.transforms import Kronecker, Online

IMPLEMENTATION = "quantexp"
NARROW = 16  # channels of a head below which it is padded while fitting
# what a model may hand to its attention that changes nothing here, or is in the mask already
_HARMLESS = {
    "cache_position", "dropout", "is_causal", "output_attentions", "output_hidden_states",
    "output_router_logits", "position_ids", "return_dict", "scaling", "sliding_window", "softcap",
    "use_cache",
}  # fmt: skip


class AttentionQuantizers(nn.Module):
    """Quantizers of K, V and Q of one attention module, and the transforms of keys and values.

    ``transform`` is FlatQuant's P_h: k' = k P_h and q' = q P_h^-T leave q kᵀ unchanged.
    ``value_transform`` is its P_v where values are transformed online; the output projection
    undoes it.
    """

    def __init__(self, bits: BitsConfig) -> None:
        super().__init__()
        self.key = Quantizer(bits.key)
        self.value = Quantizer(bits.value)
        self.query = Quantizer(bits.query)
        self.transform: Kronecker | None = None
        self.value_transform: Kronecker | None = None
        self.key_online: Online | None = None
        self.query_online: Online | None = None
        self.value_online: Online | None = None

    def transforms(self) -> list[Kronecker]:
        """Those that are there."""
        return [t for t in (self.transform, self.value_transform) if t is not None]

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Transformed and fake-quantized q, k, v; shapes unchanged."""
        if self.transform is not None:
            key, query = self.transform.act(key), self.transform.weight_in(query)
        if self.key_online is not None and self.query_online is not None:
            key, query = self.key_online(key), self.query_online(query)
        if self.value_transform is not None:
            value = self.value_transform.act(value)
        if self.value_online is not None:
            value = self.value_online(value)
        if not self.query.before_rope:
            query = self.query(query)
        if not self.key.before_rope:
            key = self.key(key)
        return query, key, self.value(value)

    def merge(self, stored: torch.dtype) -> None:
        """Fixes the transforms; they stay online: RoPE stands between P_h and the weights."""
        if self.transform is not None:
            self.transform.freeze(stored)
            right = self.transform.right
            assert right is not None
            self.key_online = self.transform.online()
            self.query_online = Online(None, right.inverse_transpose)
            self.transform = None
        if self.value_transform is not None:
            self.value_transform.freeze(stored)
            self.value_online = self.value_transform.online()
            self.value_transform = None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """SDPA on the quantized queries, keys and values.

    Raises:
        DataError: The model asks for something that is not computed here.
    """
    unknown = [k for k, v in kwargs.items() if v is not None and k not in _HARMLESS]
    if unknown:
        raise DataError(
            f"the attention of {type(module).__name__} needs '{unknown[0]}', which is not "
            "computed here: the model is not supported"
        )
    quantizers = getattr(module, IMPLEMENTATION, None)
    if quantizers is not None:
        query, key, value = quantizers(query, key, value)
    softcap = kwargs.pop("softcap", None)
    if softcap is not None:
        return _capped(query, key, value, attention_mask, softcap, kwargs.get("scaling")), None
    width = query.shape[-1]
    if width < NARROW and query.requires_grad:
        # the CPU's kernel for training is a third faster on padded heads; zeros add nothing
        query, key, value = (pad(x, (0, NARROW - width)) for x in (query, key, value))
        kwargs["scaling"] = kwargs.get("scaling") or width**-0.5
    asked: Any = module
    if _repeated(query, key):
        # its kernels for float32 know no grouped heads: without this all scores would be in memory
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        asked = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
    out, weights = sdpa_attention_forward(asked, query, key, value, attention_mask, **kwargs)
    return out[..., :width], weights


def _repeated(query: Tensor, key: Tensor) -> bool:
    """Whether heads of keys and values are repeated for the device's sake."""
    return query.is_cuda and query.dtype == torch.float32 and query.shape[1] != key.shape[1]


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    softcap: float,
    scaling: float | None,
) -> Tensor:
    """Attention with c·tanh(scores/c) before the softmax (Gemma 2), which SDPA does not have.

    Returns:
        (B, T, H, D), as transformers' functions do.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap))
    if mask is None:
        T, S = scores.shape[-2:]
        mask = torch.ones(T, S, dtype=torch.bool, device=scores.device).tril(S - T)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    shares = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    return (shares @ value).transpose(1, 2)


class _Caught(TorchFunctionMode):
    """Within it, what is handed to ``scaled_dot_product_attention`` is quantized first."""

    def __init__(self, quantizers: AttentionQuantizers) -> None:
        super().__init__()
        self._quantizers = quantizers

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            query, key, value, *rest = args
            args = (*self._quantizers(query, key, value), *rest)
        return func(*args, **(kwargs or {}))


def intercept(module: nn.Module) -> None:
    """Quantizes what an attention module hands to SDPA by itself, past the interface (Falcon)."""
    setattr(module, "forward", partial(_intercepted, module))  # noqa: B010 (mypy: a method)


def _intercepted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    quantizers = getattr(module, IMPLEMENTATION)
    with _Caught(quantizers):
        return type(module).forward(module, *args, **kwargs)


def register() -> None:
    """Makes ``attn_implementation="quantexp"`` known to transformers; repeating it is harmless."""
    AttentionInterface.register(IMPLEMENTATION, attention)
    # Without the mask function transformers would silently drop padding masks.
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
