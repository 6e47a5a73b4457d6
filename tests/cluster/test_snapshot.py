"""Jobs run the package as it was submitted; its diff is kept, secrets are not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantexp.cluster import secrets, snapshot
from quantexp.errors import ConfigError
from quantexp.experiment import record

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed checkout of a small package, in place of ours."""
    root = tmp_path / "checkout"
    for name in ("quantexp/__init__.py", "conf/config.yaml", "sweeps/a.yaml", "tests/test.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("a: 1\n")
    (root / "quantexp" / "__pycache__").mkdir()
    (root / "quantexp" / "__pycache__" / "x.pyc").write_text("")
    run = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*run, "init", "-q"], check=True)
    subprocess.run([*run, "add", "."], check=True)
    subprocess.run([*run, "commit", "-qm", "x"], check=True)
    monkeypatch.setattr(snapshot, "PACKAGE", root / "quantexp")
    monkeypatch.setattr(snapshot, "own", lambda name: root / name)
    return root


def test_the_copy_is_what_an_interpreter_imports_even_in_the_checkout(tmp_path: Path) -> None:
    made = snapshot.snapshot(tmp_path)
    code = "import quantexp, quantexp.resources as r; print(quantexp.__file__, r.own('conf'))"
    environment = {"PATH": "/usr/bin:/bin", **made.environment}
    for command in (["-c", code], ["-m", "quantexp", "--version"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        if command[0] == "-c":
            package = made.path / "quantexp"
            assert done.stdout.split() == [str(package / "__init__.py"), str(package / "conf")]
    found = record.read(made.path / "snapshot.json")
    assert found is not None
    assert found["hash"] == made.hash
    assert found["libraries"]["torch"]


def test_there_is_one_copy_per_content(checkout: Path, tmp_path: Path) -> None:
    first = snapshot.snapshot(tmp_path)
    assert snapshot.snapshot(tmp_path) == first
    assert sorted(p.name for p in first.path.iterdir()) == ["quantexp", "snapshot.json"]
    package = first.path / "quantexp"
    names = {str(path.relative_to(package)) for path in package.rglob("*.*")}
    assert names >= {"__init__.py", "conf/config.yaml", "sweeps/a.yaml"}
    assert not [name for name in names if "pyc" in name or "test" in name]
    (checkout / "conf" / "config.yaml").write_text("a: 2\n")
    second = snapshot.snapshot(tmp_path)
    assert second.hash != first.hash
    assert (first.path / "quantexp" / "conf" / "config.yaml").read_text() == "a: 1\n"
    assert "+a: 2" in (second.path / "diff.patch").read_text()
    assert str(record.read(second.path / "snapshot.json") or {}).count("commit") == 1
    assert not [p for p in (tmp_path / "code").iterdir() if p.name.startswith(".")]


def test_a_bytecode_cache_is_no_change_but_an_edit_of_the_copy_is(
    checkout: Path, tmp_path: Path
) -> None:
    made = snapshot.snapshot(tmp_path)
    cache = made.path / "quantexp" / "__pycache__" / "a.pyc"
    cache.parent.mkdir()
    cache.write_text("x")
    assert snapshot.snapshot(tmp_path) == made
    (made.path / "quantexp" / "__init__.py").write_text("b")
    with pytest.raises(ConfigError, match="was changed since it was written"):
        snapshot.snapshot(tmp_path)


def test_a_diff_with_a_secret_is_not_stored_and_the_secret_not_shown(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "hf_" + "a1B2" * 8
    (checkout / "quantexp" / "__init__.py").write_text(f'login("{secret}")\n')
    made = snapshot.snapshot(tmp_path)
    assert not (made.path / "diff.patch").exists()
    assert (record.read(made.path / "snapshot.json") or {})["withheld"] == ["a Hugging Face token"]
    said = capsys.readouterr().err
    assert "seems to hold a Hugging Face token" in said
    assert secret not in said


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x = 'AKIA" + "A1" * 8 + "'", "AWS"),
        ("aws_secret_access_key = " + "a/" * 20, "AWS"),
        ("WANDB_API_KEY=" + "0f" * 20, "W&B"),
        ("key = wandb_v1_" + "a" * 40, "W&B"),
        ("gh" + "p_" + "a" * 36, "GitHub"),
        ("-----BEGIN RSA PRIVATE " + "KEY-----", "private key"),
        ("password: 'correcthorse'", "password"),
        ("machine x login y " + "longpassphrase1", r"\$MY_TOKEN"),
    ],
)
def test_secrets_are_recognized(text: str, kind: str) -> None:
    found = secrets.find(text, {"MY_TOKEN": "longpassphrase1", "HF_TOKEN": "short"})
    assert re.search(kind, " ".join(found)), found


def test_commits_hashes_and_code_about_tokens_are_no_secrets() -> None:
    sources = "".join(p.read_text() for p in (ROOT / "quantexp").rglob("*.py"))
    assert secrets.find(sources, {}) == []
    assert secrets.find('revision="b08601e04326c79dfdd32d625aee71d232d685c3"', {}) == []


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be copied to .*paths\.outputs"):
        snapshot.snapshot(tmp_path / "file")
