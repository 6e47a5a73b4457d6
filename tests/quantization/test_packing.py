"""O10: packed integers come back exactly, at the size that their bits promise."""

import numpy as np
import pytest
import torch

from quantexp.config import BITS
from quantexp.quantization import pieces
from quantexp.quantization.packing import pack, unpack


@pytest.mark.parametrize("bits", [b for b in BITS if b < 16])
@pytest.mark.parametrize("columns", [64, 43])
@pytest.mark.parametrize("signed", [True, False])
def test_o10_round_trip_is_exact_and_dense(
    bits: int, columns: int, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = -(2 ** (bits - 1)) if signed else 0
    draw = torch.Generator().manual_seed(bits)
    integers = torch.randint(least, least + 2**bits, (17, columns), generator=draw).short()
    integers[0, :2] = torch.tensor([least, least + 2**bits - 1])
    monkeypatch.setattr(pieces, "PIECE", 240)  # several parts
    packed = pack(integers, bits, least)
    assert packed.dtype == torch.uint8
    assert packed.shape == (17, -(-columns * bits // 8))
    assert torch.equal(unpack(packed, bits, least, columns), integers)


@pytest.mark.parametrize("bits", [b for b in BITS if b < 16])
def test_a_row_is_one_little_endian_stream_of_bits(bits: int) -> None:
    draw = np.random.default_rng(bits)
    codes = draw.integers(0, 2**bits, (5, 43))
    stream = (codes[..., None] >> np.arange(bits) & 1).reshape(5, -1)
    expected = np.packbits(stream, axis=1, bitorder="little")
    assert (pack(torch.tensor(codes), bits, 0).numpy() == expected).all()


def test_four_bit_codes_lie_low_nibble_first() -> None:
    assert pack(torch.tensor([[1, 2, 3, 15]]), 4, 0).tolist() == [[0x21, 0xF3]]
