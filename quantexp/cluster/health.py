"""What a machine must have for cells to run: the same checks on a login node and in a job.

As a job: ``python -m quantexp.cluster.health REQUEST.json ANSWER.json``.
"""

import importlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from quantexp.experiment import quota, record
from quantexp.experiment.code import science
from quantexp.experiment.estimate import readable_size
from quantexp.resources import PACKAGE
from quantexp.typed import build, plain

STATES = OK, WARNING, FAILED = "ok", "warning", "FAILED"
PACKAGES = (
    "torch",
    "transformers",
    "hydra-core",
    "lm-eval",
    "datasets",
    "accelerate",
    "submitit",
    "safetensors",
    "huggingface-hub",
    "tokenizers",
    "numpy",
    "wandb",
)
# What a job imports, torch and all: a broken binary shows here, not in the version.
IMPORTS = ("torch", "quantexp.experiment.calibrate", "quantexp.experiment.evaluate")
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE")
_LITTLE, _SCARCE = 200 << 20, 10 << 30  # bytes free below which it fails, or warns
_FILES = 100, 10_000  # the same of files: a cell writes some ten
_SLOW = 1.0  # seconds for a small file, from which the file system is called slow
_PATIENCE = 3.0  # seconds to wait for a connection


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``warning`` or ``FAILED``.
        text: What was found.
        fix: What to do; empty where all is well.
    """

    name: str
    state: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Request:
    """What a job is to check.

    Attributes:
        outputs: Folder of the results.
        gpu: Whether a GPU was asked for.
        expected: :func:`facts` of the login node; empty there.
        token: A file in the outputs that the login node wrote.
        tracker: ``tracker.mode``.
        folder: Where the command was given; empty there.
    """

    outputs: str
    gpu: bool = False
    expected: Any = None
    token: str | None = None
    tracker: str = "auto"
    folder: str | None = None


def checks(request: Request) -> list[Check]:
    """All checks on this machine. With ``expected``, as a job: imports, equal versions, CUDA."""
    job = request.expected is not None
    outputs = Path(request.outputs)
    made: list[Callable[[], Check]] = [_python, _packages]
    if job:
        made += [lambda: _equal(request.expected), _imports]
    if request.folder:
        made.append(lambda: _folder(str(request.folder)))
    made += [
        lambda: _accelerator(job, request.gpu),
        lambda: _writable(outputs, request.token),
        lambda: _disk(outputs),
        lambda: _caches(request.expected),
        _network,
        _switches,
        lambda: _tracker(request.tracker),
    ]
    return [_safely(check) for check in made]


def facts() -> dict[str, Any]:
    """What must be the same in jobs as here."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "code": science(),
        "package": str(PACKAGE),
        "cached": sorted(_repositories()),
    }


def _safely(check: Callable[[], Check]) -> Check:
    """A check that breaks is a finding, not an end."""
    try:
        return check()
    except Exception as error:
        name = getattr(check, "__name__", "check").strip("_")
        return Check(name, FAILED, f"{type(error).__name__}: {error}", "please report it")


def _python() -> Check:
    text = f"{platform.python_version()} {sys.executable} on {platform.node()}"
    return Check("python", OK, text)


def _packages() -> Check:
    found = {name: _version(name) for name in PACKAGES}
    missing = [name for name, at in found.items() if at is None]
    if missing:
        fix = f"pip install {' '.join(missing)}, or install quantexp anew into this environment"
        return Check("packages", FAILED, f"missing: {', '.join(missing)}", fix)
    shown = ("torch", "transformers", "hydra-core", "lm-eval", "datasets", "submitit")
    return Check("packages", OK, ", ".join(f"{name} {found[name]}" for name in shown))


def _equal(expected: Mapping[str, Any]) -> Check:
    here = facts()
    differing = [
        f"{name} {here['packages'][name]} (there {at})"
        for name, at in expected["packages"].items()
        if here["packages"][name] != at
    ]
    if here["python"] != expected["python"]:
        differing.append(f"python {here['python']} (there {expected['python']})")
    if here["code"] != expected["code"]:
        differing.append(f"quantexp itself: {PACKAGE} (there {expected['package']})")
    if differing:
        return Check(
            "as on the login node",
            FAILED,
            f"not equal: {'; '.join(differing)}",
            "let cluster.python name the same environment, on a file system that nodes share",
        )
    return Check("as on the login node", OK, "versions and code are equal")


def _imports() -> Check:
    started = time.monotonic()
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as error:
            text = f"{name}: {type(error).__name__}: {error}"
            fix = "a library that the node lacks? module load … belongs into cluster.setup"
            return Check("imports", FAILED, text, fix)
    return Check("imports", OK, f"in {time.monotonic() - started:.1f} s")


def _accelerator(job: bool, wanted: bool) -> Check:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    said = f"CUDA_VISIBLE_DEVICES={visible}" if visible is not None else "all GPUs visible"
    if not job:  # torch takes seconds to import, and login nodes seldom have a GPU
        names = _nvidia_smi()
        text = f"{', '.join(names)} ({said})" if names else "no GPU here"
        return Check("GPU", OK, text)
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("GPU", OK, f"{', '.join(names)}, CUDA {torch.version.cuda} ({said})")
    if not wanted:
        return Check("GPU", OK, "none was asked for")
    built = torch.version.cuda
    text = f"a GPU was asked for and torch sees none ({said}; torch is for CUDA {built})"
    fix = (
        "install a torch that is built for CUDA"
        if built is None
        else "the driver may be too old for this torch (nvidia-smi says which), or the site hides "
        "GPUs: try cluster.gres=gpu:1"
    )
    return Check("GPU", FAILED, text, fix)


