"""A mirror shows what the records hold, once, and never fails or hangs a cell."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_outputs import FakeOutputs

from quantexp.config import TrackerConfig
from quantexp.experiment import record
from quantexp.experiment.cell import Cell
from quantexp.tracking import mirror as module
from quantexp.tracking.mirror import mirror

WANDB = Path(sys.executable).with_name("wandb")
KEY, TOKEN = "k3y0" * 10, "hf_verysecrettoken"


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeOutputs:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    return FakeOutputs(tmp_path / "outputs")


def cell_of(outputs: FakeOutputs, cell: str, mode: str = "offline", tracker: str = "wandb") -> Cell:
    """What the mirror uses of a cell; a real one would need a model and a text."""
    config = SimpleNamespace(tracker=TrackerConfig(tracker, mode, "quantexp-test"), name="sweep1")
    stub = SimpleNamespace(
        id=cell, config=config, outputs=outputs.root, folder=outputs.folder(cell)
    )
    return cast(Cell, stub)


def offline_runs(outputs: FakeOutputs) -> list[Path]:
    return sorted((outputs.root / "wandb").glob("offline-run-*"))


def inspect(run: Path, *options: str) -> str:
    command = [str(WANDB), "leet", "inspect", *options, "--json", str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_an_offline_run_holds_what_the_records_hold(outputs: FakeOutputs) -> None:
    cell = outputs.cell("flatquant", "w4a4kv4", 7.25)
    outputs.calibration(cell)
    outputs.block_error(cell)
    mirror(cell_of(outputs, cell))
    (run,) = offline_runs(outputs)
    shown = json.loads(inspect(run, "--summary"))
    assert (shown["run_id"], shown["project"], shown["state"]) == (
        cell,
        "quantexp-test",
        "finished",
    )
    assert shown["summary"]["pydocs/ppl"] == 7.25
    assert shown["summary"]["calibration/peak_memory_gib"] == 2
    assert shown["summary"]["status"] == "done"
    assert shown["config"]["method"] == "flatquant"
    assert shown["config"]["config"]["bits"]["key"]["bits"] == 4
    lines = [json.loads(line) for line in inspect(run).splitlines()]
    described = next(line["run"] for line in lines if line["type"] == "run")
    assert (described["run_group"], described["job_type"]) == ("sweep1", "flatquant")
    history = [line["history"]["item"] for line in lines if line["type"] == "history"]
    assert [h["block/sqnr_db"] for h in history if "block" in h] == [20, 19]
    assert [h["loss/block_01"] for h in history if "epoch" in h] == [0.4, 0.2, 0.1]


def test_an_unchanged_cell_is_not_written_twice(
    outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = outputs.cell("rtn", state="failed", cause="boom")
    mirror(cell_of(outputs, cell))
    (first,) = offline_runs(outputs)
    assert json.loads(inspect(first, "--summary"))["state"] == "failed"
    monkeypatch.setattr("quantexp.tracking.process.SCRIPT", Path("/nowhere"))
    mirror(cell_of(outputs, cell))
    assert offline_runs(outputs) == [first]
    monkeypatch.undo()

    outputs.cell("rtn", ppl=7.0)
    time.sleep(1)  # W&B names its folders by the second
    mirror(cell_of(outputs, cell))
    (second,) = offline_runs(outputs)  # the older one says nothing that this one does not
    assert second != first
    assert json.loads(inspect(second, "--summary"))["summary"]["pydocs/ppl"] == 7


def test_two_at_once_write_one_run(outputs: FakeOutputs) -> None:
    cell = cell_of(outputs, outputs.cell("rtn", ppl=7.0))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(mirror, [cell, cell]))
    assert len(offline_runs(outputs)) == 1


@pytest.mark.parametrize(
    ("key", "why"), [("", "there is no API key"), (KEY, "127.0.0.1 cannot be reached")]
)
def test_auto_falls_back_to_offline_and_says_why_once(
    outputs: FakeOutputs,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    key: str,
    why: str,
) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    mirror(cell_of(outputs, outputs.cell("rtn", ppl=7.0), "auto"))
    (line,) = capfd.readouterr().err.splitlines()
    assert why in line
    assert "python -m quantexp sync --outputs" in line
    assert len(offline_runs(outputs)) == 1


def test_no_key_or_token_reaches_a_file(
    outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    cell = outputs.cell("rtn", ppl=7.0)
    record.write(outputs.folder(cell) / "status.json", {"state": "failed", "cause": f"401 {TOKEN}"})
    mirror(cell_of(outputs, cell, "auto"))
    (outputs.folder(cell) / "status.json").unlink()  # here the test itself wrote the token
    files = [path for path in outputs.root.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for secret in (KEY, TOKEN):
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert secret not in "".join(capfd.readouterr())


FAKES = {
    "hangs when imported": "import time; time.sleep(600)",
    "hangs in a child of its own": "import subprocess; subprocess.run(['sleep', '600'])",
    "is not installed": "raise ModuleNotFoundError(\"No module named 'wandb'\")",
    "breaks": "def setup(): raise RuntimeError('many\\nlines')",
    "dies": "import os; os._exit(3)",
    "answers nonsense": "print('[1]'); import os, sys; sys.stdout.flush(); os._exit(0)",
}


@pytest.mark.parametrize("fault", FAKES)
def test_a_broken_wandb_costs_one_line_and_little_time(
    outputs: FakeOutputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKES[fault])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setattr(module, "BOUND_SECONDS", 2.0)
    cell = outputs.cell("rtn", ppl=7.0)
    start = time.monotonic()
    mirror(cell_of(outputs, cell))
    assert time.monotonic() - start < 10
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"W&B: {cell} is not shown, its records are complete (")
    assert not (outputs.folder(cell) / "mirror.json").exists()  # so that it is tried again


def test_a_folder_that_cannot_be_written_costs_one_line(
    outputs: FakeOutputs, capfd: pytest.CaptureFixture[str]
) -> None:
    cell = outputs.cell("rtn", ppl=7.0)
    (outputs.root / "wandb").write_text("a file where the folder should be")
    mirror(cell_of(outputs, cell))
    (line,) = capfd.readouterr().err.splitlines()
    assert "is not shown" in line
    assert "wandb" in line


@pytest.mark.slow
def test_a_server_that_never_answers_ends_offline_in_time(
    outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        start = time.monotonic()
        mirror(cell_of(outputs, outputs.cell("rtn", ppl=7.0), "online"))
    assert time.monotonic() - start < module.BOUND_SECONDS + 5
    (line,) = capfd.readouterr().err.splitlines()
    assert "is offline: CommError" in line
    folders = [path.name for path in (outputs.root / "wandb").glob("*run-2*")]
    assert [name.startswith("offline-run-") for name in folders] == [True]


@pytest.mark.parametrize(("tracker", "mode"), [("none", "auto"), ("wandb", "disabled")])
def test_switched_off_it_does_nothing(
    outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch, tracker: str, mode: str
) -> None:
    monkeypatch.setattr(module, "show", lambda *_: pytest.fail("it tried"))
    mirror(cell_of(outputs, outputs.cell("rtn", ppl=7.0), mode, tracker))


def test_the_measuring_process_never_imports_wandb() -> None:
    code = (
        "import sys, quantexp.tracking.mirror, quantexp.tracking.content, "
        "quantexp.tracking.process; sys.exit('wandb' in sys.modules)"
    )
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
