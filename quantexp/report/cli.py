"""``python -m quantexp report``: the table of what there is, from records alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from quantexp.errors import ConfigError
from quantexp.experiment import record
from quantexp.experiment.outputs import add_argument, option
from quantexp.report.collect import Row
from quantexp.report.view import DIMENSIONS, View, names, only

FORMATS = ("md", "latex", "csv", "json", "html")


def main(argv: list[str]) -> int:
    """Prints the results of an outputs folder to standard output.

    Args:
        argv: The arguments after ``report``.

    Returns:
        0 with results; 1 where there are none yet (``[]`` as JSON).

    Raises:
        ConfigError: There is no sweep, cell, metric or dimension of that name.
        DataError: Two cells that are to be compared have no test set in common.
    """
    arguments = parser().parse_args(argv)
    if arguments.to is not None and (arguments.format is None or arguments.compare):
        raise ConfigError(f"--to needs --format, one of {', '.join(FORMATS)}, and no --compare")
    view = View(
        rows=names(arguments.rows),
        cols=names(arguments.cols),
        metric=names(arguments.metric),
        published=arguments.published,
        published_rows=arguments.published_rows,
        significance=arguments.significance,
    )
    # after the parser: --help needs none of it
    from quantexp.report.averages import with_averages
    from quantexp.report.collect import collect

    outputs = arguments.outputs
    rows = with_averages(collect(outputs, arguments.sweep))
    if arguments.best_by and rows:
        from quantexp.report.chosen import best_by

        rows = best_by(rows, arguments.best_by)
    if arguments.compare and rows:
        from quantexp.report.pair import compare_cells

        a, b = arguments.compare
        sys.stdout.write(compare_cells(rows, a, b, arguments.format))
        return 0
    only(view.metric, [row.metric for row in rows if row.metric])
    if view.metric:
        rows = [row for row in rows if row.metric in view.metric]
    text = _text(rows, arguments.format, view, outputs, arguments.sweep)
    if arguments.to is not None and rows:
        _save(arguments.to, text)
    else:
        sys.stdout.write(text)
    if rows and (arguments.to is not None or sys.stdout.isatty()):
        print(_next(arguments), file=sys.stderr)  # stdout is for the report
    if not rows:
        print(
            f"no results in {outputs} yet: run `python -m quantexp method=rtn bits=w4a4 -m` first, "
            "or name another folder with --outputs",
            file=sys.stderr,
        )
        return 1
    return 0


def _text(
    rows: Sequence[Row], form: str | None, view: View, outputs: Path, sweep: str | None
) -> str:
    """The report in a format; for the terminal it is drawn at once, and nothing is left to say."""
    from quantexp.report import table

    if form == "json":
        return table.to_json(rows, view)
    if not rows:
        return ""
    if form == "csv":
        return table.to_csv(rows)
    if form == "md":
        return table.markdown(rows, view)
    if form in ("latex", "html"):
        from quantexp.report.compare import compare
        from quantexp.report.layout import lay_out

        grid = lay_out(compare(rows, view), view)
        if form == "html":
            from quantexp.report.page.build import page

            return page(rows, grid, outputs, sweep)
        from quantexp.report.styled import to_latex

        return to_latex(grid)
    from rich.console import Console

    table.print_table(rows, Console(), view)
    return ""


def _next(arguments: argparse.Namespace) -> str:
    """What one would do with the report, or after it."""
    sweep = f" --sweep {arguments.sweep}" if arguments.sweep else ""
    there = option(arguments.outputs)
    if arguments.to is not None and arguments.format == "html":
        return f"open it in a browser; live: python -m quantexp serve{sweep}{there}"
    return f"as a page: python -m quantexp report{sweep}{there} --format html --to page.html"


def _save(path: Path, text: str) -> None:
    """Writes the report; a reader sees the old file or the new one, never a part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with record.replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--to {path}: {error.strerror}: name a file that can be written"
        ) from error
    print(path)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m quantexp report",
        description="Shows results: methods × metrics, the baseline first, the best of each bit "
        "setting in bold, the second underlined. Cells that are not finished show their state.",
        epilog="exit code: 0 results were shown, 1 there are none yet, 2 wrong argument",
    )
    made.add_argument("--sweep", metavar="NAME", help="only the cells of this sweep")
    made.add_argument(
        "--format",
        choices=FORMATS,
        help="a table in Markdown or LaTeX (booktabs), one HTML page with table, plots and details "
        "of each cell, or one row per value as CSV or JSON (default: a drawn table in a terminal, "
        "else md)",
    )
    made.add_argument(
        "--to", metavar="FILE", type=Path, help="write this file instead of standard output"
    )
    add_argument(made)
    shape = made.add_argument_group("layout")
    dimensions = ", ".join(DIMENSIONS)
    shape.add_argument("--rows", metavar="A,B", help=f"what stands in the rows: {dimensions}")
    shape.add_argument(
        "--cols",
        metavar="A,B",
        help="what stands in the columns, outermost first (default: dataset); --cols model,dataset "
        "is the shape of most papers",
    )
    shape.add_argument("--metric", metavar="A,B", help="only these metrics, for example ppl")
    shape.add_argument(
        "--best-by",
        metavar="OBJECTIVE",
        help="of each method's settings at equal bits only the one that does best by block_error "
        "(on the calibration windows) or validation/SET, marked ‡; never by a test set",
    )
    trust = made.add_argument_group("published values and significance")
    trust.add_argument(
        "--published",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="published values and the difference to them, where model, bits, protocol and set "
        "agree (default: yes)",
    )
    trust.add_argument(
        "--published-rows", action="store_true", help="also published methods without a cell here"
    )
    trust.add_argument(
        "--significance",
        action="store_true",
        help="mark with ≈ what is not significantly different from the best of its group (as JSON: "
        "the interval)",
    )
    trust.add_argument(
        "--compare",
        nargs=2,
        metavar=("CELL", "CELL"),
        help="instead of a table: ratio of perplexities (difference of accuracies) of two cells "
        "with its 95%% interval; a part of a cell's name is enough",
    )
    return made
