"""``python -m quantexp report``: the table of what there is, from records alone."""

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Prints the results of an outputs folder to standard output.

    Args:
        argv: The arguments after ``report``.

    Returns:
        0 with results; 1 where there are none yet (``[]`` as JSON).

    Raises:
        ConfigError: There is no sweep of that name.
    """
    arguments = _parser().parse_args(argv)
    # after the parser: --help needs none of it
    from rich.console import Console

    from quantexp.report import table
    from quantexp.report.averages import with_averages
    from quantexp.report.collect import collect

    outputs = Path(arguments.outputs)
    rows = with_averages(collect(outputs, arguments.sweep))
    if arguments.format == "json":
        sys.stdout.write(table.to_json(rows))
    elif arguments.format == "csv" and rows:
        sys.stdout.write(table.to_csv(rows))
    elif arguments.format == "md" and rows:
        sys.stdout.write(table.markdown(rows))
    elif rows:
        table.print_table(rows, Console())
    if not rows:
        print(
            f"no results in {outputs} yet: run `python -m quantexp method=rtn bits=w4a4 -m` first, "
            "or name another folder with --outputs",
            file=sys.stderr,
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp report",
        description="Shows results: methods × metrics, the baseline first, the best of each bit "
        "setting in bold. Cells that are not finished show their state.",
        epilog="exit code: 0 results were shown, 1 there are none yet, 2 wrong argument",
    )
    parser.add_argument("--sweep", metavar="NAME", help="only the cells of this sweep")
    parser.add_argument(
        "--format",
        choices=("md", "csv", "json"),
        help="Markdown table, or one row per value as CSV or JSON "
        "(default: a drawn table in a terminal, else md)",
    )
    parser.add_argument(
        "--outputs",
        metavar="DIR",
        default=os.environ.get("QUANTEXP_OUTPUTS") or "./outputs",
        help="folder of the results (default: $QUANTEXP_OUTPUTS or ./outputs)",
    )
    return parser
