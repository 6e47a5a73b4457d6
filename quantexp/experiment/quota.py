"""What may still be written to a folder: the file system's room, and quotas where they can be read.

Quotas are what ``quota`` and ``lfs quota`` (Lustre) say of the user and of the folder's group.
Where there is no such program, or it has no limit to tell, the file system alone decides.
"""

import getpass
import grp
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 10  # seconds that a program may take; a server that does not answer is no limit


@dataclass(frozen=True)
class Room:
    """What is left of one limit; ``None`` where it does not count that.

    Attributes:
        whose: The limit, for messages.
        bytes: Bytes that are left.
        files: Files that are left.
    """

    whose: str
    bytes: int | None
    files: int | None


def rooms(folder: Path) -> list[Room]:
    """All limits on a folder, which need not be there yet: the file system's first."""
    there = existing(folder)
    system = os.statvfs(there)
    # some file systems make inodes as they go, and count none
    files = system.f_favail if system.f_files else None
    found = [Room("its file system", system.f_bavail * system.f_frsize, files)]
    return [*found, *_quota(there), *_lustre(there)]


def existing(folder: Path) -> Path:
    """The folder, or the part of its path that is there."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _quota(folder: Path) -> Iterator[Room]:
    """``quota``'s lines for the folder's file system; numbers alone, sizes in KiB."""
    mount = str(_mount(folder))
    said = _ask("quota", "-u", "-g", "-w", "-p", "--show-mntpoint", "--hide-device")
    whose = "your quota"
    for line in said.splitlines():
        if head := re.match(r"Disk quotas for (user|group) (\S+)", line):
            whose = "your quota" if head[1] == "user" else f"the quota of group {head[2]}"
        words = line.split()
        if words and words[0] == mount:
            yield from _room(whose, words[1:])


def _lustre(folder: Path) -> Iterator[Room]:
    """``lfs quota``'s answer for the user and the folder's group."""
    for option, name, whose in _owners(folder):
        # a long name of the file system has a line of its own
        words = _ask("lfs", "quota", "-q", option, name, str(folder)).split()
        yield from _room(whose, words[1:])


def _owners(folder: Path) -> Iterator[tuple[str, str, str]]:
    yield "-u", getpass.getuser(), "your quota"
    try:
        group = grp.getgrgid(folder.stat().st_gid).gr_name
    except KeyError:
        return
    yield "-g", group, f"the quota of group {group}"


def _room(whose: str, words: list[str]) -> Iterator[Room]:
    """From ``used soft hard grace`` of KiB, then of files; a limit of 0 is none."""
    numbers = [int(word.strip("*[]")) if word.strip("*[]").isdigit() else 0 for word in words]
    if len(numbers) < 7:
        return
    used, soft, hard, _, files, files_soft, files_hard = numbers[:7]
    space, count = hard or soft, files_hard or files_soft
    if space or count:
        left = max(0, space - used) * 1024 if space else None
        yield Room(whose, left, max(0, count - files) if count else None)


def _mount(folder: Path) -> Path:
    resolved = folder.resolve()
    return next(path for path in (resolved, *resolved.parents) if path.is_mount())


def _ask(*command: str) -> str:
    """What a program prints; nothing where there is none. It fails where a quota is exceeded."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
