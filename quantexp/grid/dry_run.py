"""``--dry-run``: the plan of a command. It starts nothing, writes nothing and fetches nothing."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console

from quantexp.cluster import session
from quantexp.cluster.place import resolve
from quantexp.experiment import estimate
from quantexp.experiment import plan as planning
from quantexp.experiment.cell import Cell
from quantexp.grid.command import Grid

# A model or text that is not on this machine is reported, not downloaded.
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def show(grid: Grid, sweep: bool, as_json: bool) -> int:
    """Prints what the command would do.

    Args:
        grid: Its cells.
        sweep: Whether it is a sweep: the baselines of its models belong to it.
        as_json: As one JSON object instead of lines.

    Returns:
        0, or 2 where a cell cannot run: the command itself would be refused.
    """
    with _offline():
        checked = session.check(grid.data, grid.overrides, grid.asked)
        made = planning.make(checked.configs, baselines=sweep) if checked.configs else None
        plan = describe(grid, checked, made, sweep)
    if as_json:
        print(json.dumps(plan, indent=1))
    else:
        _print(plan)
    return 2 if plan["invalid"] or plan["obstacles"] else 0


def describe(
    grid: Grid, checked: session.Checked, made: planning.Plan | None, sweep: bool
) -> dict[str, Any]:
    """The plan as plain data; ``obstacles`` are of the whole, ``invalid`` are single cells."""
    place = resolve(made.cells[0].config.cluster.name) if made else "local"
    jobs = made.jobs if made else ()
    times = estimate.History(made.cells[0].outputs) if made else None
    figures = {id(cell): _figures(cell, times) for job in jobs for cell in job.cells if times}
    number = {id(cell): i for i, job in enumerate(jobs, 1) for cell in job.cells}
    return {
        "sweep": grid.name if sweep else None,
        "note": grid.note,
        "outputs": str(made.cells[0].outputs.resolve()) if made else None,
        "cells": [
            {
                "cell": cell.id,
                "state": "to run" if id(cell) in number else "done",
                "job": number.get(id(cell)),
                "missing": [e.file_name for e in cell.missing],
                **figures.get(id(cell), {}),
            }
            for cell in (made.cells if made else ())
        ],
        "jobs": len(jobs),
        "place": place,
        "obstacles": session.obstacles(made, place) if made else [],
        "estimate": _total(made, list(figures.values())) if made and jobs else None,
        "invalid": [{"reason": r, "cells": list(c)} for r, c in checked.refused.items()],
    }


def _figures(cell: Cell, times: estimate.History) -> dict[str, Any]:
    memory = estimate.memory(cell)
    return {"host_bytes": memory.host, "gpu_bytes": memory.gpu, "seconds": times.seconds(cell)}


def _total(made: planning.Plan, figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all jobs: the largest cell's memory; disk, files and time as sums."""
    outputs = made.cells[0].outputs
    disk = estimate.disk(made.jobs)
    known = [f["seconds"] for f in figures if f["seconds"] is not None]
    return {
        "host_bytes": max(f["host_bytes"] for f in figures),
        "gpu_bytes": max(f["gpu_bytes"] for f in figures),
        "disk_bytes": disk.bytes,
        "disk_free_bytes": estimate.free_bytes(outputs),
        "files": disk.files,
        "seconds": sum(known),
        "cells_of_unknown_time": len(figures) - len(known),
    }


def _print(plan: dict[str, Any]) -> None:
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    cells: Sequence[dict[str, Any]] = plan["cells"]
    if plan["outputs"]:
        say(f"outputs  {plan['outputs']}")
    if plan["sweep"]:
        say(f"sweep    {plan['sweep']}")
    if plan["note"]:
        say(f"note     {plan['note']}")
    done = sum(cell["state"] == "done" for cell in cells)
    say(f"cells    {len(cells)} ({done} done, {len(cells) - done} to run in {plan['jobs']} jobs)")
    for cell in cells:
        job = f"job {cell['job']}" if cell["job"] else ""
        say(f"  {cell['state']:<7} {job:<8} {cell['cell']}")
    if plan["estimate"]:
        for line in _said(plan["estimate"]):
            say(line)
    for text in plan["obstacles"]:
        say(f"refused  {text}")
    if not plan["invalid"]:
        if not plan["obstacles"]:
            say("next     the same command without --dry-run")
        return
    bad = {name for item in plan["invalid"] for name in item["cells"]}
    say(f"refused  {len(bad)} more cells cannot run as things are; a dry run downloads nothing")
    for item in plan["invalid"]:
        say(f"  {item['reason']}")
        for name in item["cells"]:
            say(f"    in {name}")


def _said(total: dict[str, Any]) -> Iterator[str]:
    size = estimate.readable_size
    gpu, host = size(total["gpu_bytes"]), size(total["host_bytes"])
    yield f"memory   about {gpu} of a GPU and {host} of the host for the largest cell"
    free = size(total["disk_free_bytes"])
    yield f"disk     about {size(total['disk_bytes'])} in {total['files']} files ({free} free)"
    unknown, known = total["cells_of_unknown_time"], total["seconds"]
    parts = [f"{timedelta(seconds=round(known))} by earlier records"] if known else []
    parts += [f"unknown for {unknown} cells (nothing alike ran before)"] if unknown else []
    yield f"time     {', '.join(parts)}; summed over jobs"


@contextmanager
def _offline() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
