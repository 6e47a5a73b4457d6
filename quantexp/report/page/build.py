"""Puts the page together: template, styles, program and data in one file without a network."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from quantexp import __version__
from quantexp.report.collect import Row
from quantexp.report.layout import Grid
from quantexp.report.page import bars, details, html, plots
from quantexp.report.page.measured import measured

# one program in the page; it ends by drawing, and where it is served by asking for news
_PROGRAM = ("table", "details", "charts", "maps", "state", "sections")
_TALL = 60  # rows from which on the table scrolls in its own box


def page(
    rows: Sequence[Row], grid: Grid, outputs: Path, sweep: str | None = None, live: bool = False
) -> str:
    """The page of a sweep or of a whole outputs folder; equal records give equal pages.

    A content security policy lets nothing but the page's own style and program run and nothing be
    loaded, whatever stands in a record.

    Args:
        rows: What the table was made from.
        grid: The table.
        outputs: The folder of the records.
        sweep: Its name; ``None`` for everything.
        live: Whether it is served and asks its server for news.
    """
    place: dict[str, int] = {}
    for n, cells in enumerate(grid.cells):
        for cell in cells:
            place.setdefault(cell, n)
    accuracies, bars_are = bars.accuracy(rows, place)
    flatness = measured(outputs, sweep, rows, place)
    data = {
        "rows": grid.cells,
        "pareto": plots.pareto(rows, place),
        "blocks": plots.blocks(rows, place),
        "accuracy": accuracies,
        "cost": bars.cost(rows, place),
        "kronecker": bars.kronecker(rows, place),
        "channels": flatness["channels"],
        "surface": flatness["surface"],
        "maps": flatness["maps"],
        **details.cells(outputs, rows, list(place)),
    }
    # "</script>" in a record must not end the element
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    css, js = _file("page.css"), program(live)
    states = Counter({row.cell: row.status for row in rows}.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    updated = max((row.updated for row in rows), default="")
    when = f", last change {updated[:16].replace('T', ' ')} UTC" if updated else ""
    return Template(_file("template.html")).substitute(
        title=escape(f"{sweep}: results" if sweep else "quantexp results"),
        summary=escape(
            f"{sum(states.values())} cells: {counts}{when}" if states else "no cells yet"
        ),
        policy=f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(js)}'; "
        "base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if live else ""),
        live='<p id="live" class="soft" role="status">Live: it loads again as records change.</p>\n'
        if live
        else "",
        css=css,
        js=js,
        tall=" tall" if grid.height > _TALL else "",
        table=html.table(grid),
        notes=html.notes(grid),
        accuracy=escape(bars_are.capitalize()),
        where=escape(flatness["where"]),
        missing=f'<p>FlatQuant\'s figures 1 and 2 need the model once:</p>\n<pre tabindex="0">'
        f"{escape(flatness['missing'])}</pre>"
        if flatness["missing"]
        else "",
        footer=escape(f"Made by quantexp {__version__} from JSON records."),
        data=text,
    )


def program(live: bool) -> str:
    """The page's JavaScript."""
    parts = "".join(_file(f"{name}.js") for name in (*_PROGRAM, *(["live"] if live else [])))
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


@cache
def _file(name: str) -> str:
    return files("quantexp.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
