"""The quantized checkpoint: written atomically, found again, damage noticed."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantexp.calibration import checkpoint as module
from quantexp.calibration.checkpoint import QuantizedCheckpoint, quantized_bits
from quantexp.errors import DataError
from quantexp.experiment import record


def tensors(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "q.packed": torch.randint(0, 256, (8, 4), generator=draw).to(torch.uint8),
        "q.scale": torch.randn(8, 1, generator=draw).half(),
        "norm.weight": torch.randn(8, generator=draw).bfloat16(),
    }


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[k], expected[k]) and found[k].dtype == expected[k].dtype for k in expected
    )


@pytest.fixture
def grown(tmp_path: Path) -> QuantizedCheckpoint:
    found = QuantizedCheckpoint(tmp_path / "c")
    for index in range(3):
        found.save_block(index, tensors(index), {"block": index})
    return found


def test_a_saved_block_comes_back_with_its_report(grown: QuantizedCheckpoint) -> None:
    saved = grown.saved_block(1)
    assert saved is not None
    assert same(saved[0], tensors(1))
    assert saved[1] == {"block": 1}
    assert grown.saved_block(3) is None
    assert not grown.complete


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no note", "broken note"])
def test_a_damaged_block_is_a_missing_block(grown: QuantizedCheckpoint, damage: str) -> None:
    path = grown.folder / "blocks" / "00001.safetensors"
    note = path.with_suffix(".json")
    content = path.read_bytes()
    {
        "truncate": lambda: path.write_bytes(content[:-7]),
        "flip": lambda: path.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),
        "remove": path.unlink,
        "no note": note.unlink,
        "broken note": lambda: note.write_text(note.read_text()[:10]),
    }[damage]()
    assert grown.saved_block(1) is None
    assert grown.saved_block(2) is not None


def test_a_damaged_block_is_named(
    grown: QuantizedCheckpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grown.folder / "blocks" / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    assert grown.saved_block(1) is None
    assert f"{path} is damaged" in capsys.readouterr().out


def test_damage_behind_the_write_never_gets_into_the_checkpoint(
    grown: QuantizedCheckpoint,
) -> None:
    path = grown.folder / "blocks" / "00002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"00002.safetensors was damaged .*the same command again"):
        grown.consolidate(3, {}, {})
    assert not grown.complete
    assert grown.saved_block(2) is None  # it is made anew, the others are not
    assert grown.saved_block(1) is not None
    grown.save_block(2, tensors(2), {})
    grown.consolidate(3, {}, {})
    assert grown.complete


def test_what_is_rebuilt_is_read_from_the_bytes_that_were_written(tmp_path: Path) -> None:
    given = tensors(0)
    checkpoint = QuantizedCheckpoint(tmp_path)
    back = checkpoint.save_block(0, given, {})
    assert same(back, given)
    assert all(back[name].data_ptr() != given[name].data_ptr() for name in given)
    note = record.read(tmp_path / "blocks" / "00000.json")
    file = (tmp_path / "blocks" / "00000.safetensors").read_bytes()
    assert note is not None
    assert note["sha256"] == hashlib.sha256(file).hexdigest()


@pytest.mark.parametrize("shard", [1, 10_000])
def test_consolidated_blocks_are_the_same_in_few_files(
    grown: QuantizedCheckpoint, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARD", shard)
    grown.consolidate(3, {"calibration": "x"}, {"blocks": []})
    assert grown.complete
    assert len(list((grown.folder / "checkpoint").iterdir())) == (3 if shard == 1 else 1)
    assert not (grown.folder / "blocks").exists()
    again = QuantizedCheckpoint(grown.folder)
    for index in (2, 0, 1):
        assert same(again.block(index), tensors(index))


def test_ten_blocks_are_not_mistaken_for_the_first(tmp_path: Path) -> None:
    found = QuantizedCheckpoint(tmp_path)
    for index in range(11):
        found.save_block(index, tensors(index), {})
    found.consolidate(11, {}, {})
    assert same(found.block(1), tensors(1))


def test_the_manifest_names_every_file_and_its_hash(grown: QuantizedCheckpoint) -> None:
    grown.consolidate(3, {"calibration": "x"}, {"blocks": []})
    manifest = json.loads((grown.folder / "manifest.json").read_text())
    assert manifest["calibration"] == "x"
    assert [len(f["sha256"]) for f in manifest["files"].values()] == [64]
    report = json.loads((grown.folder / "report.json").read_text())
    assert report == {"blocks": [], "checksum": report["checksum"]}
    assert not record.altered(report)


def test_a_damaged_checkpoint_is_refused_with_a_way_out(grown: QuantizedCheckpoint) -> None:
    grown.consolidate(3, {}, {})
    path = grown.folder / "checkpoint" / "00000.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"is damaged .*remove the folder"):
        QuantizedCheckpoint(grown.folder).block(0)


def test_a_checkpoint_whose_files_were_freed_is_not_complete(grown: QuantizedCheckpoint) -> None:
    grown.consolidate(3, {}, {})
    (grown.folder / "checkpoint" / "00000.safetensors").unlink()
    assert not grown.complete


def test_effective_bits_count_integers_scales_and_online_matrices() -> None:
    block = {
        "q.packed": torch.zeros(64, 32, dtype=torch.uint8),  # 64 x 64 weights of 4 bits
        "q.scale": torch.zeros(64, 1, dtype=torch.float16),
        "q.bias": torch.zeros(64),
        "online.attention_input.left": torch.zeros(8, 8, dtype=torch.float16),
        "norm.weight": torch.zeros(64),
    }
    assert quantized_bits(block, {"q"}) == 64 * 64 * 4 + 64 * 16 + 64 * 16


def test_a_block_of_other_code_is_made_anew(
    grown: QuantizedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "science", lambda: "other")
    assert grown.saved_block(0) is None
    grown.save_block(0, tensors(0), {})
    assert grown.saved_block(0) is not None
    assert grown.saved_block(1) is None  # behind it, but not its continuation
