"""Asks the system to read a model's next tensors while the present ones are at work."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache

_LENGTH = 8  # bytes that say how long a safetensors file's header is


def read_ahead(tensors: Iterable[str], files: Mapping[str, str]) -> None:
    """Has tensors in the page cache when they are asked for; returns at once.

    The pages belong to the system, which takes them back where memory is short. Where it knows no
    such request, or a file is damaged, nothing happens: who reads the tensor will say so.

    Args:
        tensors: Names as stored.
        files: The safetensors file of each.
    """
    advise = getattr(os, "posix_fadvise", None)
    if advise is None:
        return
    wanted: dict[str, list[str]] = {}
    for name in tensors:
        wanted.setdefault(files[name], []).append(name)
    for path, names in wanted.items():
        with suppress(OSError, ValueError, KeyError):
            places = _places(path)
            with open(path, "rb") as file:
                for name in names:
                    first, end = places[name]
                    advise(file.fileno(), first, end - first, os.POSIX_FADV_WILLNEED)


@cache
def _places(path: str) -> dict[str, tuple[int, int]]:
    """First byte and the one behind the last of each tensor of a safetensors file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if length > os.fstat(file.fileno()).st_size:
            raise ValueError(f"{path} is damaged")
        header = json.loads(file.read(length))
    start = _LENGTH + length
    return {
        name: (start + tensor["data_offsets"][0], start + tensor["data_offsets"][1])
        for name, tensor in header.items()
        if name != "__metadata__"
    }
