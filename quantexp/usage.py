"""The docstring of a command's module as its ``--help`` prints it."""


def description(text: str | None) -> str:
    """Without reST's marks, and without the command itself, which the usage line says."""
    found = (text or "").replace("``", "")
    head, colon, rest = found.partition(": ")
    if not head.startswith("python -m quantexp") or not colon:
        return found
    return rest[:1].upper() + rest[1:]
