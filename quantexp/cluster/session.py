"""One command from composed configurations to the final table, the same for one cell and many."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from quantexp.cluster.place import resolve
from quantexp.config import ExperimentConfig, from_plain
from quantexp.errors import CellError, ConfigError, QuantexpError
from quantexp.experiment import plan as planning
from quantexp.experiment import preflight, status
from quantexp.experiment.cell import Cell
from quantexp.experiment.estimate import lacking
from quantexp.experiment.fetch import fetch
from quantexp.experiment.outputs import option
from quantexp.experiment.plan import Plan
from quantexp.protocols import official
from quantexp.tracking.mirror import mirror_sweep


def run_one(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Runs one cell in this process; with ``cluster=slurm`` as a job.

    Args:
        data: A composed configuration, plain.
        overrides: Its overrides, for messages.

    Raises:
        ConfigError: The cell cannot run; nothing was done.
        CellError: It ran and failed.
    """
    configs = checked([data], [overrides])
    if configs[0].cluster.name == "slurm":
        if run_sweep(configs, overrides, baselines=False).failed:
            raise CellError("the cell is not done")
        return
    made = planning.make(configs, baselines=False)
    console = Console()
    _announce(made, None, console)
    _fetch(made)
    planning.queue(made)
    _run(made, None, console)
    _summarize(made, None, console)
    if made.failed:
        raise CellError(f"cell {made.failed[0].id} failed")


def run_sweep(
    configs: Sequence[ExperimentConfig],
    overrides: Sequence[str],
    name: str | None = None,
    baselines: bool = True,
) -> Plan:
    """Runs a grid with the baseline of each model.

    Args:
        configs: The grid's configurations, checked.
        overrides: What the command line said, grids included.
        name: Of the sweep; without one it is made from the overrides.
        baselines: Whether the unquantized cells are added.

    Returns:
        The plan; its ``failed`` holds the cells that are not done.

    Raises:
        Detached: The jobs are submitted, and nobody waits for them.
    """
    cluster = configs[0].cluster
    place = resolve(cluster.name)
    if cluster.detach and place != "slurm":
        raise ConfigError(
            f"cluster.detach=true needs SLURM, and this runs with cluster={place}: leave it out, "
            "or start the command with nohup or in tmux"
        )
    made = planning.make(configs, baselines=baselines)
    name = name or planning.sweep_name(configs[0].name, overrides)
    folder = made.cells[0].outputs / "sweeps" / name
    console = Console()
    _announce(made, name, console)
    if found := obstacles(made, place):
        raise ConfigError("\n       ".join([*found, "nothing was started"]))
    _fetch(made)
    if place == "slurm":
        from quantexp.cluster import remote

        remote.run(made, folder, overrides, console)
    else:
        planning.write(made, folder, overrides)
        _run(made, folder if place == "local" else None, console)
    _summarize(made, name, console)
    mirror_sweep(made.cells[0].outputs, name, configs[0].tracker)
    return made


def obstacles(made: Plan, place: str) -> list[str]:
    """Why a plan as a whole cannot run: the disk is too small, or no node has what jobs ask for.

    Raises:
        ConfigError: SLURM does not answer.
    """
    found = [lacking(made.jobs, made.cells[0].outputs)] if made.jobs else []
    if place == "slurm":
        from quantexp.cluster import limits

        found += limits.refused(cell for work in made.jobs for cell in work.cells)
    return [text for text in found if text]


@dataclass(frozen=True)
class Checked:
    """Configurations that can run, and why the others cannot: reason → the cells it concerns."""

    configs: list[ExperimentConfig]
    refused: dict[str, list[str]]


