"""A private SLURM on this machine: real daemons from Debian's packages, all files in one folder.

``python tests/slurm/cluster.py FOLDER`` starts one by hand and prints the ``export`` line that a
shell needs; Ctrl-C ends it. The folder's path must be short: unix sockets allow 107 characters.

What is real: scheduling, arrays, dependencies, requeues, preemption, accounting, time limits, dead
nodes, and memory limits where version 1 cgroups can be written. What is not: the GPUs (links to
``/dev/null``, so that ``CUDA_VISIBLE_DEVICES`` is set), and the nodes' CPUs, which are promised
twice. Everything listens on 127.0.0.1 alone.

Partitions: ``main`` (default); ``low``, whose jobs ``main`` preempts and requeues after a grace
time in which they are told by the job's ``--signal``.
"""

import contextlib
import ctypes
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

PACKAGES = ("munge", "slurm-client", "slurmctld", "slurmd", "slurmdbd")
PACKAGES += ("mariadb-server-core", "mariadb-client-core")
PROGRAMS = ("munged", "sbatch", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db")
# Names of its own: cgroups are called after nodes, and another cluster may be on this machine.
NODES, CPUS, MEMORY, GPUS = ("qx1", "qx2"), 4, 4096, 2  # of each node; MiB
_CGROUPS = Path("/sys/fs/cgroup")
_NEWUTS, _PDEATHSIG = 0x04000000, 1  # of unshare(2) and prctl(2)


class UnavailableError(Exception):
    """This machine cannot run the cluster; the message says why."""


def install() -> None:
    """Installs what is missing, without starting the packages' own daemons.

    Raises:
        UnavailableError: Not Debian, not root, or no packages within reach.
    """
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if all(map(shutil.which, PROGRAMS)):
        return
    if not shutil.which("apt-get"):
        raise UnavailableError("SLURM is not installed, and this is no Debian to install it on")
    if os.geteuid() != 0:
        raise UnavailableError(f"SLURM is not installed, and only root can: {' '.join(PACKAGES)}")
    policy = Path("/usr/sbin/policy-rc.d")  # what Debian asks before a package starts a service
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True}
        get = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
        if subprocess.run(get, **quiet).returncode:  # type: ignore[call-overload]
            subprocess.run(["apt-get", "update"], **quiet)  # type: ignore[call-overload]
            done = subprocess.run(get, text=True, **quiet)  # type: ignore[call-overload]
            if done.returncode:
                raise UnavailableError(
                    f"apt-get cannot install SLURM: {done.stderr.strip()[-300:]}"
                )
    finally:
        if ours:
            policy.unlink()


