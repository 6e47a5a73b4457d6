"""The cluster session of the documents, each line of it run as it stands there.

What differs is said once, in :data:`READ_AS`: a site's names and a paper's sweep become small ones.
"""

import getpass
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from sweep import COMMON, ROOT, slurm, until

pytestmark = pytest.mark.slurm

READ_AS = {
    "python": sys.executable,
    "flatquant_table1": "session",
    "sweep=flatquant_table1": "sweep=session",
    "cluster.partition=gpu": "cluster.partition=main",
}
# what a machine without GPUs and with little memory adds
ADDED = {"doctor": ["cluster.gpus=0", "cluster.memory_gb=1", "tracker=none"]}
ADDED["sweep=session"] = ["cluster.memory_gb=1", "cluster.poll_s=1"]
GRIDS = "method=flatquant bits=w4a4,w4a8 method.epochs=6"


def session(document: str, heading: str) -> list[str]:
    """The indented lines of a section, without their comments."""
    text = (ROOT / document).read_text().split(f"\n{heading}\n")[1].split("\n## ")[0]
    block = re.search(r"(?m)(?:^    .*\n)+", text)
    assert block
    lines = [line.split("  #")[0].strip() for line in block[0].splitlines()]
    return [line for line in lines if line]


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "sweeps").mkdir()
    common = " ".join(["model=demo", "data=pydocs", "evaluation=pydocs", *COMMON])
    (tmp_path / "sweeps" / "session.yaml").write_text(
        f"description: small cells\ncommon: '{common}'\ngrids: ['{GRIDS}']\n"
    )
    yield tmp_path
    subprocess.run(["scancel", "-u", getpass.getuser()], capture_output=True, check=False)
    until(lambda: not slurm("squeue", "-h"), "empty queue")


def test_the_guides_session_runs_line_by_line(folder: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "QUANTEXP_OUTPUTS": str(folder / "outputs")}
    ran = []

    def run(line: str) -> subprocess.CompletedProcess[str]:
        words = [READ_AS.get(word, word) for word in shlex.split(line)]
        words += [more for key, extra in ADDED.items() if key in words for more in extra]
        if "prefetch" in words:
            words.remove("cluster.memory_gb=1")
            words.remove("cluster.poll_s=1")
        words = [cell() if word == "CELL" else word for word in words]
        return subprocess.run(
            words, env=env, cwd=folder, capture_output=True, text=True, timeout=900
        )

    def cell() -> str:
        """A cell that a job is at."""
        until(lambda: running(), "a running cell")
        return running()[0]

    def running() -> list[str]:
        found = (folder / "outputs" / "cells").glob("demo-flatquant-*")
        return [path.name for path in found if '"running"' in (path / "status.json").read_text()]

    for line in session("docs/guide.md", "## On a cluster"):
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            env[name] = value
            continue
        assert line.startswith("python -m quantexp "), line
        if "status" in line and "--watch" in line:
            # of those that cancel and logs need, nothing would be left if it were waited for
            found = run(line.replace(" --watch", ""))
            assert "flatquant" in found.stdout
            watching = line
            continue
        if "logs" in line:
            found = run(line.replace(" -f", ""))  # to its end: at the retry
            following = line
        else:
            found = run(line)
        assert found.returncode == 0, f"{line}\n{found.stdout}\n{found.stderr}"
        ran.append(line)
        if "detach" in line:
            assert slurm("squeue", "-h")
        if "cancel" in line:
            assert "cancelled" in found.stdout
        if "retry" in line:
            assert run(watching).returncode == 0
            done = following.replace("CELL", "w4a4")
            assert "activations of" in run(done).stdout
    assert "flatquant" in found.stdout.lower()  # the table
    commands = [line.split()[3] for line in ran]
    assert {"doctor", "prefetch", "logs", "cancel", "retry", "report"} <= set(commands)
