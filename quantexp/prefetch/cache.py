"""What the hub's cache on this machine holds; asks no network."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from quantexp.evaluation import tasks
from quantexp.prefetch.needed import MODEL, TASK, Need

_COMMIT = re.compile(r"[0-9a-f]{40}")


def folder() -> Path:
    """The cache of the hub's files (``HF_HOME``, ``HF_HUB_CACHE``)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def commit(need: Need) -> str | None:
    """The commit that the cache knows for a revision; ``None`` where it knows none."""
    if need.kind == TASK:
        converted = sorted(tasks.cache_folder(need.repo, need.config).glob("*/*/"))
        return converted[-1].name if converted else None
    name = need.revision or "main"
    if _COMMIT.fullmatch(name):
        return name
    try:
        return (_repo(need) / "refs" / name).read_text().strip()
    except OSError:
        return None


def file(need: Need, at: str, name: str) -> Path | None:
    """A file of a repository at a commit, or ``None`` where it is not in the cache."""
    path = _repo(need) / "snapshots" / at / name
    return path if path.is_file() else None


def complete(need: Need, at: str) -> bool:
    """Whether all that a model needs is there, as far as its own index tells."""
    there = _repo(need) / "snapshots" / at
    if need.kind != MODEL or not (there / "config.json").is_file():
        return False
    index = there / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return False
        return bool(shards) and all((there / shard).is_file() for shard in shards)
    return any(there.glob("*.safetensors"))


def prepared(need: Need) -> bool:
    """Whether the data set of a task has been converted to what lm-eval reads."""
    return need.kind != TASK or commit(need) is not None


def names(need: Need, at: str) -> list[str]:
    """Files of a snapshot that fit a need, sorted."""
    there = _repo(need) / "snapshots" / at
    if need.kind != MODEL:
        return sorted(need.files)
    return sorted({p.name for pattern in need.files for p in there.glob(pattern)})


def describe(path: Path) -> dict[str, Any]:
    """Size and identity of a file: its sha256, or the hub's etag of a small one.

    The cache calls a file's content by its etag: the sha256 of a large file, git's hash of
    others.
    """
    found: dict[str, Any] = {"size": path.stat().st_size}
    blob = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        return {**found, "sha256": blob}
    if _COMMIT.fullmatch(blob):
        return {**found, "etag": blob}
    with path.open("rb") as opened:
        return {**found, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def _repo(need: Need) -> Path:
    return folder() / f"{need.repo_type}s--{need.repo.replace('/', '--')}"