def check(
    grid: Sequence[dict[str, Any]],
    overrides: Sequence[Sequence[str]],
    asked: Sequence[Sequence[str]] | None = None,
) -> Checked:
    """Reads and checks every configuration.

    Args:
        grid: Composed configurations, plain.
        overrides: The overrides of each, which is how messages call it.
        asked: Those of them that a protocol must not contradict; ``None``: all.
    """
    common = set.intersection(*(set(own) for own in overrides))
    configs: list[ExperimentConfig] = []
    refused: dict[str, list[str]] = {}
    for data, own, wanted in zip(grid, overrides, asked or overrides, strict=True):
        try:
            config = from_plain(data)
            found = [*official.conflicts(config, wanted), *preflight.problems(Cell(config))]
        except QuantexpError as error:
            found = [str(error)]
        for reason in found:
            name = " ".join(o for o in own if o not in common) or " ".join(own)
            refused.setdefault(reason, []).append(name)
        if not found:
            configs.append(config)
    return Checked(configs, refused)


def checked(
    grid: Sequence[dict[str, Any]],
    overrides: Sequence[Sequence[str]],
    asked: Sequence[Sequence[str]] | None = None,
) -> list[ExperimentConfig]:
    """:func:`check` before any work: all cells can run, or nothing is started.

    Raises:
        ConfigError: All reasons, each with the cells it concerns.
    """
    outcome = check(grid, overrides, asked)
    if not outcome.refused:
        return outcome.configs
    if len(grid) == 1:
        raise ConfigError("\n       ".join(outcome.refused))
    bad = len(grid) - len(outcome.configs)
    lines = [f"{bad} of {len(grid)} cells cannot run; nothing was started"]
    for reason, names in outcome.refused.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines += [f"  {reason}", *(f"    in {name}" for name in names[:3])]
        lines[-1] += more
    raise ConfigError("\n".join(lines))


def _announce(made: Plan, name: str | None, console: Console) -> None:
    total, done = len(made.cells), len(made.done)
    _say(console, f"outputs  {made.cells[0].outputs.resolve()}")
    if name is not None:
        _say(console, f"sweep    {name}")
    _say(console, f"cells    {total} ({done} done, {total - done} to run)")


def _fetch(made: Plan) -> None:
    fetch(cell for work in made.jobs for cell in work.cells)


def _run(made: Plan, folder: Path | None, console: Console) -> None:
    """Runs the jobs here: in processes where there is a folder for them, else in this one."""
    if not made.jobs:
        return
    from quantexp.cluster import job
    from quantexp.cluster.needs import BOTH
    from quantexp.cluster.watch import Watch

    cluster = made.cells[0].config.cluster
    cells = [cell for work in made.jobs for cell in work.cells]
    with Watch(list(dict.fromkeys(cell.folder for cell in cells)), console):
        if folder is not None:
            from quantexp.cluster.local import run_jobs

            run_jobs(made.jobs, cluster, folder / "jobs")
            return
        for work in made.jobs:
            whole = job.part(BOTH, work.cells, work.cells)
            job.perform([whole], job.environment(work.cells, cluster))


def _summarize(made: Plan, name: str | None, console: Console) -> None:
    from quantexp.report.averages import with_averages
    from quantexp.report.collect import collect
    from quantexp.report.table import print_table

    ids = {cell.id for cell in made.cells}
    rows = with_averages(collect(made.cells[0].outputs, name))
    print_table([row for row in rows if row.cell in ids], console)
    failed = made.failed
    for cell in failed:
        data = status.read(cell.folder)
        why = data.get("cause") or data["state"]
        _say(console, f"not done {cell.id}: {str(why).strip().splitlines()[0]}")
        _say(console, f"         {cell.folder}/status.json")
    root = made.cells[0].outputs
    sweep, there = f" --sweep {name}" if name else "", option(root)
    _say(console, f"records  {root.resolve() / 'cells'}")
    _say(console, f"again    python -m quantexp report{sweep}{there} [--format md|latex|csv|json]")
    if len(failed) < len(made.cells):
        page = f"python -m quantexp report{sweep}{there} --format html --to page.html"
        _say(console, f"look     {page}")
        _say(console, f"draw     python -m quantexp figures{f' {name}' if name else ''}{there}")
    if failed:
        _say(console, f"{len(failed)} of {len(made.cells)} cells failed; the same command retries")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
