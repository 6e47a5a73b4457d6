"""Entry points: an installed distribution brings its methods, and cannot break what is not its."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import Work, work  # noqa: F401 (a fixture)
from lab import BASE, CODE, Write

from quantexp.__main__ import main

Install = Callable[[str], None]


def test_its_methods_are_offered_and_run_without_an_override(
    write: Write,
    installed: Install,
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    helper = "from mylab.methods._text import NAME\n"
    write("site/mylab/methods", mine_py=helper + CODE, _text_py="NAME = 'x'")
    # the package around it is never imported to find it
    Path("site/mylab/__init__.py").write_text("import sys; sys.modules['mylab_was_imported'] = sys")
    installed("mylab.methods")
    assert main(["--help"]) == 0
    assert " mine " in capsys.readouterr().out
    assert "mylab_was_imported" not in __import__("sys").modules
    assert main([*BASE, "method=mine,rtn", "-m"]) == 0
    assert work.done == ["none", "mine", "rtn"]
    stored = [json.loads(p.read_text()) for p in Path("outputs/cells").glob("*/cell.json")]
    (plugin,) = (cell["plugin"] for cell in stored if "plugin" in cell)
    assert plugin["origin"] == "mylab-quant 1.2"
    # its own folder given as well is the same plugin
    assert main([*BASE, "plugins=[site/mylab/methods]", "method=mine"]) == 0
    assert len(work.done) == 3


def test_a_name_that_is_taken_is_refused_where_it_is_used(
    write: Write,
    installed: Install,
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("site/mylab", smoothquant_py=CODE, smoothquant_yaml="name: smoothquant\n")
    installed("mylab")
    assert main([*BASE, "method=mine"]) == 0
    assert main([*BASE, "method=rtn"]) == 0
    assert main([*BASE, "method=smoothquant"]) == 2
    told = capsys.readouterr().err
    assert "plugin mylab-quant 1.2: the method name 'smoothquant' is taken by" in told
    write("lab")
    assert main([*BASE, "plugins=[lab]", "method=mine"]) == 2
    assert "is taken by plugin" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nolab", "mylab.nothing", "mylab:Method"])
def test_one_that_is_broken_warns_and_stops_nobody_else(
    value: str,
    write: Write,
    installed: Install,
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("site/mylab", mine_yaml=None)
    installed(value)
    assert main([*BASE, "method=rtn"]) == 0
    assert "warning: plugin mylab-quant 1.2" in capsys.readouterr().err
