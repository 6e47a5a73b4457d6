"""Where ``conf/`` and ``sweeps/`` are: at a checkout's top level, or in the installed package."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).parent
GROUPS = ("model", "method", "bits", "data", "evaluation", "protocol", "cluster", "tracker")


def show_launcher() -> None:
    """Lets Hydra find our launcher; before it first looks for plugins."""
    plugins = str(PACKAGE / "_plugins")
    if plugins not in sys.path:
        sys.path.append(plugins)


def own(name: str) -> Path:
    """Our own ``conf`` or ``sweeps`` folder, whatever the working directory is."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def users(name: str) -> Path | None:
    """The folder of that name in the working directory, unless it is missing or ours."""
    folder = Path.cwd() / name
    return folder if folder.is_dir() and not folder.samefile(own(name)) else None


def files(group: str) -> dict[str, Path]:
    """Name → file of a configuration group's choices in ``conf``, ours before the user's."""
    found: dict[str, Path] = {}
    for folder in (own("conf"), users("conf")):
        for path in sorted((folder / group).glob("*.yaml")) if folder else ():
            if not path.stem.startswith("_"):
                found.setdefault(path.stem, path)
    return found


def choices(group: str) -> list[str]:
    """Names that a configuration group offers, the user's own included; imports no code of theirs.

    Raises:
        ConfigError: A plugin cannot be read.
    """
    names = set(files(group))
    if group == "method":
        from quantexp.plugins import known  # it reads the files above

        names |= set(known.methods())
    return sorted(names)
