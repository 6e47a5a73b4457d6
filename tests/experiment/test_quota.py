"""Preflight looks at space, files and quotas: real small disks, programs that are not real."""

import getpass
import grp
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_estimate import cell

from quantexp.experiment import estimate, quota
from quantexp.experiment.plan import Job


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs that go before the system's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("quota", "lfs"):
        write(folder / name, "exit 1")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def write(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def mount_of(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.is_mount())


def test_without_a_quota_the_file_system_alone_counts(programs: Path, tmp_path: Path) -> None:
    [room] = quota.rooms(tmp_path / "absent")
    assert room.whose == "its file system"
    assert room.bytes
    assert estimate.lacking([Job((cell(tmp_path),))], tmp_path) is None


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ("900000* 0 1000000 0 5 0 0 0", "your quota has 97.7 MiB free"),
        ("900000* 1000000 0 0 5 0 0 0", "your quota has 97.7 MiB free"),  # soft only
        ("0 0 0 0 98 0 100 0", "your quota has room for 2"),
        ("0 0 99999999 0 98 0 10000 0", ""),
        ("0 0 0 0 98 0 0 0", ""),
    ],
)
def test_quota_is_read(programs: Path, tmp_path: Path, numbers: str, said: str) -> None:
    head = "Disk quotas for user ann (uid 7):\n   Filesystem blocks quota limit grace"
    # it fails where a limit is exceeded, and says all the same
    lines = f"{head}\n   /elsewhere 9 1 1 0 9 1 1 0\n   {mount_of(tmp_path)} {numbers}"
    write(programs / "quota", f"cat <<E\n{lines}\nE\nexit 1")
    found = estimate.lacking([Job((cell(tmp_path),))], tmp_path) or ""
    assert said in found
    assert bool(found) == bool(said)


def test_lustre_is_asked_for_the_user_and_the_group(programs: Path, tmp_path: Path) -> None:
    group = grp.getgrgid(tmp_path.stat().st_gid).gr_name
    answer = f"case $* in *'-u {getpass.getuser()} '*) echo '/lustre 0 0 0 - 0 0 0 -';;"
    answer += (
        f" *'-g {group} '*) echo '/lustre/with/a/long/name'; echo ' 5 0 1029 - 1 0 9 -';; esac"
    )
    write(programs / "lfs", answer)
    room = quota.rooms(tmp_path)[-1]
    assert room == quota.Room(f"the quota of group {group}", 1 << 20, 8)


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)]
    try:
        refused = subprocess.run(mount, capture_output=True, check=False).returncode
    except OSError:
        refused = 1
    if refused:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("small", "said"),
    [("size=2m", "its file system has 2.0 MiB free"), ("nr_inodes=3", "has room for 2")],
    indirect=["small"],
)
def test_a_small_file_system_is_refused(
    programs: Path, tmp_path: Path, small: Path, said: str
) -> None:
    jobs = [Job((cell(tmp_path),))]
    assert said in (estimate.lacking(jobs, small / "outputs") or "")
