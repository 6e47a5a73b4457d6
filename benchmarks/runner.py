"""What the runner costs: planning, submitting, looking, reporting, and a cell beyond its own work.

``python benchmarks/runner.py`` needs nothing but the package; ``--slurm`` adds the SLURM that
answers here. Finished cells are made by the writers that real ones are written by, in a folder
that is removed again.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# One small cell; its calibration is real work, of which there is hardly any.
SMALL = ("data.num_samples=2", "data.seq_len=32", "evaluation.max_windows=2")
SMALL += ("evaluation.seq_len=32", "evaluation.block_error_windows=0", "tracker=none")
SMALL += ("cluster.threads=1", "method=smoothquant")
BITS = "bits=w4a4,w4a8,w4a16,w3a16,w2a16,w8a8,w6a6,kv4,kv2,w4a4kv4"
# what a job imports before its first cell
IMPORTS = "import submitit, quantexp.cluster.job, quantexp.experiment.calibrate, "
IMPORTS += "quantexp.experiment.evaluate, transformers.models.llama.modeling_llama, transformers"
IMPORTS += "; transformers.PreTrainedTokenizerFast"
# a cell without a runner
ALONE = """{imports}
import json, pathlib, torch, quantexp.experiment.run
torch.set_num_threads(1)
config = json.loads(pathlib.Path("{cell}").read_text())["config"]
config["paths"]["outputs"] = "{outputs}"
assert quantexp.experiment.run.run_cell(config)
"""
# Answers of a SLURM on which everything works, for what must not depend on a cluster's mood.
FAKE = """#!/bin/sh
case "$(basename "$0") $1 $2" in
  sbatch*) n=$(($(cat "$FAKE/n" 2>/dev/null || echo 100) + 1)); echo $n > "$FAKE/n"
           echo "Submitted batch job $n";;
  "scontrol show config") echo 'MaxArraySize = 1001';;
  "scontrol show partition") echo 'PartitionName=main Default=YES MaxTime=UNLIMITED';;
  "scontrol show node") echo 'NodeName=n1 CPUTot=64 RealMemory=512000 Partitions=main';;
  "scontrol ping "*) echo 'Slurmctld(primary) at localhost is UP';;
esac
"""


def main() -> None:
    """Measures, prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000, help="finished cells that are read")
    parser.add_argument("--only", metavar="A,B", help="plan, cached, read, overhead, notice")
    parser.add_argument("--slurm", action="store_true", help="notice: also on this machine's SLURM")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[Path], Iterator[tuple[str, float, float | None]]]] = {
        "plan": plan,
        "cached": cached,
        "read": lambda folder: read(folder, arguments.cells),
        "overhead": overhead,
        "notice": lambda folder: notice(folder, arguments.slurm),
    }
    rows = []
    print(f"{'':58}{'seconds':>9}{'of CPU':>9}{'bar':>7}")
    for name in (arguments.only or ",".join(parts)).split(","):
        with tempfile.TemporaryDirectory(prefix="quantexp-") as folder:
            before = children()
            for what, seconds, bar in parts[name](Path(folder)):
                cpu = children() - before
                rows.append({"what": what, "seconds": seconds, "cpu_seconds": cpu, "bar": bar})
                shown = "" if bar is None else f"{bar:g}"
                missed = "  missed" if bar is not None and seconds > bar else ""
                print(f"{what:58}{seconds:9.2f}{cpu:9.2f}{shown:>7}{missed}", flush=True)
                before = children()
    if arguments.json:
        machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "host": platform.machine()}
        machine["python"] = platform.python_version()
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def plan(folder: Path) -> Iterator[tuple[str, float, float | None]]:
    """One command that plans and submits 100 cells, from its start to its end."""
    tools = folder / "bin"
    tools.mkdir()
    for name in ("sbatch", "scontrol", "squeue", "sacct", "sacctmgr", "scancel", "srun", "sinfo"):
        (tools / name).write_text(FAKE)
        (tools / name).chmod(0o755)
    env = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "FAKE": str(folder)}
    grid = (BITS, "method.alpha=range(0.300,0.395,0.01)", "cluster=slurm", "cluster.detach=true")
    yield "plan 100 cells (--dry-run)", timed(folder, *grid, "-m", "--dry-run", env=env), None
    yield "plan and submit 100 cells", timed(folder, *grid, "-m", env=env), 5
    split = (*grid, "cluster.calibrate.time_min=9", "cluster.evaluate.time_min=8")
    split += (f"paths.outputs={folder / 'split'}",)
    yield "the same with calibrations apart", timed(folder, *split, "-m", env=env), 5


