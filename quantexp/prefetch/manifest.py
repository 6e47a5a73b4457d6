"""``outputs/prefetch/<sweep>.json``: what was fetched, at which commits, and when."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantexp.experiment import record
from quantexp.prefetch import cache
from quantexp.prefetch.needed import Need
from quantexp.typed import plain


@dataclass(frozen=True)
class Entry:
    """One repository as it lies in the cache."""

    need: Need
    commit: str
    files: dict[str, dict[str, Any]]
    time: str

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(int(file["size"]) for file in self.files.values())


def read(outputs: Path, needs: Iterable[Need]) -> dict[Need, Entry]:
    """What earlier prefetches of any sweep wrote down and the cache still holds whole."""
    wanted = {_key(plain(need)): need for need in needs}
    found: dict[Need, Entry] = {}
    for path in sorted((outputs / "prefetch").glob("*.json")):
        for item in (record.read(path) or {}).get("repositories", ()):
            need = wanted.get(_key(item))
            if need is not None and _intact(need, item):
                found[need] = Entry(need, item["commit"], item["files"], item["time"])
    return found


def entry(need: Need, commit: str, names: Iterable[str], time: str) -> Entry:
    """Describes files in the cache."""
    files = {}
    for name in sorted(names):
        path = cache.file(need, commit, name)
        assert path is not None, f"{need.repo}: {name} was fetched, but is not in the cache"
        files[name] = cache.describe(path)
    return Entry(need, commit, files, time)


def write(path: Path, sweep: str, overrides: Iterable[str], entries: Iterable[Entry]) -> None:
    """Writes the manifest of a sweep."""
    found = [
        {
            **plain(e.need),
            "patterns": list(e.need.files),
            "commit": e.commit,
            "bytes": e.size,
            "files": e.files,
            "time": e.time,
        }
        for e in entries
    ]
    data = {
        "sweep": sweep,
        "overrides": list(overrides),
        "cache": str(cache.folder()),
        "time": record.now(),
        "bytes": sum(item["bytes"] for item in found),
        "repositories": found,
    }
    record.write_signed(path, data)


def _key(item: dict[str, Any]) -> tuple[Any, ...]:
    files = item.get("patterns", item["files"])
    return tuple(item[k] for k in ("kind", "repo", "revision", "config")) + tuple(files)


def _intact(need: Need, item: dict[str, Any]) -> bool:
    """Whether the cache has every file in full, and the revision still stands for the commit."""
    commit = item["commit"]
    if need.repo_type == "model" and cache.commit(need) != commit:
        return False
    for name, known in item["files"].items():
        path = cache.file(need, commit, name)
        if path is None or path.stat().st_size != known["size"]:
            return False
    return cache.prepared(need)
