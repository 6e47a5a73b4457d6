"""``plugins=[FOLDER]``: what is refused, what runs, what identifies a cell."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from fakes import Work, work  # noqa: F401 (a fixture)
from helpers import make_config
from lab import BASE, CODE, MINE, Write

from quantexp import registry
from quantexp.__main__ import main
from quantexp.cluster import job
from quantexp.config import ExperimentConfig, from_plain
from quantexp.errors import ConfigError
from quantexp.experiment.cell import Cell
from quantexp.plugins import active, known

ROOT = Path(__file__).parents[2]

# (what the folder holds besides or instead, what the message must say)
WRONG: list[tuple[dict[str, str | None], tuple[str, ...]]] = [
    ({"mine_yaml": None}, ("mine.py has no mine.yaml", "_mine.py")),
    ({"mine_py": None, "mnie_py": CODE}, ("mnie.py has no mnie.yaml", "did you mean 'mine'")),
    ({"mine_py": None}, ("mine.yaml has no mine.py",)),
    ({"mine_py": None, "mine_yaml": None}, ("holds no method", "NAME.py")),
    ({"mine_yaml": "name: other\n"}, ("name: other", "write 'name: mine'")),
    ({"mine_yaml": "scale: 0.5\n"}, ("name: None", "write 'name: mine'")),
    ({"mine_yaml": "name: [\n"}, ("mine.yaml cannot be read",)),
    ({"my-own_py": CODE, "my-own_yaml": "name: my-own"}, ("'my-own' is no Python name",)),
    ({"rtn_py": CODE, "rtn_yaml": "name: rtn\n"}, ("'rtn' is taken by", "conf/method", "rename")),
    ({"gptq_py": CODE, "gptq_yaml": "name: gptq\n"}, ("'gptq' is taken by", "conf/method")),
    ({"mine_py": "import nothing_of_the_kind"}, ("mine.py, line 1: ModuleNotFoundError",)),
    ({"mine_py": "x = 1\ny = z"}, ("mine.py, line 2: NameError: name 'z'",)),
    ({"mine_py": "x = 1\ndef f(:"}, ("mine.py, line 2: SyntaxError",)),
    ({"mine_py": "from . import _a", "_a_py": "\n1/0"}, ("_a.py, line 2: ZeroDivisionError",)),
    ({"mine_py": "raise SystemExit(3)"}, ("mine.py, line 1: SystemExit",)),
    ({"mine_py": "x = 1"}, ("one subclass", "has none")),
    ({"mine_py": CODE + "class Two(Mine): pass"}, ("one subclass", "has Mine, Two")),
    ({"mine_py": CODE.replace("@dataclass(frozen=True)", "")}, ("Options", "@dataclass")),
    ({"mine_yaml": "name: mine\nscal: 1\n"}, ("unknown key 'method.scal'", "'scale'")),
]


@pytest.mark.parametrize(("files", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_a_plugin_that_cannot_be_used_is_refused_in_the_users_words(
    files: dict[str, str | None], words: tuple[str, ...], write: Write, work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write(**files)
    assert main(MINE) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "Traceback" not in told
    assert all(word in told for word in words), told
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("plugins=[nowhere]", ("nowhere is missing",)),
        ("plugins=[text.txt]", ("text.txt is a file", "give its folder")),
        ("plugins=lab", ("'plugins=lab'", "write plugins=[FOLDER]")),
        ("plugins=[lab],[other]", ("plugins=[FOLDER,FOLDER]",)),
        ("plugins=[lab", ("write plugins=[FOLDER]",)),
        ("plugins=[lab,other]", ("'mine' is taken by plugin", "/lab", "rename")),
        ("plugins=[lab] method=mnie", ("did you mean 'mine'", "flatquant")),
        ("plugins=[lab] method.scal=1", ("did you mean 'method.scale'",)),
        ("method=mine protocol=official plugins=[lab]", ("no settings for mine", "uniform")),
        ("bits.weight.bit=3 plugins=[lab]", ("did you mean 'bits.weight.bits'",)),
    ],
)
def test_a_wrong_command_is_refused(
    override: str, words: tuple[str, ...], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    write("other")
    assert main([*BASE, "method=mine", *override.split()]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words), told


def test_it_is_offered_and_runs_from_the_command_a_sweeps_file_and_a_conf_file(
    write: Write,
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write()
    assert main(["plugins=[lab]", "--help"]) == 0
    assert " mine " in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert " mine " not in capsys.readouterr().out

    assert main(MINE) == 0
    assert main([*MINE, "method.scale=0.5,0.25", "-m"]) == 0
    Path("sweeps").mkdir()
    Path("sweeps/s.yaml").write_text(
        "description: mine\ncommon: plugins=[lab]\ngrids: ['method=mine,rtn']\n"
    )
    assert main(["sweep=s", "method.scale=0.125", *BASE]) == 0
    Path("conf/method").mkdir(parents=True)
    Path("conf/method/variant.yaml").write_text(
        "# @package _global_\nplugins: [lab]\nmethod: {name: mine, scale: 2.0}\n"
    )
    assert main([*BASE, "method=variant"]) == 0
    assert main([*BASE, "method=variant", "method.scale=3", "bits=w4a16", "-m"]) == 0
    assert work.done == ["mine", "none", "mine", "mine", "rtn", "mine", "mine"]
    with pytest.raises(ConfigError, match="unknown method 'mine'"):
        main_config("mine")


def test_a_yaml_file_may_set_keys_beside_the_method(write: Write, work: Work) -> None:  # noqa: F811
    write(mine_yaml="# Mine.\n# @package _global_\nmethod: {name: mine}\nrounding: gptq\n")
    assert main(MINE) == 0
    assert work.done == ["mine+gptq"]


def test_it_may_lie_in_conf_method_but_not_share_a_name_with_it(
    write: Write,
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("conf/method")
    assert main([*BASE, "plugins=[conf/method]", "method=mine"]) == 0
    write("lab")
    assert main(MINE) == 2
    assert "'mine' is taken by" in capsys.readouterr().err
    assert work.done == ["mine"]


def test_an_edited_method_calibrates_anew_and_a_moved_one_does_not(
    write: Write,
    work: Work,  # noqa: F811
) -> None:
    place = write()
    assert main(MINE) == 0
    place.rename(place.with_name("moved"))
    moved = [item.replace("[lab]", "[moved]") for item in MINE]
    assert main(moved) == 0
    assert work.done == ["mine"]
    code = Path("moved/mine.py")
    code.write_text(code.read_text() + "# edited\n")
    assert main(moved) == 0
    assert work.done == ["mine", "mine"]
    assert len(list(Path("outputs/cells").iterdir())) == 2


def test_an_edited_method_is_imported_anew_in_one_process(write: Write) -> None:
    place = write()
    with active.active(["lab"]):
        assert registry.method("mine").version == 1
    (place / "mine.py").write_text(CODE + "    version = 2\n")
    with active.active(["lab"]):
        assert registry.method("mine").version == 2
    assert not list(place.rglob("*.pyc"))


def test_records_say_which_code_it_was(write: Write, work: Work) -> None:  # noqa: F811
    place = write()
    assert main(MINE) == 0
    (path,) = Path("outputs/cells").glob("*/cell.json")
    stored = json.loads(path.read_text())
    plugin = stored["plugin"]
    assert (plugin["name"], plugin["origin"]) == ("mine", str(place))
    assert len(plugin["source"]) == 64
    assert "plugins" in stored["run_only"]


def test_nothing_is_imported_because_a_stored_configuration_names_it(
    write: Write,
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = write()
    assert main(MINE) == 0
    (path,) = Path("outputs/cells").glob("*/cell.json")
    (place / "mine.py").write_text("raise SystemExit('it was run')")
    for command in (["report"], ["status"], ["clean", "--state", "done"]):
        assert main(command) == 0
    assert "mine" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="unknown method 'mine'"):
        from_plain(json.loads(path.read_text())["config"])


def test_a_job_gets_absolute_paths_and_refuses_code_that_was_edited_meanwhile(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write()
    with active.active(["lab"]):
        cell = Cell(main_config("mine"))
        variables = job.environment([cell], cell.config.cluster)
        part = job.part("both", [cell], [cell])
    assert variables[known.VARIABLE] == str(place)
    (place / "mine.py").write_text(CODE + "# edited\n")
    monkeypatch.chdir(place)
    code = (
        "import json, sys; from quantexp.cluster import job\n"
        "part, variables = json.loads(sys.stdin.read())\n"
        "job.perform([job.Part(**part)], variables)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([asdict(part), variables]),
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "mine.py was edited after this job was submitted" in done.stderr


def test_planning_with_a_plugin_imports_no_torch(write: Write) -> None:
    write()
    code = (
        "import sys; from quantexp.__main__ import main\n"
        f"code = main({[*MINE, '--dry-run']}); print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().endswith("0 False")


def main_config(method: str) -> ExperimentConfig:
    return make_config("model", method, options={})
