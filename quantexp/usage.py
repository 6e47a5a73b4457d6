"""The docstring of a command's module as its ``--help`` prints it."""

import argparse
from typing import Any


def parser(command: str, text: str | None, **more: Any) -> argparse.ArgumentParser:
    """Of ``python -m quantexp COMMAND``, its module's docstring line by line as it stands."""
    return argparse.ArgumentParser(
        f"python -m quantexp {command}",
        description=description(text),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )


def description(text: str | None) -> str:
    """Without reST's marks, and without the command itself, which the usage line says."""
    found = (text or "").replace("``", "")
    head, colon, rest = found.partition(": ")
    if not head.startswith("python -m quantexp") or not colon:
        return found
    return rest[:1].upper() + rest[1:]
