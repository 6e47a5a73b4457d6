"""What cells are doing, from their ``status.json``: a live table, or plain lines in a log."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from quantexp.experiment import record, status
from quantexp.waiting import duration

_EVERY = 0.5  # seconds between two looks
_PER_SECOND = 2000  # records that are read at most, in the long run: a login node has other users
_COLUMNS = ("model", "method", "bits", "state", "progress", "loss", "eta", "try", "cause")
_FIELDS = (*_COLUMNS[:-2], "attempt", "cause")  # of a line
_STYLE = {
    status.DONE: "green",
    status.FAILED: "red",
    status.RUNNING: "cyan",
    status.INTERRUPTED: "yellow",
    status.QUEUED: "dim",
}


@dataclass(frozen=True)
class Line:
    """One cell as people read it; all fields are text."""

    cell: str
    model: str
    method: str
    bits: str
    state: str
    progress: str
    loss: str
    eta: str
    attempt: str
    cause: str


def read(folder: Path, note: str = "", described: Mapping[str, Any] | None = None) -> Line:
    """The line of a cell's folder.

    Args:
        folder: The cell's.
        note: What SLURM says of its job; shown where the cell itself says nothing.
        described: Its ``cell.json``, where that was read before.
    """
    described = described or record.read(folder / "cell.json") or {}
    data = status.read(folder)
    state = str(data["state"])
    running = state == status.RUNNING
    loss, eta = data.get("loss"), data.get("eta_s")
    cause = str(data.get("cause") or "") if state not in (status.DONE, status.RUNNING) else ""
    if note and state in (status.QUEUED, status.INTERRUPTED):
        cause = f"{cause}; {note}" if cause else note
    return Line(
        cell=folder.name,
        model=str(described.get("model", "")),
        method=str(described.get("label", "")),
        bits=str(described.get("bits", "")),
        state=state,
        progress=_progress(data) if state != status.DONE else "",
        loss=f"{loss:.3g}" if running and isinstance(loss, float) else "",
        eta=duration(eta) if running and isinstance(eta, int | float) else "",
        attempt=str(data.get("attempt") or ""),
        cause=cause.strip().split("\n")[0],
    )


def table(lines: Sequence[Line]) -> Table:
    """All cells as a table for a terminal."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS:
        grid.add_column(name, no_wrap=True, overflow="ellipsis")
    for line in lines:
        state = (
            f"[{_STYLE.get(line.state, '')}]{line.state}" if line.state in _STYLE else line.state
        )
        shown = (line.progress, line.loss, line.eta, line.attempt, line.cause)
        grid.add_row(line.model, line.method, line.bits, state, *map(_plain, shown))
    return grid


def plain_table(lines: Sequence[Line]) -> str:
    """All cells as text of fixed columns: rich takes a second for each two thousand lines."""
    rows = [_COLUMNS, *([getattr(line, name) for name in _FIELDS] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in padded)


class Watch:
    """Shows cells while the body of a ``with`` runs.

    On a terminal one table is redrawn in place; elsewhere (a log file, CI) every change of state
    and every finished step is one line.
    """

    def __init__(self, folders: Sequence[Path], console: Console) -> None:
        self._folders = list(folders)
        self._console = console
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)
        self._seen: dict[Path, tuple[str, str]] = {}
        self._described: dict[Path, dict[str, Any]] = {}
        self._done: dict[Path, Line] = {}  # nothing follows
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self.notes: dict[str, str] = {}  # by cell: what SLURM says of its job

    def __enter__(self) -> "Watch":
        lines = {folder: self._read(folder) for folder in self._folders}
        self._seen = {folder: (line.state, line.progress) for folder, line in lines.items()}
        if self._console.is_terminal:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._update()
        if self._console.is_terminal:
            self._live.stop()

    def _loop(self) -> None:
        while not self._stop.wait(max(_EVERY, self._open / _PER_SECOND)):
            self._update()

    @property
    def _open(self) -> int:
        return len(self._folders) - len(self._done)

    def _read(self, folder: Path) -> Line:
        if folder in self._done:
            return self._done[folder]
        described = self._described.get(folder) or record.read(folder / "cell.json") or {}
        self._described[folder] = described
        line = read(folder, self.notes.get(folder.name, ""), described)
        if line.state == status.DONE:
            self._done[folder] = line
        return line

    def _update(self) -> None:
        lines = [self._read(folder) for folder in self._folders]
        if self._console.is_terminal:
            self._live.update(table(lines), refresh=True)
            return
        for folder, line in zip(self._folders, lines, strict=True):
            now = (line.state, line.progress)
            if now != self._seen[folder]:
                self._seen[folder] = now
                self._console.print(_sentence(line), markup=False, highlight=False, soft_wrap=True)


def _sentence(line: Line) -> str:
    parts = [line.cell, line.state, line.progress]
    parts += [f"loss {line.loss}" if line.loss else "", f"eta {line.eta}" if line.eta else ""]
    return "  ".join(part for part in (*parts, line.cause) if part)


def _progress(data: dict[str, Any]) -> str:
    if not data.get("phase"):
        return ""
    return f"{data['phase']} {data.get('done')}/{data.get('total')}"


def _plain(text: str) -> str:
    """Without rich's markup: causes hold brackets."""
    return text.replace("[", "\\[")
