"""prefetch: everything a sweep reads, at commits, once; each refusal of the hub has its words."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pytest
from fakes import CONFIG
from hub_server import COMMIT, Hub, serve
from pyarrow import parquet

from quantexp.calibration.corpora import HUB
from quantexp.errors import ConfigError, DataError
from quantexp.models.source import HUB_FILES
from quantexp.prefetch import cache, command, remote
from quantexp.prefetch.needed import Need
from quantexp.prefetch.remote import Listing

WEIGHTS = bytes(range(256)) * (24 << 12)  # 24 MiB: the library writes pieces of 10 MiB
MODEL = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled",
    "README.md": b"hello",
}
ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]
CELL = ("model=hf", "model.path=org/tiny", "method=rtn", "bits=w4a16")


def _parquet(rows: int) -> bytes:
    columns = {"goal": ["a"], "sol1": ["b"], "sol2": ["c"], "label": [0]}
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({k: v * rows for k, v in columns.items()}), sink)
    return sink.getvalue()


@pytest.fixture
def hub() -> Iterator[Hub]:
    wikitext = HUB["wikitext2"]
    parts = [p.file for p in (wikitext.train, wikitext.heldout) if p is not None]
    repos = {
        "models/org/tiny": MODEL,
        f"datasets/{wikitext.repo}": dict.fromkeys([*parts, "unused.parquet"], b"PAR1" * 2000),
        "datasets/baber/piqa": {
            "README.md": b"---\nlicense: mit\n---\n",
            "data/validation-00000-of-00001.parquet": _parquet(5),
        },
    }
    commits = {f"datasets/{wikitext.repo}": wikitext.revision}
    with serve(Hub(repos, commits)) as server:
        yield server


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        ours |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, **environment}
        ours |= {"QUANTEXP_OUTPUTS": str(tmp_path / "outputs"), "HF_HUB_DISABLE_XET": "1"}
        ours["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, "-m", "quantexp", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=ours, capture_output=True, text=True, timeout=120
        )

    return call


def manifest(folder: Path) -> dict[str, object]:
    [path] = (folder / "outputs" / "prefetch").glob("*.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_a_sweep_is_fetched_at_commits_and_then_runs_offline(
    run: Run, hub: Hub, tmp_path: Path
) -> None:
    texts = ("data=wikitext2", "data.seq_len=128", "evaluation=pydocs", "rounding=gptq")
    hub.cut = 1
    setup = "cluster.setup=[secret]"
    first = run("prefetch", *CELL, *texts, "evaluation.seq_len=128", setup, "-m")
    assert first.returncode == 0, first.stderr
    assert "HF_HUB_OFFLINE=1 python -m quantexp model=hf model.path=org/tiny" in first.stdout
    assert "secret" not in str(manifest(tmp_path))
    found = manifest(tmp_path)["repositories"]
    assert isinstance(found, list)
    model, corpus = found
    assert (model["repo"], model["revision"], model["commit"]) == ("org/tiny", None, COMMIT)
    assert sorted(model["files"]) == ["config.json", "model.safetensors", "tokenizer.json"]
    weights = model["files"]["model.safetensors"]
    assert weights == {"size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    assert len(model["files"]["config.json"]["etag"]) == 40
    assert corpus["commit"] == HUB["wikitext2"].revision
    assert list(corpus["files"]) == [HUB["wikitext2"].train.file]
    # what broke off in the middle went on there
    assert any(range_ for _, path, range_ in hub.requests if path.endswith("model.safetensors"))

    hub.requests.clear()
    again = run("prefetch", *CELL, *texts, "evaluation.seq_len=128", "-m")
    assert again.stdout.count("cached ") == 2, again.stdout
    assert hub.requests == []

    hub.down = True
    plan = run(*CELL, *texts, "evaluation.seq_len=128", "-m", "--dry-run", HF_HUB_OFFLINE="1")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    off = run(
        "prefetch", *CELL, *texts, "evaluation.seq_len=128", "-m", "--update", HF_HUB_OFFLINE="1"
    )
    assert off.stdout.count("cached ") == 2, off.stdout + off.stderr


def test_a_branch_stays_where_it_was_until_an_update_is_asked_for(
    run: Run, hub: Hub, tmp_path: Path
) -> None:
    assert run("prefetch", *CELL).returncode == 0
    hub.commits["models/org/tiny"] = "f" * 40
    hub.repos["models/org/tiny"] = {**MODEL, "config.json": b'{"new": 1}'}
    assert f"at {COMMIT[:12]}" in run("prefetch", *CELL).stdout
    moved = run("prefetch", *CELL, "--update")
    assert "fetched  model org/tiny at ffffffffffff" in moved.stdout, moved.stderr
    # what did not change is not sent again
    sent = [p for method, p, _ in hub.requests if method == "GET" and p.endswith(".safetensors")]
    assert len(sent) == 1
    assert manifest(tmp_path)["repositories"][0]["commit"] == "f" * 40  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("gated", "", r"is gated and nobody is logged in \(401\): accept its licence at https"),
        ("gated", "wrong", r"does not accept the token in HF_TOKEN \(401\): it is mistyped"),
        ("gated", "poor", r"the account of HF_TOKEN has no access \(403\): accept its licence"),
        ("absent", "", r"does not exist or is private \(401/404; .*check the name in model.path"),
        ("private", "", r"does not exist or is private"),
        ("absent", "right", r"does not exist \(404\), or the account of HF_TOKEN may not see it"),
        ("tiny", "", r"has no revision 'v9' \(404\): model.revision must be a branch"),
        ("down", "", r"the hub answers 503"),
    ],
)
def test_the_hubs_refusals_are_told_apart(
    name: str, token: str, message: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.tokens = {"right": {"models/org/gated", "models/org/private"}, "poor": set()}
    for other in ("gated", "private", "down"):
        hub.repos[f"models/org/{other}"] = MODEL
    hub.gated, hub.private = {"models/org/gated"}, {"models/org/private"}
    hub.down = name == "down"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    # read once when imported: whoever runs the tests may have switched the network off
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN", token)
    revision = "v9" if name == "tiny" else None
    with pytest.raises(DataError, match=message) as caught:
        remote.ask(Need("model", f"org/{name}", revision, HUB_FILES))
    assert not token or token not in str(caught.value).split()
    assert caught.value.__cause__ is None
    if name in ("gated", "private") and not token:
        monkeypatch.setenv("HF_TOKEN", "right")
        found = remote.ask(Need("model", f"org/{name}", None, HUB_FILES))
        assert found.sizes["model.safetensors"] == len(WEIGHTS)


def test_all_refusals_come_at_once_and_nothing_is_fetched(
    run: Run, hub: Hub, tmp_path: Path
) -> None:
    hub.gated.add("models/org/tiny")
    both = run("prefetch", "model=hf", "model.path=org/tiny,org/absent", "-m")
    assert both.returncode == 2
    assert "org/tiny is gated" in both.stderr
    assert "org/absent does not exist" in both.stderr
    assert not list(tmp_path.glob("outputs/**/*.json"))


def test_the_documents_of_a_task_are_there_offline(run: Run, hub: Hub, tmp_path: Path) -> None:
    cell = (*CELL, "evaluation=zeroshot", "evaluation.tasks=[piqa]")
    done = run("prefetch", *cell)
    assert done.returncode == 0, done.stderr
    assert "fetched  task baber/piqa" in done.stdout
    task = manifest(tmp_path)["repositories"][1]  # type: ignore[index]
    assert task["commit"] == COMMIT
    assert list(task["files"]) == ["data/validation-00000-of-00001.parquet"]
    hub.down = True
    load = "import datasets; print(len(datasets.load_dataset('baber/piqa')['validation']))"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    rows = subprocess.run(
        [sys.executable, "-c", load], env=environment, capture_output=True, text=True
    )
    assert rows.stdout.strip() == "5", rows.stderr
    again = run("prefetch", *cell, "--update", HF_HUB_OFFLINE="1")
    assert again.stdout.count("cached ") == 2, again.stderr


def test_what_reads_nothing_from_the_hub_says_so(run: Run) -> None:
    done = run("prefetch", "sweep=quickstart")
    assert done.returncode == 0, done.stderr
    assert "read nothing from the hub" in done.stdout


def test_a_disk_too_small_is_refused_first(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "absent" / "hub")
    need = Need("model", "org/large", None)
    with pytest.raises(ConfigError, match=r"931322574\.6 GiB are to be fetched .*HF_HOME"):
        command._room({need: Listing(COMMIT, {"model.safetensors": 10**18, "config.json": None})})