def cached(folder: Path) -> Iterator[tuple[str, float, float | None]]:
    """One command again whose 1,000 cells are done."""
    grid = (BITS, "method.alpha=range(0.300,0.495,0.01)", "data.seed=1,2,3,4,5")
    made = finished(folder, grid)
    words = (*grid, "cluster=local", "-m")
    yield f"plan {made} finished cells (--dry-run)", timed(folder, *words, "--dry-run"), 3
    yield f"{made} finished cells again, to the table", timed(folder, *words), None


def read(folder: Path, cells: int) -> Iterator[tuple[str, float, float | None]]:
    """Commands that read all records."""
    seeds = ",".join(map(str, range(max(1, cells // 1000))))
    made = finished(folder, (BITS, "method.alpha=range(0.01,1.005,0.01)", f"data.seed={seeds}"))
    where = ("--outputs", str(folder / "o"))
    yield f"status of {made} cells", command("status", *where), None
    yield f"status --json of {made} cells", command("status", "--json", *where), None
    yield f"report of {made} cells (md)", command("report", "--format", "md", *where), None
    yield f"report of {made} cells (json)", command("report", "--format", "json", *where), None
    yield f"report of {made} cells (html)", command("report", "--format", "html", *where), None


def overhead(folder: Path) -> Iterator[tuple[str, float, float | None]]:
    """What a job of one cell takes beyond a process that only imports and does its cell."""
    empty = min(alone(IMPORTS) for _ in range(3))
    yield "interpreter and imports of a job", empty, None
    grid = ("method.alpha=0.3,0.4,0.5,0.6", "bits=w4a4", "cluster=local", "cluster.max_jobs=1")
    first = timed(folder, *grid, "-m")
    again = timed(folder, *grid, "-m")
    cells = sorted((folder / "o").glob("cells/*/cell.json"))
    bare = sum(alone(ALONE.format(imports=IMPORTS, cell=c, outputs=folder / "p")) for c in cells)
    yield "own work of a cell", bare / len(cells) - empty, None
    yield f"overhead per cell ({len(cells)} jobs of one)", (first - again - bare) / len(cells), 1


def notice(folder: Path, slurm: bool) -> Iterator[tuple[str, float, float | None]]:
    """How long after its end a cell is shown as ended, with poll_s=1."""
    for place in ("local", *(["slurm"] if slurm else [])):
        where = folder / place
        words = (f"cluster={place}", "cluster.poll_s=1", "cluster.memory_gb=1", "bits=w4a4", "-m")
        lines = watched(where, words, lambda _: None)
        ends = {p.parent.name: p.stat().st_mtime for p in where.glob("o/cells/*/status.json")}
        late = [at - ends[cell] for at, cell, state in lines if state == "done"]
        yield f"a finished cell is noticed ({place})", max(late), 1
        killed: list[float] = []

        def kill(cell: Path, killed: list[float] = killed) -> None:
            status = json.loads((cell / "status.json").read_text())
            if not killed and status["state"] == "running" and "none" not in cell.name:
                psutil.Process(status["pid"]).kill()
                killed.append(time.time())

        slow = ("method=flatquant", "method.epochs=200", "data.num_samples=8", f"name={place}")
        lines = watched(where, (*words, *slow), kill)
        died = [at - killed[0] for at, _, state in lines if state == "failed"]
        yield f"a dead cell is noticed ({place})", max(died), 5


def watched(
    folder: Path, words: tuple[str, ...], look: Callable[[Path], None]
) -> list[tuple[float, str, str]]:
    """Runs a command; when it said what of which cell. ``look`` gets each cell's folder often."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    lines: list[tuple[float, str, str]] = []
    with log.open("w") as file:
        running = subprocess.Popen(
            _quantexp(folder, *words), stdout=file, stderr=subprocess.STDOUT, env=_environment()
        )
    with log.open() as file:
        while running.poll() is None:
            while line := file.readline():
                parts = line.split()
                if len(parts) > 1 and parts[1] in ("done", "failed"):
                    lines.append((time.time(), parts[0], parts[1]))
            for cell in (folder / "o").glob("cells/*"):
                if (cell / "status.json").exists():
                    look(cell)
            time.sleep(0.02)
    return lines


def finished(folder: Path, grid: tuple[str, ...]) -> int:
    """Cells that are done, as a real one left them; returns how many."""
    import torch

    from quantexp.calibration.checkpoint import QuantizedCheckpoint
    from quantexp.cluster import session
    from quantexp.experiment import calibrate, evaluate, plan, record
    from quantexp.experiment.cell import Cell
    from quantexp.experiment.run import is_calibrated, run_cell
    from quantexp.experiment.status import Status
    from quantexp.grid import command as grids
    from quantexp.resources import show_launcher

    torch.set_num_threads(1)
    show_launcher()
    words = [*SMALL, *grid, f"paths.outputs={folder / 'o'}", "name=many"]
    found = grids.anonymous(words)
    configs = session.checked(found.data, found.overrides, found.asked)
    made = plan.make(configs, baselines=True)
    with quick_writes():
        plan.write(made, folder / "o" / "sweeps" / "many", words)
        templates = {}
        for quantized in (False, True):
            cell = next(c for c in made.cells if c.quantized == quantized)
            assert run_cell(cell.describe()["config"])
            evaluations = {
                item.kind: json.loads((cell.folder / "evaluations" / item.file_name).read_text())
                for item in cell.evaluations
            }
            templates[quantized] = evaluations
        report = record.read(cell.checkpoint / "report.json")
        assert report is not None
        windows = torch.zeros(1, 2, dtype=torch.long)
        for cell in map(Cell, (c.config for c in made.cells)):
            if not is_calibrated(cell):
                checkpoint = QuantizedCheckpoint(cell.checkpoint)
                checkpoint.save_block(0, {"x": torch.zeros(1)}, {})
                names = ("blocks", "effective_bits", "seconds", "peak_memory_bytes")
                kept = {name: report[name] for name in names}
                calibrate.conclude(cell, checkpoint, 1, windows, kept)
            status = Status(cell.folder)
            for item in cell.missing:
                stored = templates[cell.quantized][item.kind]
                names = ("dtype", "stored_dtype", "seconds", "peak_memory_bytes")
                evaluate.store(
                    cell,
                    item,
                    {name: stored[name] for name in ("metric", "value", "details")},
                    {name: stored[name] for name in names},
                )
            status.finish()
    return len(made.cells)


@contextmanager
def quick_writes() -> Iterator[None]:
    """Without waiting for the disk after each of 50,000 files; that is not what is measured."""
    before, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = before


def timed(folder: Path, *words: str, env: dict[str, str] | None = None) -> float:
    """Seconds of a sweep's command."""
    return _timed(_quantexp(folder, *words), env)


def command(*words: str) -> float:
    """Seconds of another command."""
    return _timed([sys.executable, "-m", "quantexp", *words])


def children() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def alone(code: str) -> float:
    """Seconds of an interpreter that runs this."""
    return _timed([sys.executable, "-c", code], {"OMP_NUM_THREADS": "1"})


def _quantexp(folder: Path, *words: str) -> list[str]:
    where = [] if any(w.startswith("paths.") for w in words) else [f"paths.outputs={folder / 'o'}"]
    return [sys.executable, "-m", "quantexp", *SMALL, *where, *words]


def _timed(command: list[str], env: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(env))
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds


def _environment(more: dict[str, str] | None = None) -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "WANDB_MODE": "disabled", **(more or {})}


if __name__ == "__main__":
    main()
