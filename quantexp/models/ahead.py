"""Asks the system to read a model's next tensors while the present ones are at work."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from quantexp.models.header import read_header


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
            stored = _header(Path(path))
            with open(path, "rb") as file:
                for name in names:
                    tensor = stored[name]
                    advise(file.fileno(), tensor.start, tensor.size, os.POSIX_FADV_WILLNEED)


_header = cache(read_header)  # asked for at every block
