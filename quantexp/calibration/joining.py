"""Joins safetensors files into one, piece by piece: no more than one piece is in memory.

The format is told in :mod:`quantexp.models.header`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantexp.models.header import LENGTH, read_header

_PIECE = 1 << 24  # bytes


def join(files: Mapping[str, Path], target: Path) -> str:
    """Writes the tensors of all files into one and returns its sha256 (hex).

    Args:
        files: Prefix of the tensors' new names → file.
        target: What is written.
    """
    found = [
        (prefix + name, path, tensor)
        for prefix, path in files.items()
        for name, tensor in read_header(path).items()
    ]
    # wide dtypes first, so that each tensor begins at a multiple of its element's size
    found.sort(key=lambda item: (-_width(item[2].dtype), item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, _, t in found:
        offsets = [end, end + t.size]
        header[name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": offsets}
        end += t.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for piece in (len(text).to_bytes(LENGTH, "little"), text):
            digest.update(piece)
            out.write(piece)
        for _, path, t in found:
            with path.open("rb") as file:
                file.seek(t.start)
                left = t.size
                while piece := file.read(min(left, _PIECE)):
                    digest.update(piece)
                    out.write(piece)
                    left -= len(piece)
    return digest.hexdigest()


def _width(dtype: str) -> int:
    """Bits of an element: ``F32``, ``BF16``, ``U8``, ``F8_E4M3``; ``BOOL`` takes a byte."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8
