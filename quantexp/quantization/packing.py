"""Integers of 2 to 8 bits as dense bytes.

A row's codes follow one another as a little-endian bit stream; 3-bit codes cross byte borders,
so a row of 256 takes 96 bytes. The offset makes signed integers unsigned.
"""

import torch
from torch import Tensor

_ROWS = 1 << 24  # bits handled at once: bounds the memory of the bit expansion


def pack(integers: Tensor, bits: int, least: int) -> Tensor:
    """Packs integers (O, C) in [least, least + 2^bits) into bytes (O, ceil(C·bits/8))."""
    parts = [
        _pack(rows.to(torch.int16) - least, bits)
        for rows in integers.split(max(1, _ROWS // (integers.shape[1] * bits)))
    ]
    return torch.cat(parts)


def unpack(packed: Tensor, bits: int, least: int, columns: int) -> Tensor:
    """The inverse of :func:`pack`: int16 integers (O, columns)."""
    parts = [
        _unpack(rows, bits, columns) + least
        for rows in packed.split(max(1, _ROWS // (columns * bits)))
    ]
    return torch.cat(parts)


def _pack(codes: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(bits, device=codes.device, dtype=torch.int16)
    stream = ((codes.unsqueeze(-1) >> shifts) & 1).to(torch.uint8).flatten(1)
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[1] % 8)).unflatten(1, (-1, 8))
    powers = 2 ** torch.arange(8, device=codes.device, dtype=torch.uint8)
    packed: Tensor = (stream * powers).sum(-1, dtype=torch.uint8)
    return packed


def _unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    stream = ((packed.unsqueeze(-1) >> shifts) & 1).flatten(1)[:, : columns * bits]
    powers = 2 ** torch.arange(bits, device=packed.device, dtype=torch.int16)
    codes: Tensor = stream.unflatten(1, (columns, bits)).to(torch.int16) * powers
    return codes.sum(-1).to(torch.int16)
