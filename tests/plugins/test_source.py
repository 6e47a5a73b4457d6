"""The code's hash follows what a method imports of its own, and nothing else."""

from pathlib import Path

import pytest

from quantexp.plugins.source import source_hash


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """``mylab`` with methods/halve.py, which uses _math.py, which uses core/numbers.py."""
    files = {
        "__init__.py": "__version__ = '1'",
        "core/numbers.py": "ONE = 1",
        "core/other.py": "TWO = 2",
        "methods/__init__.py": "",
        "methods/_math.py": "def f():\n    from ..core.numbers import ONE",
        "methods/_named.py": "x = 1",
        "methods/halve.py": "import torch\nimport mylab.methods._named\nfrom ._math import f",
        "methods/third.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "mylab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "mylab"


@pytest.mark.parametrize(
    ("edited", "counts"),
    [
        ("methods/halve.py", True),
        ("methods/_math.py", True),
        ("methods/_named.py", True),
        ("core/numbers.py", True),
        ("core/other.py", False),
        ("methods/third.py", False),
        ("__init__.py", False),
    ],
)
def test_an_edit_counts_where_the_method_imports_it(
    package: Path, edited: str, counts: bool
) -> None:
    before = source_hash(package / "methods/halve.py", "mylab.methods")
    (package / edited).write_text("y = 2")
    assert (source_hash(package / "methods/halve.py", "mylab.methods") != before) == counts


def test_a_folder_and_a_package_of_the_same_code_are_the_same(package: Path) -> None:
    (package / "methods/halve.py").write_text("from ._named import x")
    code = package / "methods/halve.py"
    assert source_hash(code, None) == source_hash(code, "mylab.methods")


def test_a_moved_folder_is_the_same_and_a_circle_ends(package: Path) -> None:
    (package / "methods/_named.py").write_text("from . import _math, halve")
    (package / "methods/halve.py").write_text("from . import _named")
    before = source_hash(package / "methods/halve.py", None)
    package.rename(package.with_name("moved"))
    assert source_hash(package.with_name("moved") / "methods/halve.py", None) == before
