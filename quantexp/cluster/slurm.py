"""What SLURM says: states of jobs, reasons, limits. Every question is one call for all jobs."""

import getpass
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from quantexp.errors import ConfigError

_AT_ONCE = 500  # jobs that one call cancels
_PATIENCE = 30  # seconds that SLURM may take to answer
# States that end a job; in all others, known here or not, it runs, waits, or will run again.
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED"}
_ENDED |= {"BOOT_FAIL", "DEADLINE", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"}

_REASONS = {
    "Priority": "others are before it in the queue",
    "Resources": "waits for free nodes",
    "Dependency": "waits for another job of the sweep",
    "DependencyNeverSatisfied": "the job it waits for failed",
    "JobArrayTaskLimit": "cluster.max_jobs jobs of the sweep run already",
    "BeginTime": "starts again in a moment",
    "JobHeldUser": "held by its owner: scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs now",
    "PartitionNodeLimit": "asks for more than the partition's limit",
    "PartitionTimeLimit": "cluster.time_min is over the partition's limit",
    "ReqNodeNotAvail": "the nodes it needs are down or reserved",
    "Reservation": "waits for a reservation",
    "InvalidAccount": "the account is not valid",
    "InvalidQOS": "the QOS is not valid",
    "Licenses": "waits for a licence",
    "launch failed requeued held": "could not be started and is held: scontrol release",
}
_REASON_PATTERNS = (
    (r"QOS\w*(Max|Grp)\w*", "a limit of the QOS is reached"),
    (r"(Assoc|Max|Grp)\w*", "a limit of the account is reached"),
    (r"Nodes required for job are DOWN.*", "the nodes it needs are down or reserved"),
)


@dataclass(frozen=True)
class JobState:
    """What SLURM knows of one job.

    Attributes:
        state: SLURM's word: ``PENDING``, ``RUNNING``, ``OUT_OF_MEMORY``, …
        reason: Why it waits, in SLURM's word.
        exit_code: Of an ended job: the program's, or 128 + the signal that ended it.
        node: Where it ran or runs.
    """

    state: str
    reason: str = ""
    exit_code: int = 0
    node: str = ""

    @property
    def alive(self) -> bool:
        """Whether it waits or runs, or will run again."""
        return self.state not in _ENDED

    @property
    def pending(self) -> bool:
        """Whether it waits."""
        return self.alive and self.state not in ("RUNNING", "COMPLETING")

    @property
    def why(self) -> str:
        """Why it waits, in words."""
        if not self.pending:
            return ""
        reason = self.reason.strip("()")
        if reason in ("", "None"):
            return "waits in the queue"
        name = reason.split(",")[0]
        if name in _REASONS:
            return _REASONS[name]
        found = (text for pattern, text in _REASON_PATTERNS if re.fullmatch(pattern, name))
        return f"{next(found, 'waits')} ({reason})"


@dataclass(frozen=True)
class Trouble:
    """Why SLURM cannot be used; ``configured`` tells a cluster that is down from none at all."""

    text: str
    configured: bool


class NoAnswerError(Exception):
    """SLURM did not answer: its controller restarts, or the network is slow. Ask again later."""


def trouble() -> Trouble | None:
    """Why SLURM cannot be used here, or ``None`` where it answers."""
    try:
        answer = ask("scontrol", "ping")
    except NoAnswerError as error:
        text = str(error)
        return Trouble(text, "configuration source" not in text and "not found" not in text)
    down = " UP" not in answer
    return Trouble(answer.strip(), True) if down else None


def states(ids: Iterable[str]) -> dict[str, JobState]:
    """States of jobs and array tasks (``12``, ``12_3``) by id; unknown ones are missing.

    Two calls, whatever the number of jobs. What the queue says goes before accounting: that
    shows a requeued job as ended. Without accounting the queue alone must do; it keeps ended
    jobs for some minutes.

    Raises:
        NoAnswerError: Nothing can be said now.
    """
    wanted = set(ids)
    if not wanted:
        return {}
    me = getpass.getuser()
    # -a: also what lies in hidden partitions
    listed = ask("squeue", "-h", "-a", "-r", "-t", "all", "-u", me, "-o", "%i|%T|%N|%r")
    queue: dict[str, JobState] = {}
    for line in listed.splitlines():
        name, state, node, reason = line.split("|", 3)
        if name in wanted:
            queue[name] = JobState(state, reason, node=node)
    ended = sorted({name.split("_")[0] for name in wanted if not _waits(queue.get(name))})
    if not ended:
        return queue
    try:
        rows = ask("sacct", "-nP", "-j", ",".join(ended), "-o", "JobID,State,ExitCode,NodeList")
    except NoAnswerError:
        return queue
    accounted = _accounted(rows)
    for name in wanted:
        known = queue.get(name)
        # a job that the queue does not list and accounting calls alive is somebody else's
        if name in accounted and (known is None or not (known.alive or accounted[name].alive)):
            queue[name] = accounted[name]
    return queue


def _waits(state: JobState | None) -> bool:
    return state is not None and state.alive


def _accounted(rows: str) -> dict[str, JobState]:
    """States by job; a job takes the word of its steps where they know more (out of memory)."""
    found: dict[str, JobState] = {}
    for line in rows.splitlines():
        name, state, code, node = line.split("|")[:4]
        job, dot, _ = name.partition(".")
        number, _, by = code.partition(":")
        exit_code = int(number or 0) or (128 + int(by) if by not in ("", "0") else 0)
        new = JobState(state.split()[0], "", exit_code, node)
        if not dot:
            found[job] = new
        elif job in found and "OUT_OF_MEMORY" in new.state:
            found[job] = JobState("OUT_OF_MEMORY", "", new.exit_code, found[job].node)
        elif job in found and not found[job].exit_code and new.exit_code:
            old = found[job]
            found[job] = JobState(old.state, old.reason, new.exit_code, old.node)
    return found


def earlier_end(job: str) -> str:
    """How the run of a job before its present one ended, in SLURM's word; empty if unknown."""
    try:
        rows = ask("sacct", "-nPXD", "-j", job, "-o", "State").splitlines()
    except NoAnswerError:
        return ""
    ends = [row.split()[0] for row in rows if row.split()]
    return ends[-2] if len(ends) > 1 else ""


def cancel(ids: Sequence[str]) -> None:
    """Cancels jobs; those that have ended are passed over.

    Raises:
        NoAnswerError: SLURM did not take the order.
    """
    for start in range(0, len(ids), _AT_ONCE):
        ask("scancel", "--quiet", *ids[start : start + _AT_ONCE])


def queued() -> int:
    """How many jobs of ours are in the queue, array tasks counted one by one."""
    return len(ask("squeue", "-h", "-a", "-r", "-u", getpass.getuser(), "-o", "%i").splitlines())


@cache
def cluster_name() -> str:
    """What this machine's cluster is called; asked once.

    Raises:
        NoAnswerError: Nobody says.
    """
    found = re.search(r"ClusterName\s*=\s*(\S+)", ask("scontrol", "show", "config"))
    return found[1] if found else ""


def max_array_size() -> int:
    """One more than the largest index of an array."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    return max(1, int(found[1])) if found else 1001


def ask(*command: str) -> str:
    """The output of one of SLURM's programs.

    Raises:
        NoAnswerError: It failed, is not there, or took too long.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
            env=_plainly(),
        )
    except FileNotFoundError as error:
        raise NoAnswerError(f"{command[0]} is not found") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{command[0]} took longer than {_PATIENCE} s") from error
    except OSError as error:
        raise NoAnswerError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise NoAnswerError(said[-1] if said else f"{command[0]} failed")
    return done.stdout


def need() -> None:
    """Refuses to go on without SLURM.

    Raises:
        ConfigError: It does not answer here.
    """
    found = trouble()
    if found:
        raise ConfigError(f"SLURM does not answer here ({found.text}): try again later")


def _plainly() -> dict[str, str]:
    """Without the user's formats (``SQUEUE_FORMAT``, …), which would change what we read."""
    heads = ("SQUEUE_", "SACCT_", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS")
    return {k: v for k, v in os.environ.items() if not k.startswith(heads)}
