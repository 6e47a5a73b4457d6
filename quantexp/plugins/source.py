"""What identifies a plugin's code: its file and whatever of its own package it imports."""

import ast
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

Dotted = tuple[str, ...]


def source_hash(code: Path, package: str | None) -> str:
    """sha256 (hex) of a file and of every file of its folder or package that it imports.

    Imports are read, not run, so those within functions count as well. What is imported from
    elsewhere is not covered: ``Method.version`` is for that.

    Args:
        code: The method's file.
        package: Dotted name of its folder where that is part of an installed package; relative
            imports may then reach all of the package, and absolute ones name it.
    """
    names: Dotted = tuple(package.split(".")) if package else ()
    root = code.parent if not names else code.parents[len(names) - 1]
    waiting, found = [code], set[Path]()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path, root, names[:1])
    digest = hashlib.sha256()
    # Relative to the method's folder: the same code is the same however it was found.
    for name, path in sorted((os.path.relpath(path, code.parent), path) for path in found):
        content = path.read_bytes()
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _imported(path: Path, root: Path, top: Dotted) -> Iterator[Path]:
    """Files below ``root`` that a file imports; ``top`` is what absolute imports call ``root``."""
    here = path.relative_to(root).with_suffix("").parts
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # loading says what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(_within(tuple(alias.name.split(".")), top), root)
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            if node.level > len(here):
                continue
            target = here[: len(here) - node.level] + base if node.level else _within(base, top)
            yield from _files(target, root)
            for alias in node.names:  # a name of the module, or a module of the package
                yield from _files(None if target is None else (*target, alias.name), root)


def _within(name: Dotted, top: Dotted) -> Dotted | None:
    return name[1:] if top and name[:1] == top else None


def _files(target: Dotted | None, root: Path) -> Iterator[Path]:
    if target is None:
        return
    folder = root.joinpath(*target)
    for path in (folder.with_suffix(".py"), folder / "__init__.py"):
        if path.is_file():
            yield path
