"""Documentation that is made from code is made from the code that is here."""

import re
import runpy
from pathlib import Path

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def test_the_reference_is_that_of_the_schema() -> None:
    made = runpy.run_path(str(DOCS / "make_reference.py"))["reference"]()
    assert (DOCS / "reference.md").read_text() == made, "run: python docs/make_reference.py"


def test_each_listed_oracle_is_a_test() -> None:
    listed, _, _ = (DOCS / "oracles.md").read_text().partition("What waits")
    promised = set(re.findall(r"\bo\d+\b", "".join(re.findall(r"^\| (o[^|]+)", listed, re.M))))
    text = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    found = set(re.findall(r"^def test_(o\d+)_", text, re.M))
    assert promised == found


def test_the_support_table_is_that_of_the_architectures() -> None:
    made = runpy.run_path(str(DOCS / "make_architectures.py"))["architectures"]()
    path = DOCS / "architectures.md"
    assert path.read_text() == made, "run: python docs/make_architectures.py"


def test_the_support_table_has_every_architecture() -> None:
    from quantexp.models.tables import FAMILIES

    models = runpy.run_path(str(DOCS / "make_architectures.py"))["MODELS"]
    assert {config["model_type"] for config in models.values()} == set(FAMILIES)
