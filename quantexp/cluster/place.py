"""Where a command's cells run: what ``cluster=auto`` means on this machine."""

import os
import shlex
import shutil
import signal
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

from quantexp.cluster import slurm
from quantexp.errors import ConfigError


def resolve(name: str) -> str:
    """``slurm``, ``local`` or ``debug`` for the ``name`` of a cluster's configuration.

    ``auto`` submits where there is a SLURM. Inside one of its jobs it runs on what that job was
    given: a job that submits jobs would hold its GPUs for nothing.

    Raises:
        ConfigError: SLURM is asked for, or set up here, and does not answer.
    """
    if name not in ("auto", "slurm"):
        return name
    if name == "auto" and (inside_job() or not shutil.which("sbatch")):
        return "local"
    trouble = slurm.trouble()
    if trouble is None:
        return "slurm"
    if name == "auto" and not trouble.configured:
        return "local"  # the programs are installed, but belong to no cluster
    raise ConfigError(
        f"SLURM does not answer here ({trouble.text}): try again later, "
        "or run on this machine with cluster=local"
    )


def inside_job() -> bool:
    """Whether this process runs in a job of SLURM."""
    return "SLURM_JOB_ID" in os.environ


@contextmanager
def variables_set(variables: Mapping[str, str], without: Container[str] = ()) -> Iterator[None]:
    """Changes the environment that children get, for the time of a ``with``.

    What SLURM set for the job we are in is taken out: a job started from here would take it for
    its own (sbatch reads some as options, libraries others as ranks of a distributed run).

    Args:
        variables: Set.
        without: Taken out as well.
    """
    before = dict(os.environ)
    for name in before:
        if (name.startswith("SLURM_") and name != "SLURM_CONF") or name in without:
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def exports(variables: Mapping[str, str]) -> list[str]:
    """Lines of a shell that set variables; PYTHONPATH goes before what the setup has put there."""
    found = {name: f"export {name}={shlex.quote(value)}" for name, value in variables.items()}
    if "PYTHONPATH" in found:
        found["PYTHONPATH"] += '"${PYTHONPATH:+:$PYTHONPATH}"'
    return list(found.values())


@contextmanager
def no_keyboard() -> Iterator[None]:
    """Ctrl-C waits until the body is done. Children inherit it: they are stopped in order."""
    with _held_back(signal.SIGINT):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C, a hang-up and SIGTERM wait until the body is done; children inherit that."""
    with _held_back(signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        yield


@contextmanager
def _held_back(*signals: signal.Signals) -> Iterator[None]:
    """The mask is for children; another thread of ours would still take a signal that it stops."""
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for each in signals:
            if signal.getsignal(each) is not None:  # not Python's, and not ours to replace
                handlers[each] = signal.signal(each, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
