"""sweep=NAME: what cells a file means, that they are Hydra's, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import Work, fake_model, work  # noqa: F401 (a fixture)
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from quantexp.__main__ import main
from quantexp.config import ProtocolConfig, from_plain
from quantexp.errors import ConfigError
from quantexp.experiment import plan
from quantexp.experiment.cell import Cell
from quantexp.grid import files
from quantexp.grid.command import anonymous, named
from quantexp.grid.compose import Composer
from quantexp.grid.expand import expand
from quantexp.grid.files import SweepFile
from quantexp.protocols import official
from quantexp.resources import PACKAGE, own

SHIPPED = sorted(path.stem for path in own("sweeps").glob("*.yaml"))
ROOT = Path(__file__).parents[1]
BASE = ("model=local", "model.path=model", "cluster=debug", "tracker=none")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a model and a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTEXP_OUTPUTS", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGE / "_plugins")])
    fake_model(tmp_path / "model")
    return tmp_path


def mine(name: str, text: str) -> None:
    Path("sweeps").mkdir(exist_ok=True)
    Path(f"sweeps/{name}.yaml").write_text(text)


def cells(*grids: str, given: tuple[str, ...] = (), **others: Any) -> list[str]:
    sweep = SweepFile("a test", grids, **others)
    return [" ".join(cell.overrides) for cell in expand(sweep, "sweeps/t.yaml", given)]


def hydras(*overrides: str) -> Any:
    """Hydra's own composition, the oracle."""
    return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


# --- what ships


PAPERS = [name for name in SHIPPED if "data=" in files.read(name)[0].common]


