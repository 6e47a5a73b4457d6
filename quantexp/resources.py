"""Where ``conf/`` and ``sweeps/`` are: at a checkout's top level, or in the installed package."""

from pathlib import Path

PACKAGE = Path(__file__).parent
GROUPS = ("model", "method", "bits", "data", "evaluation", "protocol", "cluster", "tracker")


def own(name: str) -> Path:
    """Our own ``conf`` or ``sweeps`` folder, whatever the working directory is."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def users(name: str) -> Path | None:
    """The folder of that name in the working directory, unless it is missing or ours."""
    folder = Path.cwd() / name
    return folder if folder.is_dir() and not folder.samefile(own(name)) else None


def choices(group: str) -> list[str]:
    """Names that a configuration group offers, the user's own included; reads file names only."""
    folders = [own("conf"), *filter(None, [users("conf")])]
    names = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    return sorted(name for name in names if not name.startswith("_"))
