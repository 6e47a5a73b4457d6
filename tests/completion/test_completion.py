"""Tab completes what could be run, in real shells; without torch and in a moment."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from quantexp.__main__ import COMMANDS, main
from quantexp.completion.candidates import candidates
from quantexp.completion.command import SHELLS
from quantexp.experiment import record
from quantexp.grid.files import paths
from quantexp.resources import GROUPS, choices

ROOT = Path(__file__).parents[2]


def names(line: str) -> list[str]:
    """Candidates for the last word of a line, which may be empty."""
    return [text for text, _ in candidates(line.split(" "))]


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    record.write(tmp_path / "sweeps" / "mysweep" / "sweep.json", {"cells": []})
    record.write(tmp_path / "cells" / "demo-rtn-w4a4-12345678" / "cell.json", {})
    monkeypatch.setenv("QUANTEXP_OUTPUTS", str(tmp_path))
    return tmp_path


def test_every_command_group_choice_and_sweep_is_offered() -> None:
    first = names("")
    assert {*COMMANDS, *(f"{group}=" for group in GROUPS), "sweep="} <= {*first}
    for group in GROUPS:
        assert names(f"{group}=") == [f"{group}={name}" for name in choices(group)]
    assert names("-m sweep=") == [f"sweep={name}" for name in paths()]
    assert names("rep") == ["report"]
    assert "report" not in names("-m rep")  # a command comes first


def test_after_a_comma_comes_what_is_not_there_yet() -> None:
    found = names("method=rtn,")
    assert "method=rtn,gptq" in found
    assert "method=rtn,rtn" not in found


def test_keys_are_those_of_the_schema_and_of_the_methods_on_the_line() -> None:
    assert "bits.weight.group_size=" in names("bits.weight.")
    assert "method.alpha=" in names("method=smoothquant method.")
    assert "method.kronecker_hidden=" not in names("method=smoothquant method.")
    assert names("rounding=") == ["rounding=rtn", "rounding=gptq"]
    assert "bits.key.granularity=per_head" in names("bits.key.granularity=")


def test_commands_have_their_options_with_names_of_what_is_there(outputs: Path) -> None:
    for command in COMMANDS:
        assert {"--help", "-h"} <= {*names(f"{command} -")}, command
    assert names("report --format h") == ["html"]
    assert names("report --sweep ") == names("figures ") == ["mysweep"]
    assert names("cancel ") == ["mysweep", "demo-rtn-w4a4-12345678"]
    assert names("figures --flatness a ") == ["demo-rtn-w4a4-12345678"]
    assert names("report --compare a b ") == []
    assert names(f"report --outputs {outputs / 'none'} --sweep ") == []
    assert names("prefetch sweep=quick") == ["sweep=quickstart"]
    assert names("completion ") == [*sorted(SHELLS)]


def test_it_takes_a_moment_and_imports_neither_torch_nor_hydra(outputs: Path) -> None:
    code = (
        "import sys; from quantexp.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit(str({'torch', 'hydra', 'pandas', 'numpy'} & set(sys.modules) or '') or code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in (["method="], ["report", "--sweep", ""], [""]):
        start = time.monotonic()
        command = [sys.executable, "-c", code, "completion", "--words", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        assert time.monotonic() - start < 5  # 0.2 s on an idle machine


def test_a_broken_place_offers_nothing_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTEXP_PLUGINS", "/nowhere/at/all")
    assert main(["completion", "--words", "method="]) == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python -m quantexp repo", ["report"]),
        ("python -m quantexp method=fla", ["flatquant"]),
        ("python -m quantexp method=rtn,fla", ["rtn,flatquant"]),
        ("python -m quantexp sweep=quick", ["quickstart"]),
        ("python -m quantexp report --format h", ["html"]),
        ("python -m quantexp report --sweep my", ["mysweep"]),
        ("python -m quantexp bits.weight.group", ["bits.weight.group_size="]),
        ("python -m quantexp bits=w4a4 -m rou", ["rounding="]),
        ("python -c quantexp repo", []),
        ("python -m other repo", []),
    ],
)
def test_bash_completes(outputs: Path, line: str, offered: Sequence[str]) -> None:
    script = """
    source <("$PYTHON" -m quantexp completion bash)
    python() { "$PYTHON" "$@"; }
    COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}
    $(complete -p python | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    line = line.replace("python", sys.executable, 1)
    found = shell(["bash", "-c", script, "bash", line])
    assert [word.strip() for word in found.splitlines() if word] == offered


def test_bash_asks_whoever_completed_python_before(outputs: Path) -> None:
    script = """
    theirs() { COMPREPLY=(theirs); }
    complete -F theirs python
    for twice in 1 2; do source <("$PYTHON" -m quantexp completion bash); done
    COMP_LINE="python x"; COMP_POINT=8
    _quantexp_python
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    assert shell(["bash", "-c", script]).split() == ["theirs"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("method=rtn,fla", "method=rtn,flatquant"),
        ("repo", "report\ttables of finished cells; --format html: a page"),
        ("report --sweep ", "mysweep"),
        ("sweep=quick", "sweep=quickstart"),
    ],
)
def test_fish_completes(outputs: Path, line: str, offered: str) -> None:
    script = (
        f"set -x PATH {Path(sys.executable).parent} $PATH; "
        f"{sys.executable} -m quantexp completion fish | source; "
        f"complete -C 'python -m quantexp {line}'"
    )
    assert offered in shell(["fish", "--no-config", "-c", script]).splitlines()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("method=rtn,fla", "method=rtn,flatquant"),
        ("repo", "quantexp report "),
        ("report --sweep my", "--sweep mysweep"),
        ("sweep=quicks", "sweep=quickstart"),
    ],
)
def test_zsh_completes(outputs: Path, line: str, offered: str) -> None:
    setup = (
        "autoload -Uz compinit; compinit -u -D; PS1='READY> '; "
        f'eval "$({sys.executable} -m quantexp completion zsh)"; echo DO""NE\n'
    )
    text = typed(
        ["zsh", "-f"], [(setup, "DONE"), (f"{sys.executable} -m quantexp {line}\t", offered)]
    )
    assert offered in text


def typed(command: Sequence[str], steps: Sequence[tuple[str, str]]) -> str:
    """What a terminal shows after keys were typed; each step waits for a text."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PYTHONPATH=str(ROOT), TERM="xterm", COLUMNS="500")
        os.execvp(command[0], command)
    shown = ""
    try:
        for keys, wanted in steps:
            os.write(terminal, keys.encode())
            shown, end = "", time.monotonic() + 30
            while wanted not in shown and time.monotonic() < end:
                if select.select([terminal], [], [], 0.2)[0]:
                    part = os.read(terminal, 65536).decode(errors="replace")
                    shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", part)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    return shown


def shell(command: Sequence[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    return done.stdout
