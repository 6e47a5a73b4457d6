"""A sweep of 24 cells against 24 separate runs: CPU seconds after imports, at equal concurrency.

``python benchmarks/sweep.py [--methods …] [--bits 6] [--json FILE]``: the demo model, four methods
and six bit settings unless told otherwise, one job at a time. Both sides do the same cells and end
with equal records, which is checked. From the CPU seconds of all processes the imports are
subtracted: those of one process that only imports, times the number of processes.
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
        together = Path(folder) / "together"
        sweep = work(together, [grid], job, client)
        single = [(f"method={m}", f"bits={b}") for m, b in product(arguments.methods, bits)]
        apart = Path(folder) / "apart"
        # a single cell runs in the process of its command
        runs = work(apart, [*single, ("method=none", "bits=w16a16")], job, both)
        assert values(together) == values(apart), "the two sides differ"
    print(f"\n{len(single)} cells and their baseline, CPU seconds (a job's imports: {job:.1f})")
    for name, seconds in (("a sweep", sweep), ("separate runs", runs)):
        print(f"{name:16}{seconds:8.1f}")
    print(f"{'ratio':16}{sweep / runs:8.2f}   goal 0.6")
    if arguments.json:
        found = {"cells": len(single), "sweep": sweep, "runs": runs, "ratio": sweep / runs}
        arguments.json.write_text(json.dumps(found, indent=1))


def work(outputs: Path, commands: list[tuple[str, ...]], job: float, command: float) -> float:
    """CPU seconds of these commands and their jobs, without imports.

    Args:
        outputs: Where records go.
        commands: Arguments of each.
        job: Seconds of imports of a job's process.
        command: Of a command's.
    """
    before = cpu()
    for arguments in commands:
        run(["-m", "quantexp", *arguments, *COMMON, f"paths.outputs={outputs}"])
    processes = len(list(outputs.glob("sweeps/*/jobs/*_submitted.pkl")))
    return cpu() - before - processes * job - len(commands) * command


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
