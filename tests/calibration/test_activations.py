"""Where activations lie changes no number, is chosen by what is free, and leaves nothing behind."""

import hashlib
from pathlib import Path

import pytest
import torch
from helpers import calibrated, make_config, silent, stored_blocks, streamed, tiny_llama, windows

from quantexp import host
from quantexp.calibration import activations
from quantexp.calibration.activations import Store
from quantexp.calibration.footprint import Work
from quantexp.errors import ConfigError, DataError
from quantexp.evaluation.perplexity import window_nll
from quantexp.experiment.cell import Cell

TOKENS = windows()
CPU = torch.device("cpu")
FREE = 1 << 30
SHAPE = (4, 16, 8)  # 2 KiB in float32


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "m")


def blocks(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.glob("blocks/*.safetensors")
    }


@pytest.mark.parametrize("method", ["flatquant", "omniquant"])
def test_no_number_depends_on_the_place(method: str, path: Path, tmp_path: Path) -> None:
    found = {}
    for place in activations.PLACES:
        config = make_config(path, method, (4, 4, 4, 4), rounding="gptq", activations=place)
        model = streamed(config)
        checkpoint = calibrated(model, config, TOKENS, tmp_path / place)
        made = stored_blocks(model, config, checkpoint)
        store = Store(place, CPU, tmp_path)
        nll = window_nll(model, lambda i, made=made: made[i], TOKENS, silent, store)
        found[place] = blocks(tmp_path / place), nll
    assert len(found["disk"][0]) == 2
    assert found["disk"] == found["host"] == found["device"]


def test_streams_of_16_bits_are_another_calibration(path: Path, tmp_path: Path) -> None:
    configs = {
        name: make_config(path, "smoothquant", activation_dtype=name)
        for name in ("float32", "bfloat16")
    }
    found = {}
    for name, config in configs.items():
        calibrated(streamed(config), config, TOKENS, tmp_path / name)
        found[name] = blocks(tmp_path / name)
    assert found["float32"] != found["bfloat16"]
    inputs = {name: Cell(config).calibration_inputs for name, config in configs.items()}
    assert inputs["bfloat16"].pop("activation_dtype") == "bfloat16"
    assert inputs["bfloat16"] == inputs["float32"]  # results of earlier versions stay theirs
    everywhere = make_config(path, "smoothquant", activations="disk")
    assert Cell(everywhere).calibration == Cell(configs["float32"]).calibration


def choose(setting: str, folder: Path, work: int = 0) -> Store:
    return activations.choose(setting, 2, SHAPE, torch.float32, CPU, Work(0, work), folder)


def test_the_first_place_with_room_is_taken_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(activations, "free_memory", lambda: FREE)
    assert choose("auto", tmp_path).place == "host"
    assert "4 windows of 16 tokens: 2 stream(s) of" in capsys.readouterr().out
    assert choose("auto", tmp_path, work=FREE - 4095).place == "disk"
    assert str(tmp_path) in capsys.readouterr().out
    assert choose("device", tmp_path).place == "host"  # there is no other
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    assert choose("disk", tmp_path).scratch == own


def test_without_room_anywhere_the_error_says_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(activations, "free_memory", lambda: 100)
    monkeypatch.setattr(activations, "_IN_MEMORY", tuple({*_file_systems(), "tmpfs"}))
    with pytest.raises(DataError, match=r"no place has room.*TMPDIR"):
        choose("auto", tmp_path)
    with pytest.raises(ConfigError, match="activations 'ram'"):
        make_config("x", activations="ram")


def _file_systems() -> set[str]:
    import psutil

    return {p.fstype for p in psutil.disk_partitions(all=True)}


def test_a_map_has_no_name_that_a_crash_could_leave(tmp_path: Path) -> None:
    stream = Store("disk", CPU, tmp_path).empty((2, 3, 4), torch.bfloat16)
    stream.fill_(7)
    assert stream.shape == (2, 3, 4)
    assert float(stream.sum()) == 7 * 24
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_not_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match="No space left on device; set TMPDIR"):
        Store("disk", CPU, tmp_path).empty((1, 1, 1), torch.float32)


def test_free_memory_obeys_the_limits_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = host.free_memory()
    group = tmp_path / "job"
    group.mkdir()
    (group / "memory.max").write_text("3000\n")
    (group / "memory.current").write_text("2500\n")
    (group / "memory.stat").write_text("anon 2000\ninactive_file 300\n")
    monkeypatch.setattr(host, "_CGROUPS", tmp_path)
    monkeypatch.setattr(host, "_groups", lambda: "0::/job\n")
    assert host.free_memory() == 800
    (group / "memory.max").write_text("max\n")
    assert host.free_memory() > 800
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")  # MiB, and we already take more
    assert host.free_memory() == 0
    assert least > 0
