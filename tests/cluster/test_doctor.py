"""The doctor: each finding has its fix, the exit code tells, a job compares itself with here."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import make_config

from quantexp.__main__ import main
from quantexp.cluster import doctor, health
from quantexp.cluster.health import FAILED, OK, WARNING, Check, Request, checks
from quantexp.experiment import quota, record

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def here(tmp_path: Path, **fields: Any) -> dict[str, Check]:
    request = Request(**{"outputs": str(tmp_path / "out"), "tracker": "disabled", **fields})
    return {check.name: check for check in checks(request)}


def test_this_machine_is_well_and_no_torch_was_needed(tmp_path: Path) -> None:
    found = here(tmp_path)
    assert {check.state for check in found.values()} == {OK}, found
    assert "imports" not in found
    assert not (tmp_path / "out").exists()
    code = "import sys, quantexp.cluster.doctor; print('torch' in sys.modules)"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_job_compares_itself_with_the_login_node(tmp_path: Path) -> None:
    (tmp_path / "hub" / "models--org--tiny").mkdir(parents=True)
    expected = health.facts()
    assert {c.state for c in here(tmp_path, expected=expected).values()} == {OK}
    lost = here(tmp_path, expected=expected, folder=str(tmp_path / "gone"))["folder"]
    assert (lost.state, "cluster.container" in lost.fix) == (FAILED, True)
    older = {**expected, "packages": {**expected["packages"], "torch": "1.0"}, "code": "x"}
    other = here(tmp_path, expected=older)["as on the login node"]
    assert other.state == FAILED
    assert "torch" in other.text
    assert "(there 1.0)" in other.text
    assert "quantexp itself" in other.text
    assert "cluster.python" in other.fix
    more = {**expected, "cached": ["models--org--tiny", "models--org--large"]}
    cache = here(tmp_path, expected=more)["hub cache"]
    assert (cache.state, "models--org--large" in cache.text) == (FAILED, True)
    assert "HF_HOME" in cache.fix


def test_a_missing_gpu_a_foreign_disk_and_a_broken_import_fail_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "IMPORTS", ("quantexp.absent",))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = here(tmp_path, expected=health.facts(), gpu=True, token=str(tmp_path / "no-token"))
    assert {name for name, c in found.items() if c.state == FAILED} == {"imports", "GPU", "outputs"}
    assert "torch sees none" in found["GPU"].text
    assert "file system that nodes share" in found["outputs"].fix
    assert "cluster.setup" in found["imports"].fix


def test_little_space_and_no_network_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = quota.Room("its file system", 1 << 30, 1 << 20)
    monkeypatch.setattr(quota, "rooms", lambda folder: [system])
    monkeypatch.setattr("quantexp.calibration.hub.offline", lambda: False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(health, "_version", lambda name: None if name == "lm-eval" else "1")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    found = here(tmp_path)
    assert (found["disk"].state, found["hub"].state) == (WARNING, WARNING)
    assert "prefetch" in found["hub"].fix
    assert found["packages"].text == "missing: lm-eval"


@pytest.mark.parametrize(
    ("room", "state", "said"),
    [
        (quota.Room("your quota", 1 << 40, None), OK, "your quota has 1024.0 GiB left"),
        (quota.Room("your quota", 1 << 30, None), WARNING, "your quota has 1.0 GiB left"),
        (quota.Room("your quota", 1 << 40, 20), FAILED, "1024.0 GiB and 20 files left"),
        (quota.Room("the quota of group a", None, 2000), WARNING, "group a has 2000 files left"),
    ],
)
def test_the_tightest_limit_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: quota.Room, state: str, said: str
) -> None:
    ample = quota.Room("its file system", 1 << 50, 1 << 30)
    monkeypatch.setattr(quota, "rooms", lambda folder: [ample, room])
    found = here(tmp_path)["disk"]
    assert found.state == state
    assert said in found.text
    assert bool(found.fix) == (state != OK)


def test_a_check_that_breaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Check:
        raise RuntimeError("oops")

    monkeypatch.setattr(health, "_switches", broken)
    assert here(tmp_path)["broken"].text == "RuntimeError: oops"


def test_what_runs_in_a_job_reads_a_request_and_leaves_an_answer(tmp_path: Path) -> None:
    expected = json.loads(json.dumps(health.facts()))
    request = {"outputs": str(tmp_path), "expected": expected, "tracker": "disabled"}
    record.write(tmp_path / "request.json", request)
    command = [sys.executable, "-m", "quantexp.cluster.health"]
    command += [str(tmp_path / "request.json"), str(tmp_path / "answer.json")]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    answer = record.read(tmp_path / "answer.json")
    assert answer is not None
    assert {check["state"] for check in answer["checks"]} == {OK}, answer


@pytest.mark.parametrize("state", [OK, WARNING, FAILED])
def test_the_exit_code_tells_and_json_has_both_places(
    tmp_path: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, paths={"outputs": str(tmp_path)})
    job = [Check("GPU", state, "[0] a GPU", "buy one")]
    code = doctor.report(config, True, lambda _: job)
    found = json.loads(capsys.readouterr().out)
    assert code == (1 if state == FAILED else 0)
    assert found["ok"] is (state != FAILED)
    assert found["job"] == [{"name": "GPU", "state": state, "text": "[0] a GPU", "fix": "buy one"}]
    doctor.report(config, False, lambda _: job)
    text = capsys.readouterr().out
    assert f"{state:<8} job, GPU: buy one" in text
    assert "[0] a GPU" in text
    # where this machine fails, no job is sent
    broken = replace(config, paths=replace(config.paths, outputs="/proc/nowhere"))
    assert doctor.report(broken, True, lambda _: pytest.fail("sent")) == 1


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"paths.outputs={tmp_path}", "tracker=none"]) == 0
    assert "cells can run" in capsys.readouterr().out
    assert main(["doctor", "--json", "cluster=locl"]) == 2
