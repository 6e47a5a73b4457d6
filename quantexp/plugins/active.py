"""``plugins=[FOLDER]``: makes plugins known for the time of a command, to Hydra as well.

The folders go into ``$QUANTEXP_PLUGINS`` as absolute paths; a job gets it with its submission.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantexp.errors import ConfigError
from quantexp.plugins import known
from quantexp.plugins.folder import PluginMethod
from quantexp.resources import files

_offered: list[str] = []  # names of methods in Hydra's store, which is one per process


@contextmanager
def active(folders: Sequence[str]) -> Iterator[None]:
    """Makes plugins known while the body of a ``with`` runs.

    Raises:
        ConfigError: As :func:`include`.
    """
    before = os.environ.get(known.VARIABLE)
    try:
        include(folders)
        yield
    finally:
        os.environ.pop(known.VARIABLE, None)
        if before is not None:
            os.environ[known.VARIABLE] = before


def include(folders: Iterable[str]) -> None:
    """Adds plugins to those of the process, and offers the YAML files of all to Hydra.

    Raises:
        ConfigError: A folder is missing or is no plugin, or a method's name is taken.
    """
    paths = dict.fromkeys(_absolute(path) for path in (*known.folders(), *folders))
    if paths:
        os.environ[known.VARIABLE] = os.pathsep.join(paths)
    known.forget()
    _withdraw()
    for method in known.methods().values():
        if method.name not in files("method"):  # there Hydra finds it by itself
            _offer(method)


def add(folders: Any) -> None:
    """:func:`include` for ``plugins`` of a file or a composed configuration.

    They are mostly known already; what is no list is refused with the rest of the configuration.
    """
    if isinstance(folders, str) or not isinstance(folders, Sequence):
        return
    if {_absolute(path) for path in folders} - set(known.folders()):
        include(folders)


def given(overrides: Iterable[str]) -> list[str]:
    """The folders that overrides ``plugins=[…]`` name.

    Raises:
        ConfigError: It is no list, or a grid of lists.
    """
    found: list[str] = []
    for text in overrides:
        if text.partition("=")[0].lstrip("+") != "plugins":
            continue
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import OverrideParseException

        try:
            override = OverridesParser.create().parse_overrides([text])[0]
        except OverrideParseException as error:
            raise ConfigError(f"'{text}' cannot be read: write plugins=[FOLDER]") from error
        value: Any = None if override.is_sweep_override() else override.value()
        if not isinstance(value, list):
            raise ConfigError(
                f"'{text}' is no list: write plugins=[FOLDER] or plugins=[FOLDER,FOLDER], "
                "which all cells of a command share"
            )
        found += [str(item) for item in value]
    return found


def _absolute(path: str) -> str:
    if os.pathsep in path:
        raise ConfigError(f"plugins=[{path}]: a path with '{os.pathsep}' cannot be passed on")
    return os.path.abspath(Path(path).expanduser())


def _withdraw() -> None:
    """Takes back what an earlier command of this process offered."""
    if _offered:
        from hydra.core.config_store import ConfigStore

        for name in _offered:
            ConfigStore.instance().repo["method"].pop(f"{name}.yaml", None)
        _offered.clear()


def _offer(method: PluginMethod) -> None:
    """Hydra finds ``method=NAME`` in its store, as if the file lay in ``conf/method``."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    _offered.append(method.name)
    text = method.options.read_text(encoding="utf-8")
    header = re.search(r"\A(?:\s*#.*\n)*?\s*#\s*@package\s+(\S+)", text)
    ConfigStore.instance().store(
        group="method",
        name=method.name,
        node=OmegaConf.create(text),
        package=header[1] if header else None,
        provider=method.origin,
    )
