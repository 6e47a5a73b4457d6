"""CONTRIBUTING.md's example of a method: as printed, as a plugin, it runs and sweeps."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import (
    calibrated,
    logits,
    make_config,
    plain_blocks,
    stored_blocks,
    streamed,
    tiny_llama,
    windows,
)

from quantexp import registry
from quantexp.__main__ import main
from quantexp.plugins import active

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
((CODE,), (OPTIONS,)) = (
    re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("python", "yaml")
)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plugins: None) -> Path:
    """A user's repository, which is the working directory; its methods/ holds the example."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "halve.py").write_text(CODE)
    (tmp_path / "methods" / "halve.yaml").write_text(OPTIONS)
    return tmp_path


@pytest.fixture
def active_example(example: Path) -> Iterator[None]:
    with active.active(["methods"]):
        yield


def test_the_example_has_thirty_lines() -> None:
    assert len((CODE + OPTIONS).splitlines()) <= 30


def test_the_example_is_found_by_its_file_name_and_preserves_the_function(
    tmp_path: Path, active_example: None
) -> None:
    chosen = yaml.safe_load(OPTIONS)
    assert chosen.pop("name") == "halve"
    assert "halve" in registry.method_names()

    path = tiny_llama(tmp_path / "model")
    config = make_config(path, "halve", (16, 16, 16, 16), options=chosen)
    model, tokens = streamed(config), windows()
    rebuilt = stored_blocks(model, config, calibrated(model, config, None, tmp_path / "blocks"))
    norms = [block.get_submodule("input_layernorm") for block in rebuilt]
    originals = [block.get_submodule("input_layernorm") for block in plain_blocks(model)]
    for norm, original in zip(norms, originals, strict=True):
        torch.testing.assert_close(norm.weight, original.weight * chosen["scale"])
    exact = logits(model, plain_blocks(model), tokens)
    torch.testing.assert_close(logits(model, rebuilt, tokens), exact, rtol=1e-4, atol=1e-4)


def test_the_example_sweeps_reaches_a_job_and_is_reported_when_it_is_gone(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_llama(example / "model")
    Path("windows.json").write_text(json.dumps({"windows": windows().tolist()}))
    arguments = ["model=local", "model.path=model", "data=local", "data.path=windows.json"]
    arguments += ["evaluation=local", "evaluation.path=windows.json", "cluster.threads=1"]
    arguments += ["plugins=[methods]", "method=halve", "tracker=none", "-m"]
    assert main([*arguments, "method.scale=0.5,0.25", "cluster=debug"]) == 0
    assert not list(Path("outputs").glob("sweeps/*/jobs"))
    assert main([*arguments, "method.scale=0.125"]) == 0, capsys.readouterr()
    assert len(list(Path("outputs").glob("sweeps/*/jobs/*_result.pkl"))) == 1  # another process

    for path in Path("methods").iterdir():
        path.unlink()
    capsys.readouterr()
    assert main(["report", "--format", "json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    ppl = {row["label"]: row["value"] for row in rows if row["metric"] == "ppl"}
    assert set(ppl) == {"none", "halve"}
    assert all(ppl.values())
    assert len({row["cell"] for row in rows if row["status"] == "done"}) == 4
    assert main(["status"]) == 0
    assert main(["clean", "--state", "done"]) == 0
    assert "halve" in capsys.readouterr().out


@pytest.mark.slow
def test_the_examples_method_passes_the_tests_of_ours(example: Path) -> None:
    command = [sys.executable, "-m", "pytest", f"--plugins={example / 'methods'}", "-k", "halve"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 50
