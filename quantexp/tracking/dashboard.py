"""``python -m quantexp dashboard``: a W&B workspace and report for a project, made by code.

Results against bits and method, curves against blocks and epochs, and the runs grouped by method:
what a team would otherwise click together. Needs ``pip install 'quantexp[dashboard]'``, a key and
a network.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantexp import usage
from quantexp.errors import ConfigError
from quantexp.experiment.outputs import add_argument
from quantexp.report.averages import with_averages
from quantexp.report.collect import collect
from quantexp.tracking.content import results

_BLOCKS = {
    "block/mse": "Mean squared error of the block's output",
    "block/sqnr_db": "Signal to quantization noise (dB)",
    "block/seconds": "Calibration time (s)",
    "block/peak_memory_gib": "Peak memory (GiB)",
}
_COLUMNS = ("label", "bits", "protocol", "seed", "data_seed")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = usage.parser("dashboard", __doc__)
    made.add_argument("sweep", nargs="?", help="only results of this sweep (default: all)")
    add_argument(made)
    made.add_argument("--project", default="quantexp", help="W&B project (default: quantexp)")
    made.add_argument("--entity", default="", help="W&B team or user (default: the key's own)")
    return made


def main(argv: Sequence[str]) -> int:
    """Makes the workspace and the report, and prints where they are.

    Raises:
        ConfigError: The extra is not installed, there are no results, or W&B refused.
    """
    given = parser().parse_args(argv)
    keys = result_keys(given.outputs, given.sweep)
    if not keys:
        raise ConfigError(f"{given.outputs.resolve()} holds no results to lay out yet")
    title = f"quantexp {given.sweep}" if given.sweep else "quantexp"
    try:
        for make in (workspace, report):
            made = make(title, given.entity, given.project, keys, given.sweep)
            made.save()
            print(made.url)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'quantexp[dashboard]'"
        ) from error
    except Exception as error:  # the library raises plain exceptions for what a user can fix
        raise ConfigError(
            f"W&B did not take the dashboard ({str(error).splitlines()[0]}): check WANDB_API_KEY, "
            f"--entity, and that the project {given.project} exists (`python -m quantexp sync`)"
        ) from error
    print("both show what is online: new results get there by python -m quantexp sync")
    return 0


def result_keys(outputs: Path, sweep: str | None) -> list[str]:
    """Flat names of all results, perplexities first: ``wikitext2/ppl``, ``avg6/acc``."""
    found = results(with_averages(collect(outputs, sweep)))
    return sorted(found, key=lambda key: (not key.endswith("/ppl"), key))


def workspace(title: str, entity: str, project: str, keys: Sequence[str], sweep: str | None) -> Any:
    """The workspace: runs grouped by method, panels in three sections; nothing is sent."""
    import wandb_workspaces.workspaces as ws

    grid = _panels(keys)
    sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in grid.items()]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=title,
        sections=sections,
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("label")],
            filters=_filters(sweep),
            order=[ws.Ordering(ws.Summary(keys[0]), ascending=True)],
            pinned_columns=[
                *(f"config:{column}.value" for column in _COLUMNS),
                *(f"summary:{key}" for key in keys),
            ],
        ),
    )


def report(title: str, entity: str, project: str, keys: Sequence[str], sweep: str | None) -> Any:
    """The report: the same panels under headings, with the runs as a table; nothing is sent."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(
        project=project,
        entity=entity,
        name=sweep or "all cells",
        filters=_filters(sweep),
        groupby=["label"],
    )
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in _panels(keys).items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")


def _panels(keys: Sequence[str]) -> dict[str, list[Any]]:
    """Section → panels."""
    import wandb_workspaces.reports.v2 as wr

    against_bits = [
        wr.ScatterPlot(
            title=f"{key} against bits per weight",
            x=wr.SummaryMetric("effective_bits"),
            y=wr.SummaryMetric(key),
            log_y=key.endswith("/ppl"),
        )
        for key in keys
    ]
    by_method = [
        wr.BarPlot(title=key, metrics=[wr.SummaryMetric(key)], groupby=wr.Config("label"))
        for key in keys
    ]
    curves = [
        wr.LinePlot(title=title, x="block", y=[key], log_y=key == "block/mse")
        for key, title in _BLOCKS.items()
    ]
    learning = [wr.LinePlot(title="Loss by epoch", x="epoch", metric_regex="loss/.*", log_y=True)]
    return {"Results": [*by_method, *against_bits], "Blocks": curves, "Learning": learning}


def _filters(sweep: str | None) -> Any:
    """Cells only, not the runs of sweeps and checkpoints."""
    from wandb_workspaces.expr import And, Metric

    wanted = [Metric("JobType") != "sweep", Metric("JobType") != "checkpoint"]
    return And(*wanted, *([Metric("Group") == sweep] if sweep else []))
