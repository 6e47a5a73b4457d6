"""What a safetensors file holds, from its header alone: neither torch nor a tensor is needed.

The format (https://huggingface.co/docs/safetensors): the header's length in 8 bytes, little-endian;
the header as JSON, name → dtype, shape, where its bytes are; the bytes, without gaps.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

LENGTH = 8  # bytes that say how long the header is
_MOST = 1 << 27  # bytes of a header; safetensors allows fewer


class StoredTensor(NamedTuple):
    """One tensor of a file."""

    dtype: str
    shape: list[int]
    start: int  # byte of the file
    size: int  # bytes


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, in the order of its header.

    Raises:
        ValueError: It has no readable header.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        if length > min(_MOST, os.fstat(file.fileno()).st_size):
            raise ValueError(f"its header cannot have {length} bytes")
        header = json.loads(file.read(length))
    try:
        found = {}
        for name, item in header.items():
            if name != "__metadata__":
                first, end = item["data_offsets"]
                start = LENGTH + length + first
                found[name] = StoredTensor(item["dtype"], item["shape"], start, end - first)
        return found
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its header is none of safetensors: {error!r}") from error
