"""``tuning.json`` of a sweep: the trials of a sweeper that searches, batch after batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantexp.experiment import record


def note(folder: Path, objective: str, trials: Sequence[dict[str, Any]]) -> None:
    """Adds trials, and keeps the cells of earlier batches in ``sweep.json``.

    Args:
        folder: Of the sweep, whose batch has just run.
        objective: What the sweeper got back.
        trials: ``cell overrides value`` of each.
    """
    before = record.read(folder / "tuning.json") or {"trials": [], "cells": []}
    sweep = record.read(folder / "sweep.json")
    assert sweep is not None
    cells = list(dict.fromkeys([*before["cells"], *sweep["cells"]]))
    known = {trial["cell"]: trial for trial in [*before["trials"], *trials]}
    record.write(
        folder / "tuning.json",
        {"objective": objective, "trials": list(known.values()), "cells": cells},
    )
    record.write(folder / "sweep.json", {**sweep, "cells": cells})
