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
