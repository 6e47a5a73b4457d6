"""A small sweep as people run it, by its command line: the baseline and a cell that takes a while.

Calibrating takes two seconds or more for each of four blocks: time enough to disturb it, and for a
job that is ended to be killed (KillWait) before it is done.
"""

import getpass
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
CELL = ("method=flatquant", "bits=w4a4", "method.epochs=14")
COMMON = ("data.num_samples=8", "data.seq_len=128", "evaluation.max_windows=4")
COMMON += ("evaluation.seq_len=64", "evaluation.block_error_windows=0", "tracker=none")
COMMON += ("cluster.threads=1",)


class Sweep:
    """One outputs folder, and the command that fills it."""

    def __init__(self, folder: Path, *cluster: str, cells: tuple[str, ...] = CELL) -> None:
        self.outputs = folder / "o"
        self.command = [*cells, *COMMON, *cluster, f"paths.outputs={self.outputs}", "name=s", "-m"]
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *more: str) -> "subprocess.Popen[str]":
        """The command, in the background."""
        return self.call(*self.command, *more)

    def run(self, *more: str) -> int:
        """The command, to its end; returns its exit code."""
        return finish(self.start(*more))[0]

    def call(self, *arguments: str) -> "subprocess.Popen[str]":
        """``python -m quantexp`` with any arguments."""
        process = subprocess.Popen(
            [sys.executable, "-m", "quantexp", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # a script that runs in the background hands down an ignored Ctrl-C
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        self._running.append(process)
        return process

    def ask(self, command: str, *arguments: str) -> str:
        """The output of one of the commands on records."""
        words = [sys.executable, "-m", "quantexp", command, *arguments]
        words += ["--outputs", str(self.outputs)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        # without standard error: long waits say there how far they are
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> None:
        """Ends what a failed test left."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()
        subprocess.run(["scancel", "-u", getpass.getuser()], capture_output=True, check=False)
        # a job that still completes would be in the next test's queue
        until(lambda: not slurm("squeue", "-h"), "empty queue")

    @property
    def cell(self) -> Path:
        """The folder of the quantized cell."""
        [found] = self.outputs.glob("cells/demo-flatquant-*")
        return found

    def status(self) -> dict[str, Any]:
        """The quantized cell's, as last written."""
        found = read(self.cell / "status.json")
        return found or {}

    def faults(self) -> list[str]:
        """Why its earlier attempts ended."""
        stored = read(self.cell / "attempts.json") or {"attempts": []}
        return [attempt.get("fault", "") for attempt in stored["attempts"]]

    def blocks(self) -> int:
        """How many blocks are calibrated and not yet consolidated."""
        return len(list(self.outputs.glob("calibrations/*/blocks/*.json")))

    def jobs(self) -> list[dict[str, Any]]:
        """What was submitted."""
        found = [read(path) for path in self.outputs.glob("sweeps/s/jobs/*.json")]
        return sorted((item for item in found if item), key=lambda item: int(item["id"]))

    def job(self) -> str:
        """Id of the job that the quantized cell runs in."""
        return str(self.status()["job"])

    def process(self) -> psutil.Process:
        """The process that is at the quantized cell."""
        return psutil.Process(self.status()["pid"])

    def wait_for_blocks(self, count: int = 1) -> None:
        """Until the calibration is under way."""
        until(lambda: self.blocks() >= count, "a block")

    def results(self) -> dict[str, object]:
        """All that must be equal to the bit: weights, and every number of every record."""
        found: dict[str, object] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.outputs.glob("calibrations/*/checkpoint/*.safetensors")
        }
        for path in self.outputs.glob("cells/*/evaluations/*.json"):
            stored = json.loads(path.read_text())
            found[f"{path.parts[-3]}/{path.name}"] = (stored["value"], stored["details"])
        assert not list(self.outputs.rglob("*.tmp")), "a partial file was left"
        return found

    def times(self) -> dict[Path, int]:
        """When each evaluation was written."""
        return {p: p.stat().st_mtime_ns for p in self.outputs.glob("cells/*/evaluations/*.json")}

    def settle_again(self, quiet: dict[str, object]) -> None:
        """The same command finishes the sweep, repeats nothing, and ends as an undisturbed one."""
        before = self.times()
        assert self.run() == 0
        after = self.times()
        assert {path: after[path] for path in before} == before
        submitted = len(self.jobs())
        assert self.run() == 0
        assert len(self.jobs()) == submitted, "finished cells were submitted again"
        assert self.results() == quiet


def slurm(*command: str) -> str:
    """The output of one of SLURM's programs."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def finish(process: "subprocess.Popen[str]", seconds: float = 600) -> tuple[int, str]:
    """Exit code and output."""
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
        raise AssertionError(f"no end within {seconds} s:\n{said[-3000:]}") from None
    print(said)
    return process.returncode, said


def until(ready: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.05)


def read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found
