"""The doctor's job: submitted as cells are, with their partition, account, setup and code."""

import os
import shlex
import shutil
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantexp.cluster import health, limits, slurm
from quantexp.cluster.facts import Facts
from quantexp.cluster.health import FAILED, OK, Check, Request
from quantexp.cluster.needs import CALIBRATE, SBATCH_VARIABLES, given, sbatch_options
from quantexp.cluster.place import exports, undisturbed, variables_set
from quantexp.cluster.snapshot import snapshot
from quantexp.config import ClusterConfig, ExperimentConfig, Resources
from quantexp.experiment import record
from quantexp.typed import build, plain

_MINUTES = 5  # its limit; it runs for one where file systems are quick
_MEMORY = 2.0  # GiB
_WAIT = 600.0  # seconds that the queue may take
_LOOK = 3.0  # seconds between two questions to SLURM


def run(config: ExperimentConfig) -> list[Check]:
    """Submits the checks as a job, waits, and takes the job's files away.

    Returns:
        What the job found; why it found nothing, where SLURM refuses or ends it.

    Raises:
        ConfigError: SLURM does not answer.
    """
    found = limits.here()
    asked = request(config.cluster, found)
    refused = [Check("request", FAILED, text) for text in limits.problems(asked, found)]
    if refused:
        return refused
    folder = Path(config.paths.outputs).absolute() / "doctor" / uuid.uuid4().hex[:12]
    folder.mkdir(parents=True)
    try:
        token = folder / "token"
        token.write_text("written on the login node\n")
        wanted = Request(
            str(folder.parents[1]),
            bool(asked.gpus or asked.gres),
            health.facts(),
            str(token),
            config.tracker.mode,
            os.getcwd(),
        )
        record.write(folder / "request.json", plain(wanted))
        return _wait(_submit(config.cluster, asked, folder), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another doctor is at work
            folder.parent.rmdir()


def request(cluster: ClusterConfig, found: Facts) -> Resources:
    """As calibrations ask, but little and short; one GPU where the partition has any."""
    asked = given(cluster, CALIBRATE)
    names = set((asked.partition or found.default_partition or "").split(","))
    gpus = any(key[0] == "gpu" for n in found.nodes if n.partitions & names for key in n.gres)
    if asked.gpus is None and asked.gres is None:
        asked = replace(asked, gpus=int(gpus))
    return replace(asked, cpus=1, memory_gb=asked.memory_gb or _MEMORY, time_min=_MINUTES)


def _submit(cluster: ClusterConfig, asked: Resources, folder: Path) -> Any:
    import submitit

    python = cluster.python or shlex.quote(sys.executable)
    command = f"{cluster.container} {python}" if cluster.container else python
    executor = submitit.SlurmExecutor(folder, python=command)
    options: dict[str, Any] = sbatch_options(asked, cluster)
    code = snapshot(folder.parents[1])
    options["setup"] = [*options.get("setup", []), *exports(code.environment)]
    executor.update_parameters(
        job_name="quantexp-doctor", wckey=None, stderr_to_stdout=True, **options
    )
    arguments = [str(folder / "request.json"), str(folder / "answer.json")]
    with variables_set({}, without=SBATCH_VARIABLES), undisturbed():
        return executor.submit(health.main, arguments)


def _wait(job: Any, folder: Path) -> list[Check]:
    """The job's answer; without one, why."""
    began = asked = time.monotonic()
    state, told, over = slurm.JobState("PENDING"), "", False
    print(f"job      {job.job_id} submitted; Ctrl-C cancels it", file=sys.stderr)
    try:
        while (answer := record.read(folder / "answer.json")) is None:
            time.sleep(0.2)
            if time.monotonic() - asked < _LOOK:
                continue
            asked = time.monotonic()
            try:
                state = slurm.states([job.job_id]).get(job.job_id, state)
            except slurm.NoAnswerError:
                continue
            if (now := f"{state.state} {state.reason}".strip()) != told:
                told = now
                limit = f" (at most {_WAIT / 60:.0f} minutes)" if state.pending else ""
                print(f"job      {job.job_id} {now}{limit}", file=sys.stderr)
            if not state.alive and over and not (folder / "answer.json").exists():
                return [_ended(job, state)]
            over = not state.alive  # network file systems may show the answer later
            if state.pending and asked - began > _WAIT:
                slurm.cancel([job.job_id])
                text = f"waited {_WAIT / 60:.0f} minutes: {state.why}"
                return [Check("job", FAILED, text, "another partition or account may be quicker")]
    except KeyboardInterrupt:
        slurm.cancel([job.job_id])
        raise
    found = [build(Check, check) for check in answer["checks"]]
    seconds = time.monotonic() - began
    return [Check("job", OK, f"{job.job_id} answered after {seconds:.0f} s"), *found]


def _ended(job: Any, state: slurm.JobState) -> Check:
    log = Path(str(job.paths.stdout))
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    # the first complaint is the cause; what follows are its consequences
    said = next((line for line in lines if "rror" in line), lines[-1] if lines else "")
    text = f"{job.job_id} ended without an answer ({state.state}): {said or 'it printed nothing'}"
    return Check("job", FAILED, text, "cluster.python, cluster.setup or cluster.container?")
