"""Keys, values and queries: transformed and quantized between RoPE and the attention product.

transformers calls a registered function with queries (B, H, T, D) and keys and values
(B, H_kv, T, D) after RoPE; what to do with them hangs on the attention module as ``quantexp``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from quantexp.config import BitsConfig
from quantexp.quantization.quantizer import Quantizer
from quantexp.quantization.transforms import Kronecker, Online

IMPLEMENTATION = "quantexp"


class AttentionQuantizers(nn.Module):
    """Quantizers of K, V and Q of one attention module, and the transform of keys.

    ``transform`` is FlatQuant's P_h: k' = k P_h and q' = q P_h^-T leave q kᵀ unchanged.
    """

    def __init__(self, bits: BitsConfig) -> None:
        super().__init__()
        self.key = Quantizer(bits.key)
        self.value = Quantizer(bits.value)
        self.query = Quantizer(bits.query)
        self.transform: Kronecker | None = None
        self.key_online: Online | None = None
        self.query_online: Online | None = None

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Transformed and fake-quantized q, k, v; shapes unchanged."""
        if self.transform is not None:
            key, query = self.transform.act(key), self.transform.weight_in(query)
        if self.key_online is not None and self.query_online is not None:
            key, query = self.key_online(key), self.query_online(query)
        return self.query(query), self.key(key), self.value(value)

    def merge(self, stored: torch.dtype) -> None:
        """Fixes the transform; it stays online, since RoPE stands between it and the weights."""
        if self.transform is not None:
            self.transform.freeze(stored)
            right = self.transform.right
            assert right is not None
            self.key_online = Online(None, right.matrix)
            self.query_online = Online(None, right.inverse_transpose)
            self.transform = None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """SDPA on the quantized queries, keys and values."""
    quantizers = getattr(module, IMPLEMENTATION, None)
    if quantizers is not None:
        query, key, value = quantizers(query, key, value)
    out: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **kwargs
    )
    return out


def register() -> None:
    """Makes ``attn_implementation="quantexp"`` known to transformers; repeating it is harmless."""
    AttentionInterface.register(IMPLEMENTATION, attention)
    # Without the mask function transformers would silently drop padding masks.
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
