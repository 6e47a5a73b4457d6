"""Joins safetensors files into one, piece by piece: no more than one piece is in memory.

The format (https://huggingface.co/docs/safetensors): the header's length in 8 bytes, little-endian;
the header as JSON, name → dtype, shape, where its bytes are; the bytes, without gaps.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_PIECE = 1 << 24  # bytes


class _Tensor(NamedTuple):
    name: str
    dtype: str
    shape: list[int]
    path: Path
    start: int  # byte of the file
    size: int  # bytes


def join(files: Mapping[str, Path], target: Path) -> str:
    """Writes the tensors of all files into one and returns its sha256 (hex).

    Args:
        files: Prefix of the tensors' new names → file.
        target: What is written.
    """
    found = [tensor for prefix, path in files.items() for tensor in _tensors(prefix, path)]
    # wide dtypes first, so that each tensor begins at a multiple of its element's size
    found.sort(key=lambda t: (-_width(t.dtype), t.name))
    header: dict[str, Any] = {}
    end = 0
    for t in found:
        offsets = [end, end + t.size]
        header[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": offsets}
        end += t.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for piece in (len(text).to_bytes(8, "little"), text):
            digest.update(piece)
            out.write(piece)
        for t in found:
            with t.path.open("rb") as file:
                file.seek(t.start)
                left = t.size
                while piece := file.read(min(left, _PIECE)):
                    digest.update(piece)
                    out.write(piece)
                    left -= len(piece)
    return digest.hexdigest()


def _tensors(prefix: str, path: Path) -> list[_Tensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    found = []
    for name, item in header.items():
        if name != "__metadata__":
            begin, end = item["data_offsets"]
            place = (path, 8 + length + begin, end - begin)
            found.append(_Tensor(prefix + name, item["dtype"], item["shape"], *place))
    return found


def _width(dtype: str) -> int:
    """Bits of an element: ``F32``, ``BF16``, ``U8``, ``F8_E4M3``; ``BOOL`` takes a byte."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8
