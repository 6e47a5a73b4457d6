"""Copies of the package that jobs run: what was submitted, whatever is edited while they wait.

::

    outputs/code/<hash16>/
        quantexp/          the package with conf/ and sweeps/, as in the wheel
        snapshot.json      commit, versions, time
        diff.patch         what differs from the commit, unless it seems to hold a secret

A folder is written once per content and never changed; nothing in it is sent anywhere. ``clean
--code`` removes the package from it, and leaves what says which code it was.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from quantexp.cluster import secrets
from quantexp.errors import ConfigError
from quantexp.experiment import record
from quantexp.resources import PACKAGE, own


@dataclass(frozen=True)
class Snapshot:
    """A copy of the package.

    Attributes:
        path: What goes on ``PYTHONPATH``; it holds ``quantexp/``.
        hash: sha256 (hex) of names and contents.
    """

    path: Path
    hash: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which an interpreter finds the copy before any other quantexp."""
        rest = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        # `python -m` would put the working directory first, which may be the edited checkout
        return {
            "PYTHONPATH": os.pathsep.join([str(self.path), *rest]),
            "PYTHONSAFEPATH": "1",
        }


def snapshot(outputs: Path) -> Snapshot:
    """The copy of the package as it is now, made if there is none of this content.

    Args:
        outputs: Folder of the results, which jobs and this machine share.

    Raises:
        ConfigError: The copy in ``outputs`` is not what it was, or cannot be written.
    """
    files = dict(_files())
    digest = _hash(files)
    target = outputs.absolute() / "code" / digest[:16]
    try:
        if not (target / PACKAGE.name).is_dir():
            _write(files, target, digest)
        elif _hash(dict(_below(target / "quantexp", Path("quantexp")))) != digest:
            raise ConfigError(
                f"{target} was changed since it was written, and jobs may be running it: remove "
                "the folder when none is, and run the same command again"
            )
    except OSError as error:
        raise ConfigError(
            f"the package cannot be copied to {target} ({error.strerror}): jobs run that copy; "
            "give a folder of yours, paths.outputs=FOLDER"
        ) from error
    return Snapshot(target, digest)


@cache
def current(outputs: Path) -> Snapshot:
    """:func:`snapshot`, once per process: all that it submits runs the same code."""
    return snapshot(outputs)


def _files() -> Iterator[tuple[str, Path]]:
    """Name within the copy → file, in order."""
    yield from _below(PACKAGE, Path("quantexp"))
    for name in ("conf", "sweeps"):  # beside the package in a checkout, in it when installed
        if own(name).parent != PACKAGE:
            yield from _below(own(name), Path("quantexp") / name)


def _below(folder: Path, name: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(p == "__pycache__" or p.startswith(".") for p in parts):
            yield name.joinpath(*parts).as_posix(), path


def _hash(files: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _write(files: dict[str, Path], target: Path, digest: str) -> None:
    partial, package = record.partial_path(target), target / PACKAGE.name
    try:
        for name, path in files.items():
            place = partial / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        kinds = _keep_diff(partial)
        found = {**record.provenance(), "snapshot": digest[:16]}
        record.write(
            partial / "snapshot.json",
            {**found, "hash": digest, "withheld": kinds, "time": record.now()},
        )
        if (target / "snapshot.json").exists():  # freed before: what it was is still there
            (partial / PACKAGE.name).rename(package)
        else:
            partial.rename(target)
    except OSError:
        if not package.is_dir():  # else another process was faster, with the same content
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _keep_diff(folder: Path) -> list[str]:
    """Stores what differs from the commit; returns the kinds of secrets that forbid it."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return []
    try:
        command = ["git", "-C", str(root), "diff", "HEAD", "--", PACKAGE.name, "conf", "sweeps"]
        diff = subprocess.run(command, capture_output=True, check=True).stdout.decode(
            errors="replace"
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    found = secrets.find(diff)
    if found:
        print(
            f"warning: the difference to the commit seems to hold {', '.join(found)}: it is not "
            "stored, but the jobs' copy of the package has the same lines. Move secrets to "
            "the environment",
            file=sys.stderr,
        )
    elif diff:
        (folder / "diff.patch").write_text(diff)
    return found
