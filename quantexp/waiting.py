"""How far a wait is, on standard error: a bar in a terminal, now and then a line in a log.

The first seconds are silent, so that what is quick says nothing. Cells tell their progress by
``status.json`` instead, which every shell can watch.
"""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

_SILENT, _EVERY = 3.0, 10.0  # seconds before the first word, and between lines of a log
T = TypeVar("T")


def track(items: Sequence[T] | Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, while it is said how many are done.

    Args:
        items: What is worked on.
        what: Their name, in the plural: ``cells``.
        total: Their number, where they have no length.
    """
    count = len(items) if isinstance(items, Sequence) else total
    with Waiting(what, count) as told:
        for done, item in enumerate(items):
            told(done)
            yield item


class Waiting:
    """A wait as a context manager; called with what is done, and with the total once it is known.

    Args:
        what: What is counted.
        total: How many there are, if that is known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __call__(self, done: int, total: int | None = None) -> None:
        """Notes the number of finished items; cheap."""
        self.done = done
        self.total = self.total if total is None else total

    def __enter__(self) -> "Waiting":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def line(self) -> str:
        """``cells 3/12, eta 40s``: from the time that the finished ones took."""
        of = f"/{self.total}" if self.total is not None else ""
        if not self.done or self.total is None:
            return f"{self.what} {self.done}{of}"
        passed = time.monotonic() - self._began
        eta = passed / self.done * (self.total - self.done)
        return f"{self.what} {self.done}{of}, eta {duration(max(eta, 0.0))}"

    def _show(self) -> None:
        if self._over.wait(_SILENT):
            return
        if not sys.stderr.isatty():
            print(self.line(), file=sys.stderr, flush=True)
            while not self._over.wait(_EVERY):
                print(self.line(), file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        def drawn() -> Table:
            grid = Table.grid(padding=(0, 1))
            # without a total the bar moves, which is all that can be said
            bar = ProgressBar(self.total, self.done, width=30, pulse=self.total is None)
            grid.add_row(bar, self.line())
            return grid

        console = Console(file=sys.stderr)
        with Live(console=console, transient=True, get_renderable=drawn, refresh_per_second=4):
            self._over.wait()


def duration(seconds: float) -> str:
    """``40s``, ``1m05s``, ``2h03m``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
