"""What a table shows and how it is laid out, as asked for on the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from quantexp.errors import ConfigError, unknown
from quantexp.values import one_of

DIMENSIONS = ("model", "protocol", "method", "bits", "dataset")


@dataclass(frozen=True)
class View:
    """Options of the table.

    ``rows`` and ``cols`` are :data:`DIMENSIONS`. One that is named in neither stands in the rows,
    where it says something; the data set stands in the columns. ``metric`` keeps these metrics
    only. ``published`` shows the papers' values, ``published_rows`` their methods that we lack.
    """

    rows: tuple[str, ...] = ()
    cols: tuple[str, ...] = ()
    metric: tuple[str, ...] = ()
    published: bool = True
    published_rows: bool = False
    significance: bool = False

    def __post_init__(self) -> None:
        for name in (*self.rows, *self.cols):
            one_of("dimension of a table", name, DIMENSIONS)
        named = [*self.rows, *self.cols]
        if twice := {name for name in named if named.count(name) > 1}:
            raise ConfigError(
                f"--rows and --cols name {', '.join(sorted(twice))} twice: name each dimension once"
            )


def names(text: str | None) -> tuple[str, ...]:
    """``model,method`` → its names."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def only(metric: Sequence[str], found: Sequence[str]) -> None:
    """Refuses metrics that no record has.

    Raises:
        ConfigError: Such a metric; the nearest is offered.
    """
    for name in metric:
        if found and name not in found:
            raise ConfigError(unknown("metric", name, set(found)))