def _folder(path: str) -> Check:
    """Jobs go to where the sweep was started: its relative paths mean that."""
    try:
        os.chdir(path)
    except OSError as error:
        fix = "start sweeps in a folder that nodes see, or mount it in cluster.container"
        return Check("folder", FAILED, f"{path}: {error.strerror}", fix)
    return Check("folder", OK, path)


def _writable(outputs: Path, token: str | None) -> Check:
    name, fix = "outputs", "give a folder that nodes can write, paths.outputs=FOLDER"
    if token is not None and not Path(token).is_file():
        text = (
            f"{outputs.absolute()} is not the login node's folder: a file written there is absent"
        )
        return Check(name, FAILED, text, "put the outputs on a file system that nodes share")
    there = next(path for path in (outputs, *outputs.absolute().parents) if path.exists())
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as folder:
            record.write(Path(folder) / "a.json", {"a": 1})
    except OSError as error:
        return Check(name, FAILED, f"{there} cannot be written ({error.strerror})", fix)
    seconds = time.monotonic() - started
    text = f"{outputs.absolute()} can be written ({1000 * seconds:.0f} ms for a small file)"
    if seconds > _SLOW:
        return Check(name, WARNING, text, "a busy file system: expect slow starts")
    return Check(name, OK, text)


def _disk(outputs: Path) -> Check:
    """The file system's room and every quota that can be read; the tightest decides."""
    said, state = [], OK
    for room in quota.rooms(outputs):
        left = []
        if room.bytes is not None:
            left.append(readable_size(room.bytes))
            state = max(state, _scarce(room.bytes, _LITTLE, _SCARCE), key=STATES.index)
        if room.files is not None:
            left.append(f"{room.files} files")
            state = max(state, _scarce(room.files, *_FILES), key=STATES.index)
        said.append(f"{room.whose} has {' and '.join(left)} left")
    fix = "python -m quantexp clean --state done, or paths.outputs=FOLDER on a larger disk"
    return Check("disk", state, "; ".join(said), "" if state == OK else fix)


def _scarce(left: int, little: int, scarce: int) -> str:
    return FAILED if left < little else WARNING if left < scarce else OK


def _caches(expected: Mapping[str, Any] | None) -> Check:
    folder = _hub_cache()
    if not folder.exists():
        text = f"{folder} does not exist yet"
        state = FAILED if expected and expected["cached"] else OK
        fix = "set HF_HOME to a folder that nodes share" if state == FAILED else ""
        return Check("hub cache", state, text, fix)
    if not os.access(folder, os.R_OK | os.X_OK):
        return Check(
            "hub cache", FAILED, f"{folder} cannot be read", "check HF_HOME and its rights"
        )
    here = _repositories()
    unreadable = [name for name in here if not os.access(folder / name, os.R_OK | os.X_OK)]
    missing = sorted(set(expected["cached"]) - here) if expected else []
    if unreadable or missing:
        text = f"{folder} lacks or hides {', '.join([*missing, *unreadable][:5])}"
        return Check("hub cache", FAILED, text, "set HF_HOME to a folder that nodes share")
    return Check("hub cache", OK, f"{folder}: {len(here)} repositories")


def _network() -> Check:
    from quantexp.calibration.hub import offline

    if offline():
        return Check("hub", OK, "not asked: offline, what was prefetched is used")
    url = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
        return Check("hub", OK, "behind a proxy: not asked")
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname or "", port), _PATIENCE).close()
    except OSError as error:
        return Check(
            "hub",
            WARNING,
            f"{url.hostname} cannot be reached ({error})",
            "fetch on a machine with network (python -m quantexp prefetch …), then set "
            "HF_HUB_OFFLINE=1",
        )
    token = "a token is set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN: no gated models"
    return Check("hub", OK, f"{url.hostname} answers; {token}")


def _switches() -> Check:
    found = [f"{name}={os.environ[name]}" for name in SWITCHES if os.environ.get(name)]
    return Check("offline switches", OK, ", ".join(found) or "none is set")


def _tracker(mode: str) -> Check:
    if mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
        return Check("W&B", OK, "switched off")
    if mode == "offline" or os.environ.get("WANDB_MODE") == "offline":
        return Check("W&B", OK, "offline: python -m quantexp sync uploads later")
    code = "from quantexp.tracking import wandb_run as w; print(w.offline_because('auto') or '')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": _path()},
    )
    why = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["wandb failed"])[-1]
    if why:
        text = f"runs will be written offline: {why}"
        return Check("W&B", WARNING, text, "python -m quantexp sync uploads them later")
    return Check("W&B", OK, "online")


def _path() -> str:
    return os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(":")


def _nvidia_smi() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repositories() -> set[str]:
    return {path.name for path in _listed(_hub_cache())}


def _listed(folder: Path) -> Iterator[Path]:
    try:
        yield from (p for p in folder.iterdir() if p.name.startswith(("models--", "datasets--")))
    except OSError:
        return


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main(argv: Sequence[str]) -> int:
    """Reads a request, writes the answer beside it."""
    request = record.read(Path(argv[0])) or {}
    found = checks(build(Request, request))
    record.write(Path(argv[1]), {"checks": [plain(check) for check in found]})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
