"""Keeps the embedded corpus between processes: reading the standard library takes seconds.

A file per interpreter in ``$XDG_CACHE_HOME/quantexp`` (``~/.cache/quantexp``), named after what the
text is made of. It holds its own hash; one that is damaged, or cannot be written, is passed over.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from quantexp.experiment import record

Documents = dict[str, list[str]]  # by split


def kept(sources: Iterable[Path], make: Callable[[], Documents]) -> Documents:
    """What ``make`` returns, from the cache where it holds that.

    Args:
        sources: Files that decide the documents; by name, size and time, not by content.
        make: Reads them.
    """
    path = _folder() / f"pydocs-{_key(sources)}.json"
    stored = record.read(path)
    if stored is not None and not record.altered(stored) and "checksum" in stored:
        documents: Documents = stored["documents"]
        return documents
    made = make()
    with suppress(OSError):  # of a home that cannot be written: it is read anew each time
        record.write_signed(path, {"documents": made})
    return made


def _folder() -> Path:
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        home = os.devnull
    return Path(home) / "quantexp"


def _key(sources: Iterable[Path]) -> str:
    digest = hashlib.sha256(f"{sys.version}\n".encode())
    for path in sources:
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
