"""Integers of 2 to 8 bits as dense bytes.

A row's codes follow one another as a little-endian bit stream; 3-bit codes cross byte borders,
so a row of 256 takes 96 bytes. The offset makes signed integers unsigned.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from quantexp.quantization.pieces import pieces


def pack(integers: Tensor, bits: int, least: int) -> Tensor:
    """Packs integers (O, C) in [least, least + 2^bits) into bytes (O, ceil(C·bits/8))."""
    size = -(-integers.shape[1] * bits // 8)
    parts = [_pack(integers[at] - least, bits)[:, :size] for at in pieces(integers)]
    return torch.cat(parts)


def unpack(packed: Tensor, bits: int, least: int, columns: int) -> Tensor:
    """The inverse of :func:`pack`: int16 integers (O, columns)."""
    parts = [_unpack(packed[at], bits)[:, :columns] + least for at in pieces(packed, columns)]
    return torch.cat(parts)


def _pack(codes: Tensor, bits: int) -> Tensor:
    """Eight codes make one word, whose lowest bytes are theirs."""
    words = _together(codes, 8, bits)
    return torch.stack([(words >> 8 * k & 255).to(torch.uint8) for k in range(bits)], -1).flatten(1)


def _unpack(packed: Tensor, bits: int) -> Tensor:
    words, mask = _together(packed, bits, 8), (1 << bits) - 1
    codes = [(words >> bits * i & mask).to(torch.int16) for i in range(8)]
    return torch.stack(codes, -1).flatten(1)


def _together(x: Tensor, count: int, bits: int) -> Tensor:
    """(O, N) → (O, ceil(N/count)) int64: so many neighbours of so many bits each, lowest first."""
    parts = pad(x, (0, -x.shape[1] % count)).unflatten(1, (-1, count))
    words: Tensor = parts[..., 0].long()
    for i in range(1, count):
        words |= parts[..., i].long() << bits * i
    return words
