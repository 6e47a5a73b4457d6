"""Reading ahead: the right bytes are asked for, once there is a block behind the present one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_config, streamed, tiny_llama
from safetensors.torch import load_file

from quantexp.models.ahead import read_ahead


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("ahead") / "model")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes that the system is asked to read."""
    found: list[bytes] = []

    def advise(file: int, first: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        found.append(os.pread(file, length, first))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return found


def test_reading_a_block_asks_for_the_next_ones_tensors(folder: Path, asked: list[bytes]) -> None:
    model = streamed(make_config(folder, "rtn", (4, 16, 16, 16)))
    stored = load_file(folder / "model.safetensors")
    expected = {
        bytes(tensor.contiguous().view(torch.uint8).numpy().data)
        for name, tensor in stored.items()
        if name.startswith("model.layers.1.")
    }
    assert len(expected) > 5
    model.block(0, torch.float32)
    assert set(asked) == expected
    asked.clear()
    model.block(1, torch.float32)  # the last
    assert asked == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 7, json.dumps({}).encode() * 9])
def test_a_damaged_file_is_for_the_reader_to_report(
    content: bytes, tmp_path: Path, asked: list[bytes]
) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    read_ahead(["x"], {"x": str(path)})
    read_ahead(["x"], {"x": str(tmp_path / "absent")})
    assert asked == []


def test_systems_without_such_a_request_do_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    found: Any = read_ahead(["x"], {"x": str(folder / "model.safetensors")})
    assert found is None