def equal_to_hydras(name: str, every: bool) -> None:
    sweep, path = files.read(name)
    found = [cell.overrides for cell in expand(sweep, path.name, [])]
    with initialize_config_dir(str(own("conf")), version_base="1.3"):
        composer = Composer(lambda overrides: compose("config", overrides))
        for overrides in found if every else {found[0], found[-1]}:
            data = composer(overrides)
            assert data == hydras(*overrides)
            from_plain(data)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sweep_is_what_hydra_composes(name: str) -> None:
    equal_to_hydras(name, every=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_cell_of_every_shipped_sweep_is_what_hydra_composes(name: str) -> None:
    equal_to_hydras(name, every=True)


@pytest.mark.parametrize("name", PAPERS)
def test_every_papers_sweep_runs_on_the_demo_model_without_network(name: str) -> None:
    grid = named(name, ["model=demo"])
    made = plan.make([from_plain(data) for data in grid.data], baselines=True)
    for cell in made.cells:
        assert cell.config.model.source == "demo"
        assert cell.config.data.corpus == "pydocs"
        assert {item.corpus for item in cell.config.evaluation.perplexity} == {"pydocs"}
    assert made.cells[0].config.label == "none"


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_sweep_has_that_papers_settings_and_no_cell_is_refused(name: str) -> None:
    for given in ([], ["model=demo"]):
        grid = named(name, given)
        for data, asked in zip(grid.data, grid.asked, strict=True):
            config = from_plain(data)
            assert config.protocol.name == "official"
            assert official.conflicts(config, asked) == []
    uniform = [from_plain(data) for data in named(name, ["model=demo", "protocol=uniform"]).data]
    assert {config.protocol for config in uniform} == {ProtocolConfig("uniform")}


def test_a_sweeps_own_line_yields_to_the_paper_but_the_command_line_does_not() -> None:
    [data] = named("quarot_table7", ["model=llama2_7b", "method=gptq", "bits=w4a16"]).data
    assert from_plain(data).data.corpus == "wikitext2"
    grid = named("quarot_table7", ["bits.weight.scheme=symmetric", "model=demo"])
    config = from_plain(grid.data[0])
    [problem] = official.conflicts(config, grid.asked[0])
    assert problem.startswith("bits.weight.scheme=symmetric: protocol=official sets")


def test_the_demo_table_has_the_papers_rows() -> None:
    labels = [from_plain(data).label for data in named("flatquant_table1", ["model=demo"]).data]
    assert labels == ["smoothquant", "flatquant", "flatquant+gptq", "omniquant"]


def test_the_ablation_has_all_eight_rows() -> None:
    configs = [from_plain(data) for data in named("flatquant_ablation", ["model=demo"]).data]
    rows = [
        (o.transform, o.per_channel_scaling, o.clipping)
        for o in (config.method.options for config in configs)
        if hasattr(o, "transform")
    ]
    assert len(rows) == len(set(rows)) == 7
    assert [config.label for config in configs].count("rtn") == 1


def test_help_lists_every_sweep_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    mine("own", "description: a sweep of mine\ngrids: [method=rtn]\n")
    mine("broken", "grids: [")
    assert main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for name, line in files.descriptions().items():
        assert f"{name} {line}" in told
    assert "own a sweep of mine" in told


# --- unions, exclusions, duplicates


def test_a_sweep_is_a_union_of_products() -> None:
    assert cells("method=rtn,gptq bits=w4a4,w8a8", "method=none") == [
        "method=rtn bits=w4a4",
        "method=rtn bits=w8a8",
        "method=gptq bits=w4a4",
        "method=gptq bits=w8a8",
        "method=none",
    ]


def test_hydras_lists_are_understood() -> None:
    assert cells("seed=range(0,3)") == ["seed=0", "seed=1", "seed=2"]
    quants = ("flatquant", "omniquant", "smoothquant")
    assert cells("method=glob(*quant)") == [f"method={name}" for name in quants]
    assert cells("method=choice(rtn,gptq)") == ["method=rtn", "method=gptq"]


def test_equal_cells_of_two_grids_count_once() -> None:
    assert cells("method=rtn,gptq", "method=gptq,none") == [
        "method=rtn",
        "method=gptq",
        "method=none",
    ]


def test_a_grids_own_override_wins_over_the_common_one() -> None:
    assert cells("method=rtn", "bits=w8a8", common="bits=w4a4 method=none") == [
        "bits=w4a4 method=rtn",
        "bits=w8a8 method=none",
    ]


def test_an_excluded_cell_meets_all_conditions_of_a_line() -> None:
    found = cells("method=rtn,gptq bits=w4a4,w8a8", exclude=("method=gptq bits=w8a8,w4a8",))
    assert found == ["method=rtn bits=w4a4", "method=rtn bits=w8a8", "method=gptq bits=w4a4"]
    flags = cells("method=flatquant method.clipping=true,false", exclude=("method.clipping=false",))
    assert len(flags) == 1


# --- the command line applies to all cells


def test_the_command_line_replaces_an_axis_and_equal_cells_merge() -> None:
    grids = ("model=llama2_7b,llama2_13b method=rtn,gptq", "model=llama3_8b method=rtn")
    assert cells(*grids, given=("model=hf",)) == [
        "method=rtn model=hf",
        "method=gptq model=hf",
    ]
    assert len(cells(*grids, given=("seed=range(0,2)",))) == 10
    assert cells(*grids, given=("model=llama2_7b,llama2_70b", "method=rtn")) == [
        "model=llama2_7b method=rtn",
        "model=llama2_70b method=rtn",
    ]


def test_an_exclusion_holds_for_what_the_command_line_brings() -> None:
    sweep = {"exclude": ("method=gptq bits=w8a8",)}
    grid = "method=rtn,gptq bits=w4a4,w8a8"
    assert cells(grid, given=("bits=w8a8",), **sweep) == ["method=rtn bits=w8a8"]
    with pytest.raises(ConfigError, match="every cell is excluded"):
        cells(grid, given=("bits=w8a8", "method=gptq"), **sweep)


def test_the_demo_model_brings_its_text_unless_another_is_given() -> None:
    grid = "model=llama2_7b data=local evaluation=local data.seed=0,1"
    [first, _] = cells(grid, given=("model=demo",))
    assert set(first.split()) == {
        "model=demo",
        "data=pydocs",
        "evaluation=pydocs",
        "data.seed=0",
    }
    [first, _] = cells(grid, given=("model=demo", "data=local"))
    assert "data=local" in first
    assert "evaluation=pydocs" in first
    in_file = cells("model=demo data=local evaluation=local")
    assert in_file == ["model=demo data=local evaluation=local"]


def test_another_model_or_method_leaves_the_files_options_behind() -> None:
    assert "model.path" not in cells("model=hf model.path=a/b", given=("model=demo",))[0]
    assert cells("method=flatquant method.epochs=1,2", given=("method=rtn",)) == ["method=rtn"]


def test_an_option_goes_to_the_methods_that_have_it() -> None:
    grid = named("quickstart", ["method.epochs=1,2"])
    epochs = [data["method"].get("epochs") for data in grid.data]
    assert epochs == [None, None, None, None, 1, 2]


def test_overrides_that_change_numbers_change_the_name() -> None:
    assert named("quickstart", ["paths.outputs=x", "cluster=debug"]).name == "quickstart"
    demo = named("flatquant_table1", ["model=demo"]).name
    assert demo.startswith("flatquant_table1-demo-")
    assert named("flatquant_table1", ["model=demo", "method.epochs=1"]).name != demo
    assert named("quickstart", ["seed=1", "name=mine"]).name == "mine"


# --- composition


def test_composition_is_once_per_combination_and_equals_hydras(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed: list[list[str]] = []

    def counted(name: str, overrides: list[str]) -> Any:
        composed.append(overrides)
        return compose(name, overrides)

    monkeypatch.setattr("quantexp.grid.command.compose", counted)
    given = [
        "method=rtn,gptq",
        "bits=w4a4,w8a8",
        "seed=range(0,10)",
        "data.seed=range(0,5)",
        "bits.weight.clip_ratio=0.8,0.9,0.95,0.99,1",
    ]
    grid = anonymous(given)
    assert len(grid.data) == 1000
    assert len(composed) == 4
    with initialize_config_dir(str(own("conf")), version_base="1.3"):
        for overrides, data in list(zip(grid.overrides, grid.data, strict=True))[:: 1000 // 3]:
            assert data == hydras(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=gptq", "rounding=rtn", "bits=w2a16", "bits.weight.group_size=null"),
        ("bits.weight.bits=3", "bits=w8a8", "model.path='a b'", "name=x"),
        ("bits.weight={bits:3,group_size:64}", "bits.weight.scheme=asymmetric"),
        ("evaluation.perplexity=[{name:a,path:b}]", "evaluation.max_windows=3"),
        ("+tracker.more=1", "tracker.more=2", "~gptq.act_order", "data.path=${seed}"),
    ],
    ids=" ".join,
)
def test_composition_equals_hydras_for_every_kind_of_override(overrides: tuple[str, ...]) -> None:
    with initialize_config_dir(str(own("conf")), version_base="1.3"):
        composer = Composer(lambda items: compose("config", items))
        composer(("bits.weight={bits:2,clip_ratio:0.5}", "seed=9"))  # must leave no trace
        for seed in ("seed=5", "seed=6"):
            assert composer([*overrides, seed]) == hydras(*overrides, seed)


# --- what is refused

WRONG = [
    ("sweep=quickstrat", "quickstrat", "did you mean 'quickstart'", "seeds", "./sweeps/NAME.yaml"),
    ("sweep=", "unknown sweep ''", "quickstart"),
    ("sweep=quickstart,seeds", "one sweep at a time"),
    ("sweep=quickstart sweep=seeds", "one sweep at a time"),
    ("sweep=quickstart --cfg job", "--cfg", "leave it out"),
    ("sweep=quickstart hydra.verbose=true", "hydra.verbose", "leave it out"),
    ("sweep=quickstart method.epoch=1", "method.epoch'", "did you mean 'method.epochs'"),
    (
        "sweep=quickstart method=rtn method.epochs=1",
        "epochs belongs to flatquant, omniquant, not to rtn",
    ),
    ("sweep=quickstart method=flatquan", "error: unknown method 'flatquan'", "'flatquant'"),
    ("sweep=quickstart data.num_sample=3", "error: unknown key 'data.num_sample'", "num_samples"),
    ("sweep=quickstart seed=interval(0,1)", "interval", "range(0,3)"),
    ("sweep=quickstart seed=[1", "seed=[1", "KEY=VALUE"),
    ("sweep=value data.path=x --json", "--json", "leave it out"),
    ("sweep=group", "sweeps/group.yaml, grid 2", "flatquan", "did you mean 'flatquant'"),
    ("sweep=key", "sweeps/key.yaml, grid 1", "bits.weight.bit'", "'bits.weight.bits'"),
    ("sweep=common", "sweeps/common.yaml, common", "bits"),
    (
        "sweep=option",
        "sweeps/option.yaml, grid 1",
        "epochs belongs to flatquant, omniquant, not to rtn",
    ),
    ("sweep=syntax", "sweeps/syntax.yaml, grid 1", "rtn", "did you mean method=rtn"),
    ("sweep=quote", "sweeps/quote.yaml, grid 1", "quotation"),
    ("sweep=exclude", "sweeps/exclude.yaml", "bits=w8a8", "matches no cell"),
    ("sweep=schema", "sweeps/schema.yaml", "'grid'", "did you mean 'grids'"),
    ("sweep=nodescription", "sweeps/nodescription.yaml", "description"),
    ("sweep=nogrid", "sweeps/nogrid.yaml", "grids", "method=rtn,gptq"),
    ("sweep=string", "sweeps/string.yaml", "grids", "list"),
    ("sweep=yaml", "sweeps/yaml.yaml", "cannot be read", "line 1"),
    ("sweep=value", "1 of 2 cells", "seed=-1", "0 or more"),
]
FILES = {
    "group": "grids: [method=rtn, method=flatquan]",
    "key": "grids: [bits.weight.bit=4]",
    "common": "common: ~bits\ngrids: [method=rtn]",
    "option": "grids: [method=rtn method.epochs=1]",
    "syntax": "grids: [rtn]",
    "quote": 'grids: ["model.path=\'a"]',
    "exclude": "grids: [method=rtn]\nexclude: [bits=w8a8]",
    "schema": "grid: [method=rtn]",
    "nogrid": "grids: []",
    "string": "grids: method=rtn",
    "yaml": "grids: ]",
    "value": "grids: [method=rtn seed=0, method=rtn seed=-1]",
}


@pytest.mark.parametrize("case", WRONG, ids=[case[0] for case in WRONG])
def test_wrong_sweeps_are_refused_before_any_work(
    case: tuple[str, ...],
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in FILES.items():
        mine(name, f"description: a test\n{text}\n" if name != "yaml" else text)
    mine("nodescription", "grids: [method=rtn]\n")
    arguments, *expected = case
    assert main([*BASE, *arguments.split()]) == 2
    told = capsys.readouterr()
    for part in expected:
        assert part in told.err
    assert "Traceback" not in told.err + told.out
    assert not work.done
    assert not Path("outputs").exists()


# --- runs and plans


def test_the_users_sweep_runs_and_ours_go_first(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine("own", "description: mine\ngrids: [method=rtn, method=smoothquant]\n")
    assert main([*BASE, "sweep=own"]) == 0
    assert work.done == ["none", "rtn", "smoothquant"]
    [stored] = Path("outputs/sweeps").glob("own-local-*/sweep.json")
    assert json.loads(stored.read_text())["overrides"] == ["sweep=own", *BASE]
    assert len(json.loads(stored.read_text())["cells"]) == 3
    assert main(["-m", *BASE, "sweep=own"]) == 0
    assert len(work.done) == 3
    capsys.readouterr()
    mine("quickstart", "description: not ours\ngrids: [method=rtn]\n")
    assert main(["sweep=quickstart", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "flatquant" in told.out
    assert "rename yours" in told.err


def test_a_failed_cell_gives_the_exit_code(work: Work) -> None:  # noqa: F811
    mine("own", "description: mine\ngrids: ['method=rtn,smoothquant']\n")
    work.failing["rtn"] = ValueError("boom")
    assert main([*BASE, "sweep=own"]) == 1
    assert work.done == ["none", "rtn", "smoothquant"]


def test_a_dry_run_shows_the_plan_and_starts_nothing(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = set(Path().rglob("*"))
    arguments = [*BASE, "method=rtn,smoothquant", "-m"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "cells    3 (0 done, 3 to run in 3 jobs)" in capsys.readouterr().out
    assert not work.done
    assert set(Path().rglob("*")) == before
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--dry-run", "--json", "seed=1"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [cell["state"] for cell in planned["cells"]] == ["done"] * 3  # none of them is seeded
    ran = {path.name for path in Path("outputs/cells").iterdir()}
    assert {cell["cell"] for cell in planned["cells"]} == ran
    assert main([*BASE, "--dry-run", "method=rtn"]) == 0
    assert "cells    1 (1 done, 0 to run in 0 jobs)" in capsys.readouterr().out


def test_a_dry_run_names_the_same_sweep_as_the_run(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*BASE, "method=rtn", "bits=w4a4,w8a8", "-m"]
    assert main([*arguments, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["sweep"]
    assert main(arguments) == 0
    assert [path.name for path in Path("outputs/sweeps").iterdir()] == [planned]


def test_a_dry_run_gives_the_reason_of_every_cell_that_cannot_run(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*BASE, "bits.weight.group_size=16,30", "-m", "--dry-run"]
    assert main(arguments) == 2
    told = capsys.readouterr().out
    assert "2 to run" in told
    assert "group_size=30 does not divide" in told
    assert "in bits.weight.group_size=30" in told
    assert main([*BASE, "method=rtn,gptq", "--dry-run"]) == 2
    assert "add -m" in capsys.readouterr().err


def test_a_dry_run_downloads_nothing_and_imports_no_torch() -> None:
    code = (
        "import sys; from quantexp.__main__ import main\n"
        "code = main(['model=hf', 'model.path=no/model', '--dry-run'])\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HF_HOME": str(Path.cwd() / "hub")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "(offline)" in done.stdout
    assert done.stdout.strip().endswith("2 False")


def test_cells_of_a_sweep_are_those_of_single_commands() -> None:
    [data] = named("quickstart", ["method=rtn"]).data
    with initialize_config_dir(str(own("conf")), version_base="1.3"):
        assert Cell(from_plain(data)).id == Cell(from_plain(hydras("method=rtn"))).id
