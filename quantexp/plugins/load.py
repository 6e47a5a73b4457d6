"""Runs a plugin's module and takes its method out; errors are told as the user's own."""

import hashlib
import importlib
import sys
import traceback
from dataclasses import is_dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from quantexp.errors import ConfigError
from quantexp.methods.base import Method
from quantexp.plugins.folder import PluginMethod


def load(plugin: PluginMethod) -> type[Method]:
    """The method class of a plugin's module.

    Raises:
        ConfigError: The module cannot be imported, or holds no method or several.
    """
    return _load(plugin, plugin.source)


@cache
def _load(plugin: PluginMethod, source: str) -> type[Method]:
    module = _module(plugin, source)
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, Method)
        and item.__module__ == module.__name__
        and not item.__name__.startswith("_")
    ]
    if len(found) != 1:
        names = ", ".join(item.__name__ for item in found) or "none"
        raise ConfigError(
            f"method={plugin.name}: {plugin.code} must define one subclass of "
            f"quantexp.methods.base.Method, and has {names}; a name that begins with '_' is not "
            "counted"
        )
    if not is_dataclass(found[0].Options):
        raise ConfigError(
            f"method={plugin.name}: {found[0].__name__}.Options in {plugin.code} must be a "
            "dataclass with the keys of the YAML file: decorate it with @dataclass(frozen=True)"
        )
    return found[0]


def _module(plugin: PluginMethod, source: str) -> ModuleType:
    writes = sys.dont_write_bytecode
    # Python takes a cached bytecode of the same second and size for the edited file's.
    sys.dont_write_bytecode = True
    try:
        package = plugin.package or _package(plugin.folder, source)
        return importlib.import_module(f"{package}.{plugin.name}")
    except (Exception, SystemExit) as error:
        raise ConfigError(f"method={plugin.name}: {_last_line(error, plugin.code)}") from error
    finally:
        sys.dont_write_bytecode = writes


def _package(folder: Path, source: str) -> str:
    """Registers a folder as a package, so that its modules can import each other relatively.

    The name is one for each state of the code: an edited plugin is imported anew.
    """
    digest = hashlib.sha256(f"{folder}\n{source}".encode()).hexdigest()[:16]
    name = f"quantexp_plugin_{digest}"
    init = folder / "__init__.py"
    spec: ModuleSpec | None = ModuleSpec(name, None, is_package=True)
    if init.is_file():
        spec = spec_from_file_location(name, init)
    assert spec is not None
    spec.submodule_search_locations = [str(folder)]
    module = sys.modules[name] = module_from_spec(spec)
    if init.is_file() and spec.loader:
        spec.loader.exec_module(module)
    return name


def _last_line(error: BaseException, code: Path) -> str:
    """Where in the user's files it went wrong, and Python's own words."""
    said = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {said}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _below(frame, code)]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else str(code)
    return f"{where}: {said}"


def _below(frame: traceback.FrameSummary, code: Path) -> bool:
    return Path(frame.filename).is_relative_to(code.parent)
