"""Runs :mod:`quantexp.tracking.wandb_run` as a child process, bounded in time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("wandb_run.py")


class TrackerError(Exception):
    """The mirror could not be written; never raised to whoever runs a cell."""


def write_run(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Has a child process write one run.

    A child, because a library that hangs in a lock, in its own service or at exit cannot be
    stopped from inside the process that runs the cell.

    Args:
        request: Plain data for the script.
        seconds: After so long the child is killed.

    Returns:
        The script's answer: ``mode directory url why``.

    Raises:
        TrackerError: The child failed or took too long.
    """
    text = json.dumps({**request, "seconds": seconds}).encode()
    # Files and not pipes: W&B's service inherits them, and would keep a pipe open when it hangs.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        # -P: a folder named wandb beside the script or in the working directory is not the package
        child = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
        try:
            child.communicate(text, timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            raise TrackerError(f"no answer within {seconds:.0f} s") from None
        finally:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        answer = _last_json(_read(out))
        if answer is None:
            last = _read(errors).strip().splitlines()
            raise TrackerError(last[-1] if last else f"exit code {child.returncode}")
    if "error" in answer:
        raise TrackerError(str(answer["error"]))
    return answer


def _read(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))


def _last_json(text: str) -> dict[str, Any] | None:
    """The answer is the last line; W&B may have printed something before."""
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                return answer
    return None
