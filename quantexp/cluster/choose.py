"""What people call a sweep or a cell on the command line → its jobs."""

import argparse
from pathlib import Path

from quantexp.cluster import submitted
from quantexp.cluster.submitted import Task
from quantexp.errors import ConfigError, did_you_mean, unknown
from quantexp.experiment import outputs
from quantexp.usage import description

_MANY = 20  # names that a message lists


def parser(command: str, text: str | None, what: str) -> argparse.ArgumentParser:
    """The parser of a command that is told a sweep or a cell."""
    made = argparse.ArgumentParser(f"python -m quantexp {command}", description=description(text))
    made.add_argument("name", metavar=what, help="its name; of a cell a part (rtn-w4a4) is enough")
    outputs.add_argument(made)
    made.add_argument("--json", action="store_true", help="for programs")
    return made


def cell(folder: Path, name: str) -> Path:
    """The folder of a cell by its name, or by whole parts of it (``rtn-w4a4``) that only one has.

    Raises:
        ConfigError: No cell has it, or several.
    """
    every = outputs.cells(folder)
    found = [path for path in every if f"-{name}-" in f"-{path.name}-"]
    found = [path for path in found if path.name == name] or found
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(path.name for path in found[:5])
        raise ConfigError(f"'{name}' is in the names of {len(found)} cells: {several}; give more")
    where = folder.resolve()
    if not every:
        raise ConfigError(
            f"unknown cell '{name}': {where} holds no cell yet; --outputs names another"
        )
    names = [path.name for path in every]
    if len(names) > _MANY:
        hint = f"{did_you_mean(name, names)}{where} holds {len(names)} cells, which"
        raise ConfigError(f"unknown cell '{name}': {hint} 'python -m quantexp status' lists")
    raise ConfigError(f"{unknown('cell', name, names)} (in {where})")


def tasks(folder: Path, name: str) -> list[Task]:
    """The tasks of a sweep, or those that a cell is in.

    Raises:
        ConfigError: There is neither.
    """
    if (folder / "sweeps" / name / "sweep.json").exists():
        return submitted.tasks(folder, name)
    try:
        wanted = cell(folder, name).name
    except ConfigError as error:
        sweeps = sorted(path.parent.name for path in (folder / "sweeps").glob("*/sweep.json"))
        raise ConfigError(f"{error}; sweeps: {', '.join(sweeps) or 'none'}") from error
    return [task for task in submitted.tasks(folder) if wanted in task.cells]
