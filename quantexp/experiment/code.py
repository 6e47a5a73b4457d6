"""Which code makes a checkpoint: a half-finished calibration must not be continued by another."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from quantexp.resources import PACKAGE

# All that turns weights and tokens into integers. What else the package does (jobs, tables, the
# command line) may change in the middle of a calibration without touching a number.
SCIENCE = ("calibration", "methods", "models", "quantization")
_LIBRARIES = ("torch", "transformers", "numpy")  # what it computes with


@cache
def science(package: Path | None = None) -> str:
    """sha256 (hex) over the sources of :data:`SCIENCE` and the versions of what they compute with.

    The code of a plugin is in the fingerprint of its calibrations, which then lie elsewhere.

    Args:
        package: A copy of this package; ``None``: this one.
    """
    package = package or PACKAGE
    digest = hashlib.sha256()
    for name in SCIENCE:
        folder = package / name
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library}=={version(library)}\n".encode())
    return digest.hexdigest()
