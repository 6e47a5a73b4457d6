"""Records: small JSON files written atomically. They are the truth; all else is a view of them."""

import hashlib
import json
import math
import os
import platform
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_LIBRARIES = ("torch", "transformers", "lm-eval", "datasets", "accelerate", "numpy")


def write(path: Path, data: dict[str, Any], lasting: bool = True) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never a part.

    NaN and infinities are stored as the strings ``"nan"``, ``"inf"`` and ``"-inf"``: JSON has no
    such numbers, and a broken run must stay visible.

    Args:
        path: The file.
        data: Its content.
        lasting: Whether it must survive a power cut from now on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("w") as file:
        json.dump(_finite(data), file, indent=1, allow_nan=False)
        if lasting:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place at the end, and leaves nothing if it fails."""
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_path(path: Path) -> Path:
    """Where a file is written before it takes its place: no other process writes there."""
    writer = f"{platform.node()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.name}.{writer}.tmp")


def remove_partials(folder: Path) -> None:
    """Removes what processes of this host that are gone were writing below a folder."""
    for path in folder.rglob(f".*.{platform.node()}.*.tmp"):
        pid = path.name.split(".")[-3]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def write_signed(path: Path, data: dict[str, Any]) -> None:
    """Writes a record with the ``checksum`` of its content, so that a later edit is noticed.

    It guards against slips, not against malice: who edits a record can compute it again.
    """
    write(path, {**data, "checksum": checksum(data)})


def checksum(data: dict[str, Any]) -> str:
    """sha256 (hex) of a record's canonical JSON, its ``checksum`` left out."""
    return _digest(_finite({key: value for key, value in data.items() if key != "checksum"}))


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def altered(data: dict[str, Any]) -> bool:
    """Whether a record was changed after it was written.

    Records without a checksum (of versions before there was one) make no claim: ``False``.
    """
    if "checksum" not in data:
        return False
    content = {key: value for key, value in data.items() if key != "checksum"}
    try:  # what was read from a file is plain already, but for a NaN that somebody wrote by hand
        return bool(data["checksum"] != _digest(content))
    except ValueError:
        return bool(data["checksum"] != checksum(data))


def read(path: Path) -> dict[str, Any] | None:
    """A record, or ``None`` where the file is missing or no JSON object."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def now() -> str:
    """UTC time as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def provenance() -> dict[str, Any]:
    """What else a number depends on: library versions, code, host."""
    return {
        "quantexp": _version("quantexp"),
        **_code(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "host": platform.node(),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _code() -> dict[str, str | None]:
    """Commit and snapshot; a job's copy of the package knows where it comes from."""
    copied = read(Path(__file__).parents[2] / "snapshot.json")
    if copied is not None:
        return {"commit": copied["commit"], "snapshot": copied["snapshot"]}
    return {"commit": _commit(), "snapshot": None}


def _commit() -> str | None:
    """The checkout's commit, ``+dirty`` when files differ; ``None`` for an installed wheel."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        run = ["git", "-C", str(here)]
        head = subprocess.run(
            [*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        dirty = subprocess.run([*run, "diff", "--quiet", "HEAD"], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+dirty" if dirty else "")
