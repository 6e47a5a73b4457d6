"""The command line: what is refused, what runs, what is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import Work, fake_model, work  # noqa: F401 (a fixture)

from quantexp.__main__ import main
from quantexp.experiment import status

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a model, a short text and wrong token windows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTEXP_OUTPUTS", raising=False)
    fake_model(tmp_path / "model")
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "text.txt").write_text("long enough " * 1000)
    (tmp_path / "text.pdf").write_text("a document")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait" * 9)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "lines.jsonl").write_text('{"txt": "no text here"}\n')
    (tmp_path / "windows.json").write_text(json.dumps({"windows": [[1, 2, 3], [4, 5, 99]]}))
    (tmp_path / "foreign.json").write_text(json.dumps({"windows": [[1, 2, 100]]}))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\0")
    fake_model(tmp_path / "gpt", model_type="gpt2")
    return tmp_path


BASE = ("model=local", "model.path=model", "cluster=debug", "tracker=none")
WINDOWS = "evaluation=local evaluation.path=windows.json"

# (arguments, what the message must hold: the value, what is allowed, the fix)
WRONG = [
    ("method=flatquan", "flatquan", "did you mean 'flatquant'", "rtn"),
    ("method=rtn,flatquan -m", "flatquan", "did you mean 'flatquant'"),
    ("model=llama3", "llama3", "llama3_8b"),
    ("bits=w5a5", "w5a5", "w4a4kv4"),
    ("bitz=w4a4", "'bitz'", "did you mean 'bits'"),
    ("foo=1", "'foo'", "allowed", "method"),
    ("+foo=1", "'foo'", "allowed", "method"),
    ("bits.weight.bit=4", "bits.weight.bit'", "did you mean 'bits.weight.bits'"),
    ("data.num_sample=3", "data.num_sample'", "did you mean 'data.num_samples'"),
    ("seq_len=3", "'seq_len'", "data.seq_len"),
    ("method=flatquant method.epoch=3", "method.epoch'", "did you mean 'method.epochs'"),
    ("method=flatquant method.nope=3", "method.nope': allowed here: method.name"),
    ("method=rtn method.alpha=0.5", "method.alpha", "smoothquant"),
    ("method=rtn,smoothquant", "method=rtn,smoothquant", "-m"),
    ("method=null", "method=null", "flatquant"),
    ("~bits", "~bits", "w4a4"),
    ("+bits=w4a4", "write bits=w4a4"),
    ("flatquant", "did you mean method=flatquant"),
    ("data.seq_len=[1", "data.seq_len=[1", "KEY=VALUE"),
    ("--dry", "--dry", "--multirun"),
    ("--cfg", "--cfg", "value"),
    ("rounding=gptqq", "gptqq", "did you mean 'gptq'", "rtn"),
    ("rounding=gptq bits=kv4", "kv4", "rounding=rtn"),
    ("bits.weight.bits=9", "bits.weight.bits=9", "2, 3, 4, 5, 6, 7, 8, 16"),
    ("bits.weight.scheme=sym", "'sym'", "symmetric", "asymmetric"),
    ("bits.key.granularity=per_channel", "per_channel", "per_head"),
    ("bits.weight.clip_ratio=1.5", "1.5", "0 < ratio <= 1"),
    ("bits.weight.group_size=30", "group_size=30", "hidden size 64", "32"),
    ("bits=kv4 bits.key.group_size=5", "group_size=5", "head_dim 16", "4"),
    ("bits.weight.group_size=-1", "group_size=-1", "1 or more"),
    ("bits.weight.group_size=16,30 -m", "1 of 2 cells", "group_size=30", "32"),
    ("bits.weight=4", "bits.weight", "4"),
    ("seed=x", "'seed'", "whole number"),
    ("data.num_samples=0", "data.num_samples=0", "1 or more"),
    ("method=smoothquant method.alpha=2", "method.alpha=2", "0 to 1"),
    ("method=smoothquant data.seq_len=600", "data.seq_len=600", "2 to 512"),
    ("method=smoothquant data=local", "data.path", "data.path=…"),
    ("method=smoothquant data=local data.path=no.txt", "no.txt", "give a path that exists"),
    ("method=smoothquant data=local data.path=text.pdf", "text.pdf", ".jsonl"),
    ("method=smoothquant data=local data.path=empty.txt", "empty.txt", "empty"),
    ("method=smoothquant data=local data.path=broken.json", "broken.json", '"windows"'),
    (
        "method=smoothquant data=local data.path=lines.jsonl data.seq_len=9",
        "lines.jsonl, line 1",
        '"text"',
    ),
    ("method=smoothquant data=local data.path=latin.txt data.seq_len=9", "latin.txt", "UTF-8"),
    ("method=smoothquant data=local data.path=short.txt data.seq_len=64", "5 bytes", "longer"),
    ("method=smoothquant data=local data.path=foreign.json", "100", "0 to 99"),
    ("evaluation=local", "evaluation=local", "evaluation.path=FILE"),
    ("evaluation=local evaluation.path=no.txt", "no.txt", "give a path that exists"),
    ("evaluation.seq_len=600", "600", "2 to 512"),
    ("evaluation.perplexity=[{name:a}]", "evaluation.perplexity[0]", "pydocs"),
    ("evaluation.perplexity=[{name:a,pth:text.txt}]", "pth", "did you mean 'path'"),
    (f"{WINDOWS} evaluation.seq_len=5", "seq_len=5", "have 3"),
    ("model.path=nowhere", "model.path=nowhere", "model=hf"),
    ("model.path=pickled", "pickled", "safe_serialization"),
    ("model.path=gpt", "gpt2", "llama"),
    ("model=local model.path=null", "model.path=FOLDER"),
    ("model.dtype=fp16", "fp16", "float16"),
    ("paths.outputs=/proc/nowhere", "/proc/nowhere", "QUANTEXP_OUTPUTS"),
    ("name=a/b", "a/b", "letters"),
    ("keep=all", "'all'", "records"),
    ("cluster.threads=0", "cluster.threads=0", "1 or more"),
    ("repor", "repor", "KEY=VALUE"),
    ("method=flatquant bits.weight.granularity=per_tensor", "per_tensor", "use per_channel"),
    ("method=flatquant bits.key.granularity=per_token_before_rope", "P_h", "use per_head"),
    ("bits.weight.clip_search=grid bits.weight.clip_ratio=0.9", "clip_ratio=0.9", "leave one"),
]


@pytest.mark.parametrize("case", WRONG, ids=[case[0] for case in WRONG])
def test_wrong_input_is_refused_before_any_work(
    case: tuple[str, ...],
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, *expected = case
    code = main([*BASE, *arguments.split()])
    told = capsys.readouterr()
    assert code == 2
    for part in expected:
        assert part in told.err
    assert "Traceback" not in told.err + told.out
    assert not work.done
    assert not list(Path().glob("outputs/cells/*"))


def test_a_word_that_is_no_command_is_compared_with_the_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["repor"]) == 2
    assert "did you mean 'report'" in capsys.readouterr().err


def test_one_cell_runs_here_and_never_twice(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        assert main([*BASE, "method=rtn"]) == 0
    assert work.done == ["rtn"]
    assert "1 done, 0 to run" in capsys.readouterr().out


def test_a_grid_adds_the_baseline_and_a_failure_stops_nobody(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    work.failing["rtn"] = ValueError("boom [x]")
    assert main([*BASE, "method=rtn,smoothquant,gptq", "-m"]) == 1
    assert work.done == ["none", "rtn", "smoothquant", "gptq"]
    told = capsys.readouterr()
    assert "boom [x]" in told.out
    assert "Traceback" not in told.err + told.out
    [listed] = Path().glob("outputs/sweeps/*/sweep.json")
    assert len(json.loads(listed.read_text())["cells"]) == 4
    work.failing.clear()
    assert main(["-m", *BASE, "method=rtn,smoothquant,gptq"]) == 0
    assert work.done[4:] == ["rtn"]
    assert len(list(Path().glob("outputs/sweeps/*/sweep.json"))) == 1


def test_status_as_json_is_what_the_cells_wrote(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    work.failing["rtn"] = ValueError("boom")
    assert main([*BASE, "method=rtn,smoothquant", "-m"]) == 1
    capsys.readouterr()
    assert main(["status", "--json", "--outputs", "outputs"]) == 0
    found = {entry["cell"].split("-")[1]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name: entry["state"] for name, entry in found.items()}["rtn"] == status.FAILED
    assert found["rtn"]["attempt"] == 1
    assert found["rtn"]["cause"] == "ValueError: boom"


def test_sys_exit_in_a_cell_is_its_failure_only(work: Work) -> None:  # noqa: F811
    work.failing["rtn"] = SystemExit(3)
    assert main([*BASE, "method=rtn,smoothquant", "-m"]) == 1
    assert work.done == ["none", "rtn", "smoothquant"]


def test_interrupting_says_that_work_is_kept(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    work.failing["rtn"] = KeyboardInterrupt()
    assert main([*BASE, "method=rtn"]) == 130
    assert "the same command continues" in capsys.readouterr().err
    [cell] = Path().glob("outputs/cells/*")
    assert status.read(cell)["state"] == status.INTERRUPTED


def test_an_evaluation_more_leaves_the_cell_its_name(work: Work) -> None:  # noqa: F811
    assert main([*BASE, "method=rtn"]) == 0
    assert main([*BASE, "method=rtn", *WINDOWS.split()]) == 0
    assert work.done == ["rtn", "rtn"]
    assert len(list(Path().glob("outputs/cells/*"))) == 1


@pytest.mark.parametrize("keep", ["records", "checkpoint"])
def test_keep_says_whether_the_checkpoint_stays(work: Work, keep: str) -> None:  # noqa: F811
    assert main([*BASE, "method=rtn", f"keep={keep}"]) == 0
    assert bool(list(Path("outputs").rglob("*.safetensors"))) == (keep == "checkpoint")
    assert list(Path("outputs").rglob("manifest.json"))
    assert main([*BASE, "method=rtn", f"keep={keep}"]) == 0
    assert work.done == ["rtn"]


def test_nothing_is_left_lying_around(work: Work) -> None:  # noqa: F811
    before = set(Path().iterdir())
    assert main([*BASE, "method=rtn,smoothquant", "-m"]) == 0
    assert set(Path().iterdir()) - before == {Path("outputs")}
    assert not list(Path().rglob("*.yaml"))


def test_the_users_conf_folder_adds_choices(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = Path("conf/bits/mine.yaml")
    mine.parent.mkdir(parents=True)
    mine.write_text("defaults: [_base, _self_]\nweight: {bits: 5}\n")
    (mine.parent / "w4a4.yaml").write_text("not: ours\n")
    assert main([*BASE, "bits=mine,w4a4", "-m"]) == 0
    names = " ".join(path.name for path in Path("outputs/cells").iterdir())
    assert "-w5a16-" in names
    assert "-w4a4-" in names
    main(["--help"])
    assert " mine " in capsys.readouterr().out


def _python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = "{'torch', 'hydra', 'omegaconf', 'submitit', 'numpy', 'rich'}"
    out = _python(
        "import sys; from quantexp.__main__ import main\n"
        f"assert main({arguments}) == 0; print('heavy:', {heavy} & set(sys.modules))"
    )
    assert "heavy: set()" in out


def test_a_finished_sweep_is_shown_without_torch(work: Work) -> None:  # noqa: F811
    arguments = [*BASE, "method=rtn,smoothquant", "-m"]
    assert main(arguments) == 0
    out = _python(
        "import sys; from quantexp.__main__ import main\n"
        f"assert main({arguments}) == 0; print('torch' in sys.modules)"
    )
    assert "3 done, 0 to run" in out
    assert out.strip().endswith("False")


def test_other_hydra_programs_do_not_see_our_launcher() -> None:
    out = _python(
        "from hydra.core.plugins import Plugins; from hydra.plugins.launcher import Launcher\n"
        "print([c.__name__ for c in Plugins.instance().discover(Launcher)])"
    )
    assert "BasicLauncher" in out
    assert "Quantexp" not in out
