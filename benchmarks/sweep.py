"""A sweep of 24 cells against 24 separate runs: CPU seconds after imports, at equal concurrency.

``python benchmarks/sweep.py [--methods …] [--bits 6] [--json FILE]``: the demo model, four methods
and six bit settings unless told otherwise, one job at a time. All sides do the same cells and end
with equal records, which is checked. Separate commands in one folder find what others calibrated;
those in folders of their own have nothing in common. From the CPU seconds of all processes the
imports are subtracted: those of one process that only imports, times the number of processes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from runner import IMPORTS

METHODS = ("rtn", "gptq", "smoothquant", "awq")
BITS = ("w4a16", "w3a16", "w8a8", "w6a6", "w4a8", "w2a16g64")
COMMON = ("data.num_samples=16", "evaluation.max_windows=8", "cluster=local", "cluster.max_jobs=1")
COMMON += ("cluster.threads=1", "tracker=none")
CLIENT = "import hydra, omegaconf, rich.console, quantexp.application, quantexp.cluster.local"


def main() -> None:
    """Measures, prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--bits", type=int, default=len(BITS), help="how many of them")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    bits = BITS[: arguments.bits]
    job, client, both = (imports(code) for code in (IMPORTS, CLIENT, f"{IMPORTS}; {CLIENT}"))
    with tempfile.TemporaryDirectory(prefix="quantexp-") as folder:
        grid = (f"method={','.join(arguments.methods)}", f"bits={','.join(bits)}", "-m")
        together, one_by_one, apart = (Path(folder) / name for name in ("t", "o", "a"))
        sweep = work(together, grid) - jobs(together) * job - client
        single = [(f"method={m}", f"bits={b}") for m, b in product(arguments.methods, bits)]
        runs = [*single, ("method=none", "bits=w16a16")]
        # a single cell runs in the process of its command
        found = sum(work(one_by_one, cell) - both for cell in runs)
        alone = sum(work(apart / str(i), cell) - both for i, cell in enumerate(runs))
        assert values(together) == values(one_by_one), "the sides differ"
        assert values(together) == {k: v for i in apart.iterdir() for k, v in values(i).items()}
    print(f"\n{len(single)} cells and their baseline, CPU seconds (a job's imports: {job:.1f})\n")
    print(f"{'a sweep':44}{sweep:8.1f}   sweep / these, goal 0.6")
    for name, seconds in (
        ("commands that find each other's calibrations", found),
        ("commands, each in a folder of its own", alone),
    ):
        print(f"{name:44}{seconds:8.1f}{sweep / seconds:8.2f}")
    if arguments.json:
        sides = {"cells": len(single), "sweep": sweep, "one folder": found, "apart": alone}
        arguments.json.write_text(json.dumps(sides, indent=1))


def work(outputs: Path, arguments: tuple[str, ...]) -> float:
    """CPU seconds of a command and its jobs."""
    before = cpu()
    run(["-m", "quantexp", *arguments, *COMMON, f"paths.outputs={outputs}"])
    return cpu() - before


def jobs(outputs: Path) -> int:
    """How many processes had the jobs of a folder's sweeps."""
    return len(list(outputs.glob("sweeps/*/jobs/*_submitted.pkl")))


def imports(code: str) -> float:
    """CPU seconds of a process that does nothing else; the less of two."""
    found = []
    for _ in range(2):
        before = cpu()
        run(["-c", code])
        found.append(cpu() - before)
    return min(found)


def run(arguments: list[str]) -> None:
    """A Python process with one thread, to its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def cpu() -> float:
    """CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def values(outputs: Path) -> dict[str, float]:
    """Value of each record, by cell and file."""
    records = outputs.glob("cells/*/evaluations/*.json")
    return {f"{p.parts[-3]}/{p.name}": json.loads(p.read_text())["value"] for p in records}


if __name__ == "__main__":
    main()
