"""``python -m quantexp figures``: figures of what there is, from records alone."""

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantexp.errors import ConfigError
from quantexp.experiment import record
from quantexp.experiment.outputs import add_argument, option
from quantexp.figures.draw import DATA, KINDS, draw, folder
from quantexp.values import one_of

FORMATS = ("png", "svg", "pdf")


def main(argv: list[str]) -> int:
    """Writes the figures that the records allow and prints each file.

    Args:
        argv: The arguments after ``figures``.

    Returns:
        0 with figures; 1 where there is nothing to draw.

    Raises:
        ConfigError: There is no sweep, kind, format or cell of that name.
        DataError: A file that ``--flatness`` needs is missing or damaged.
    """
    arguments = parser().parse_args(argv)
    kinds = _names("kind of figure", arguments.kind, tuple(KINDS))
    formats = _names("format", arguments.format, FORMATS)
    if arguments.block is not None and not arguments.flatness:
        raise ConfigError("--block says what --flatness measures: give both, or neither")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "figures are drawn by matplotlib, which is not installed: pip install matplotlib"
        )
    # after the parser: --help needs none of it
    from quantexp.figures.lines import MissingError
    from quantexp.figures.style import save
    from quantexp.report.averages import with_averages
    from quantexp.report.collect import collect

    outputs: Path = arguments.outputs
    rows = with_averages(collect(outputs, arguments.sweep))
    target = arguments.to or folder(outputs, arguments.sweep)
    if arguments.flatness:
        from quantexp.figures.choose import measure_cells

        data = measure_cells(outputs, arguments.flatness, arguments.block, arguments.sweep)
        record.write_signed(target / DATA, data)
        print(target / DATA)
    flatness = _measured(target / DATA)
    written = 0
    for kind in kinds:
        try:
            figure = draw(kind, rows, flatness)
        except MissingError as reason:
            print(f"{kind}: left out: {reason}", file=sys.stderr)
            continue
        for form in formats:
            save(figure, target / f"{kind}.{form}")
            print(target / f"{kind}.{form}")
            written += 1
    if not written:
        print(
            f"no figures of {outputs} yet: run `python -m quantexp method=rtn bits=w4a4 -m` first, "
            "or name another folder with --outputs",
            file=sys.stderr,
        )
        return 1
    sweep = f" --sweep {arguments.sweep}" if arguments.sweep else ""
    print(
        f"{written} files in {target}; all of it with hover: python -m quantexp report{sweep}"
        f"{option(outputs)} --format html --to page.html",
        file=sys.stderr,
    )
    return 0


def _measured(path: Path) -> Mapping[str, Any] | None:
    """What ``--flatness`` stored here before.

    Raises:
        ConfigError: The file was edited.
    """
    data = record.read(path)
    if data is not None and (data.get("kind") != "flatness" or record.altered(data)):
        raise ConfigError(f"{path} was edited or is no file of ours: remove it, measure it again")
    return data


def _names(what: str, text: str | None, allowed: Sequence[str]) -> tuple[str, ...]:
    """A comma list, all of them where there is none."""
    found = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for name in found:
        one_of(what, name, allowed)
    return found or tuple(allowed)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    kinds = "\n".join(f"  {name:<10} {kind.title}" for name, kind in KINDS.items())
    made = argparse.ArgumentParser(
        prog="python -m quantexp figures",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Draws finished cells, for papers and screens:\n\n{kinds}",
        epilog="channels and surface show what --flatness measured (FlatQuant's figures 1 and 2); "
        "it is kept\nbeside them and drawn again without a measurement.\n"
        "exit code: 0 figures were written, 1 there is nothing to draw yet, 2 wrong argument",
    )
    made.add_argument("sweep", nargs="?", metavar="SWEEP", help="only the cells of this sweep")
    made.add_argument("--kind", metavar="A,B", help="only these (default: all there is data for)")
    made.add_argument(
        "--format", metavar="A,B", help=f"of {','.join(FORMATS)} (default: all three)"
    )
    made.add_argument(
        "--to",
        metavar="FOLDER",
        type=Path,
        help="where they are written (default: OUTPUTS/sweeps/SWEEP/figures, or OUTPUTS/figures)",
    )
    add_argument(made)
    flatness = made.add_argument_group("channels and surface")
    flatness.add_argument(
        "--flatness",
        nargs="+",
        metavar="CELL",
        help="measure these cells of one model and bit setting (such as smoothquant-w4a4 "
        "flatquant-w4a4; a part of a name is enough) beside the model as it is and after a "
        "Hadamard transform; needs their checkpoints and loads the model, block by block",
    )
    flatness.add_argument(
        "--block", type=int, metavar="N", help="whose channels are shown (default: the middle one)"
    )
    return made
