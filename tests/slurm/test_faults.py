"""What disturbs a sweep on a real SLURM, and that the same command ends it as if nothing had.

The table of docs/faults.md is what these tests show.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cluster import Cluster
from sweep import Sweep, finish, read, slurm, until

pytestmark = pytest.mark.slurm
Quiet = dict[str, object]


def test_a_preempted_job_goes_on_behind_its_last_block(sweep: Sweep, quiet: Quiet) -> None:
    client = sweep.start("cluster.partition=low")
    sweep.wait_for_blocks()
    slurm("sbatch", "-N2", "-c4", "--mem=3G", "-o", "/dev/null", "--wrap", "sleep 3")
    assert finish(client)[0] == 0
    assert sweep.faults() == ["preempted"]
    assert sweep.status()["run"] == 1
    sweep.settle_again(quiet)


def test_the_signal_ahead_of_a_time_limit_queues_the_job_again(sweep: Sweep, quiet: Quiet) -> None:
    client = sweep.start("cluster.time_min=3", "cluster.signal_s=60")
    sweep.wait_for_blocks()
    process = sweep.process()
    process.suspend()  # instead of calibrating for minutes
    until(lambda: _signalled(process.pid, signal.SIGUSR2), "signal")
    with suppress(psutil.NoSuchProcess):
        process.resume()
    assert finish(client)[0] == 0
    assert sweep.faults() == ["time limit"]
    sweep.settle_again(quiet)


def _signalled(pid: int, which: signal.Signals) -> bool:
    """Whether a stopped process has a signal waiting, or was woken by SLURM to take it and left."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (which - 1) & 1 for mask in masks)


def test_a_job_at_its_time_limit_fails_and_says_so(sweep: Sweep, quiet: Quiet) -> None:
    code, said = finish(sweep.start("cluster.time_min=1", "cluster.setup=[sleep 300]"))
    assert code == 1
    assert sweep.status()["fault"] == "time limit"
    assert "time limit" in said
    assert "sleep" not in (sweep.outputs / "sweeps/s/sweep.json").read_text()
    sweep.settle_again(quiet)


def test_scontrol_requeue_goes_on_behind_the_last_block(sweep: Sweep, quiet: Quiet) -> None:
    client = sweep.start()
    sweep.wait_for_blocks()
    slurm("scontrol", "requeue", sweep.job())
    assert finish(client)[0] == 0
    assert sweep.faults() == ["requeued"]
    sweep.settle_again(quiet)


def test_a_killed_process_is_a_failure_with_its_cause(sweep: Sweep, quiet: Quiet) -> None:
    client = sweep.start()
    sweep.wait_for_blocks()
    sweep.process().kill()
    died = time.monotonic()
    until(lambda: sweep.status().get("fault"), "cause", seconds=30)
    noticed = time.monotonic() - died
    code, said = finish(client)
    assert code == 1
    assert sweep.status()["fault"] == "killed"
    assert "SIGKILL" in said
    assert noticed < 10  # 5 on a machine that does nothing else
    sweep.settle_again(quiet)
    assert sweep.faults() == ["killed"]


def test_a_dead_node_is_left_and_the_job_runs_elsewhere(
    sweep: Sweep, quiet: Quiet, cluster: Cluster
) -> None:
    client = sweep.start()
    sweep.wait_for_blocks()
    node = slurm("squeue", "-h", "-j", sweep.job(), "-o", "%N").strip()
    cluster.node_down(node)
    try:
        code, said = finish(client)
    finally:
        cluster.node_up(node)
    assert code == 0, said
    assert sweep.faults() == ["node failure"]
    sweep.settle_again(quiet)


def test_a_restart_of_the_controller_goes_unnoticed(
    sweep: Sweep, quiet: Quiet, cluster: Cluster
) -> None:
    client = sweep.start()
    sweep.wait_for_blocks()
    cluster.stop_controller()
    time.sleep(3)
    cluster.start_controller()
    assert finish(client)[0] == 0
    assert sweep.faults() == []
    sweep.settle_again(quiet)


def test_out_of_memory_asks_for_twice_as_much_once(
    sweep: Sweep, quiet: Quiet, cluster: Cluster
) -> None:
    if not cluster.cgroups:
        pytest.skip("memory limits need cgroups of version 1, and those cannot be written here")
    # the calibration in a job of its own: what depends on it must not wait for ever
    code, said = finish(sweep.start("cluster.calibrate.memory_gb=0.3"))
    assert code == 1
    assert sweep.status()["fault"] == "out of memory"
    assert "twice" in said
    assert not slurm("squeue", "-h")
    # enough here, perhaps not everywhere; what is more than it had is taken as it is
    sweep.run("cluster.calibrate.memory_gb=0.3")
    assert sweep.run("cluster.calibrate.memory_gb=1.2") == 0
    assert {0.3, 0.6} <= {item["memory_gb"] for item in sweep.jobs()} <= {0.3, 0.6, 1.0, 1.2}
    sweep.settle_again(quiet)


def test_a_run_that_outlives_its_node_steps_back(
    sweep: Sweep, quiet: Quiet, cluster: Cluster
) -> None:
    client = sweep.start()
    sweep.wait_for_blocks()
    node = slurm("squeue", "-h", "-j", sweep.job(), "-o", "%N").strip()
    first = sweep.process()
    first.suspend()  # so that it is still at work when SLURM has begun the job anew
    cluster.lose_slurmd(node)
    try:
        until(lambda: sweep.status().get("run") == 1 and sweep.blocks() > 1, "second run")
        first.resume()
        code, said = finish(client)
        until(lambda: not first.is_running(), "end of the first run", seconds=60)
    finally:
        cluster.node_up(node)
    assert code == 0, said
    assert sweep.status()["run"] == 1
    sweep.settle_again(quiet)


@pytest.fixture
def small_disk(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "o"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_no_half_record(
    sweep: Sweep, quiet: Quiet, small_disk: Path
) -> None:
    client = sweep.start()
    sweep.wait_for_blocks()
    filler = small_disk / "filler"
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False
    )
    code, _ = finish(client)
    assert code == 1
    filler.unlink()
    slurm("mount", "-o", "remount,size=96m", str(small_disk))
    sweep.settle_again(quiet)
    assert "disk full" in sweep.faults()


def test_the_same_sweep_twice_at_once_is_one_sweep(sweep: Sweep, quiet: Quiet) -> None:
    one, other = sweep.start(), sweep.start()
    assert finish(one)[0] == 0
    assert finish(other)[0] == 0
    assert sum(len(item["tasks"]) for item in sweep.jobs()) == 2
    sweep.settle_again(quiet)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_job_needs_its_client(sweep: Sweep, quiet: Quiet, how: signal.Signals) -> None:
    client = sweep.start()
    until(sweep.jobs, "submission")
    time.sleep(1)
    client.send_signal(how)
    code, said = finish(client, seconds=20)
    if how != signal.SIGKILL:
        assert code == 130
        assert "status --sweep s --watch" in said
    state = read(sweep.cell / "status.json")
    assert state is None or state["state"] != "done"
    assert sweep.call("status", "--watch", "--outputs", str(sweep.outputs)).wait(200) == 0
    assert sweep.results() == quiet
    assert sweep.run() == 0
    assert sum(len(item["tasks"]) for item in sweep.jobs()) == 2