class Cluster:
    """The daemons of one cluster; they end with this process at the latest.

    Args:
        folder: Short path for configuration, logs and state; emptied first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.cgroups = _cgroups()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Brings everything up; returns when all nodes are idle."""
        install()
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("log", "run", "state", "db", "dev", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        self._write(_port_block(3 + len(NODES)))
        os.environ["SLURM_CONF"] = str(self.conf)
        try:
            self._munge()
            self._database()
            self.start_controller()
            for node in NODES:
                self._slurmd(node)
            _wait("idle nodes", lambda: self.idle() == len(NODES))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the jobs, then every daemon that this object started."""
        if self._alive("slurmctld"):
            subprocess.run(["scancel", "-u", getpass.getuser()], capture_output=True, timeout=10)
            with contextlib.suppress(TimeoutError):
                _wait("empty queue", lambda: not _run("squeue", "-h"), seconds=10)
        for node in NODES:
            self.node_down(node)
        for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end(name, signal.SIGTERM)
        os.environ.pop("SLURM_CONF", None)
        if self.cgroups:
            _remove_cgroups()

    def start_controller(self) -> None:
        """Starts slurmctld; jobs and queues come back from its state."""
        self._launch("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])
        _wait("slurmctld", lambda: "is UP" in _run("scontrol", "ping"))

    def stop_controller(self) -> None:
        """Ends slurmctld; running jobs go on."""
        self._end("slurmctld", signal.SIGTERM)

    def node_down(self, node: str) -> None:
        """Cuts a node's power: its slurmd and all processes of its jobs die at once."""
        self.lose_slurmd(node)
        processes = self.processes(node)
        # step daemons first, so that nobody is left to report the end of the rest
        for process in sorted(processes, key=lambda p: not p.name().startswith("slurmstepd")):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def lose_slurmd(self, node: str) -> None:
        """The node answers no more, but its jobs' processes go on: SLURM will run them again."""
        self._end(f"slurmd-{node}", signal.SIGKILL)

    def node_up(self, node: str) -> None:
        """Starts a node's slurmd again."""
        self._slurmd(node)
        _wait(f"node {node}", lambda: self.idle() == len(NODES))

    def idle(self) -> int:
        """How many nodes take jobs."""
        states = _run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        usable = ("idle", "mixed", "allocated", "completing")
        return len({line.split()[0] for line in states if line.split()[1] in usable})

    def processes(self, node: str) -> list[psutil.Process]:
        """A node's step daemons and the processes of its jobs."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                known = process.environ()
                ours = known.get("SLURM_CONF") == str(self.conf)
                if ours and known.get("SLURMD_NODENAME") == node:
                    # a step daemon hides its environment; it is known by what it started
                    above = [p for p in process.parents() if p.name().startswith("slurmstepd")]
                    found += [*above[:1], process]
        return [process for process in dict.fromkeys(found) if process.pid != os.getpid()]

    def _munge(self) -> None:
        run = self.folder / "run"
        key = run / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(512))
        files = [f"--{name}-file={run / f'munge.{name}'}" for name in ("key", "pid", "log", "seed")]
        munged = ["munged", "--foreground", "--force", f"--socket={run / 'munge.sock'}", *files]
        self._launch("munged", munged)
        _wait("munged", (run / "munge.sock").exists)

    def _database(self) -> None:
        data, sock = self.folder / "db" / "data", self.folder / "db" / "sql.sock"
        common = ["--no-defaults", f"--datadir={data}", f"--user={getpass.getuser()}"]
        made = subprocess.run(
            ["mariadb-install-db", *common, "--auth-root-authentication-method=normal"],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise UnavailableError(f"mariadb-install-db: {made.stderr[-300:]}")
        # the sizes are what slurmdbd asks for at least; nothing here must survive a crash
        sizes = ["--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900"]
        sizes += ["--innodb-flush-log-at-trx-commit=0", "--skip-networking"]
        self._launch("mariadbd", ["mariadbd", *common, *sizes, f"--socket={sock}"])
        sql = ["mariadb", "--no-defaults", f"--socket={sock}", "-u", "root", "-e"]
        create = [*sql, "create database if not exists slurm_acct"]
        _wait("mariadbd", lambda: subprocess.run(create, capture_output=True).returncode == 0)
        self._launch("slurmdbd", ["slurmdbd", "-D"], MYSQL_UNIX_PORT=str(sock))
        add = ("sacctmgr", "-i", "add", "cluster", "test")
        _wait(
            "slurmdbd", lambda: "test" in _run("sacctmgr", "-nP", "show", "cluster") or _run(*add)
        )

    def _slurmd(self, node: str) -> None:
        command = ["slurmd", "-D", "-N", node, "-f", str(self.conf)]
        self._launch(f"slurmd-{node}", command)

    def _launch(self, name: str, command: list[str], **variables: str) -> None:
        log = (self.folder / "log" / f"{name}.out").open("ab")
        self._daemons[name] = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_as_localhost,
        )
        log.close()

    def _alive(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _end(self, name: str, how: signal.Signals) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(how)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _write(self, port: int) -> None:
        """slurm.conf and its companions; times are shortened, so that a test need not wait."""
        folder, run, user = self.folder, self.folder / "run", getpass.getuser()
        for index in range(GPUS):
            (folder / "dev" / f"nvidia{index}").symlink_to("/dev/null")
        tracking = ["ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none"]
        tracking += ["JobAcctGatherParams=OverMemoryKill"]
        if self.cgroups:
            tracking = ["ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup"]
        local = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"
        lines = [
            "ClusterName=test",
            "SlurmctldHost=localhost(127.0.0.1)",
            f"SlurmctldPort={port}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            local,
            "AuthType=auth/munge",
            # a requeued job is held back until its old credential has expired (120 s by default)
            f"AuthInfo=socket={run / 'munge.sock'},cred_expire=6",
            f"StateSaveLocation={folder / 'state'}",
            f"SlurmdSpoolDir={folder / 'spool' / '%n'}",
            f"SlurmctldPidFile={run / 'slurmctld.pid'}",
            f"SlurmdPidFile={run / 'slurmd-%n.pid'}",
            f"SlurmctldLogFile={folder / 'log' / 'slurmctld.log'}",
            f"SlurmdLogFile={folder / 'log' / 'slurmd-%n.log'}",
            "MpiDefault=none",
            "PropagateResourceLimits=NONE",
            "SlurmdParameters=config_overrides",  # nodes may promise more than there is
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU_Memory",
            "DefMemPerCPU=512",
            "GresTypes=gpu",
            "MaxArraySize=1001",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "SlurmctldParameters=preempt_send_user_signal",
            "SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
            "KillWait=1",
            "ReturnToService=2",
            "SlurmdTimeout=5",
            "SlurmctldTimeout=30",
            "InactiveLimit=0",
            "MessageTimeout=10",
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherFrequency=task=1",
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={port + 1}",
            f"AccountingStoragePass={run / 'munge.sock'}",
            "AccountingStorageTRES=gres/gpu",
            *tracking,
        ]
        for number, node in enumerate(NODES, port + 2):
            lines.append(
                f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={number} "
                f"CPUs={CPUS} RealMemory={MEMORY} Gres=gpu:{GPUS} State=UNKNOWN"
            )
        every = "Nodes=ALL DefaultTime=30 MaxTime=INFINITE State=UP"
        lines += [
            f"PartitionName=main {every} Default=YES PriorityTier=10 PreemptMode=OFF",
            f"PartitionName=low {every} PriorityTier=1 PreemptMode=REQUEUE GraceTime=15",
        ]
        self.conf.write_text("\n".join(lines) + "\n")
        gpus = f"File={folder / 'dev'}/nvidia[0-{GPUS - 1}]"
        (folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu {gpus}\n")
        (folder / "cgroup.conf").write_text(
            f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={_CGROUPS}\nCgroupAutomount=no\n"
            f"ConstrainRAMSpace={'yes' if self.cgroups else 'no'}\n"
        )
        dbd = folder / "slurmdbd.conf"
        dbd.touch(mode=0o600)
        dbd.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={run / 'munge.sock'}\n{local}\n"
            f"DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={port + 1}\nSlurmUser={user}\n"
            f"LogFile={folder / 'log' / 'slurmdbd.log'}\nPidFile={run / 'slurmdbd.pid'}\n"
            "StorageType=accounting_storage/mysql\nStorageHost=localhost\nStorageUser=root\n"
            "StorageLoc=slurm_acct\nCommitDelay=0\n"
        )


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster for the time of a ``with``.

    Raises:
        UnavailableError: This machine cannot run one.
    """
    cluster = Cluster(folder)
    try:
        cluster.start()
    except (TimeoutError, OSError) as error:
        raise UnavailableError(
            f"SLURM does not start here: {error} (logs in {folder}/log)"
        ) from error
    try:
        yield cluster
    finally:
        cluster.stop()


def _as_localhost() -> None:
    """Runs in a daemon before its program: it dies with us, and binds to loopback.

    With NoInAddrAny the daemons bind to what their host's name means; a name space of their own
    (where the system allows one) makes that ``localhost``.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, signal.SIGTERM)
    if libc.unshare(_NEWUTS) == 0:
        socket.sethostname("localhost")


def _cgroups() -> bool:
    """Whether version 1 cgroups can be written: real memory limits need them.

    Another cluster of these tests would use the same ones; only the first gets them.
    """
    daemons = psutil.process_iter(["name", "cmdline"])
    if any(p.info["name"] == "slurmd" and NODES[0] in p.info["cmdline"] for p in daemons):
        return False
    _remove_cgroups()
    for name in ("memory", "freezer", "cpuset"):
        probe = _CGROUPS / name / f"probe-{os.getpid()}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError:
            return False
    return True


def _remove_cgroups() -> None:
    """Removes what slurmd leaves; what is in use stays."""
    for node in NODES:
        for top in _CGROUPS.glob(f"*/slurm_{node}"):
            for folder in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                top.rmdir()


def _port_block(count: int) -> int:
    """The first of ``count`` free ports in a row, below those the system hands out itself."""
    for first in range(17300, 19300, 20):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, item in enumerate(sockets):
                item.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for item in sockets:
                item.close()
    raise UnavailableError("no free ports")


def _run(*command: str) -> str:
    """What a command of SLURM prints; nothing where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip()


def _wait(what: str, ready: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {seconds:g} s")
        time.sleep(0.1)


if __name__ == "__main__":
    with running(Path(sys.argv[1]).resolve()) as started:
        print(f"export SLURM_CONF={shlex.quote(str(started.conf))}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
