"""CONTRIBUTING.md's example of a method is a method: it runs as printed."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import (
    calibrated,
    logits,
    make_config,
    plain_blocks,
    stored_blocks,
    streamed,
    tiny_llama,
    windows,
)

from quantexp import methods, registry

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def test_the_example_is_found_by_its_file_name_and_preserves_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (options,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "halve.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    chosen = yaml.safe_load(options)
    assert chosen.pop("name") == "halve"
    assert "halve" in registry.method_names()

    path = tiny_llama(tmp_path / "model")
    config = make_config(path, "halve", (16, 16, 16, 16), options=chosen)
    model, tokens = streamed(config), windows()
    rebuilt = stored_blocks(model, config, calibrated(model, config, None, tmp_path / "blocks"))
    norms = [block.get_submodule("input_layernorm") for block in rebuilt]
    originals = [block.get_submodule("input_layernorm") for block in plain_blocks(model)]
    for norm, original in zip(norms, originals, strict=True):
        torch.testing.assert_close(norm.weight, original.weight * chosen["scale"])
    exact = logits(model, plain_blocks(model), tokens)
    torch.testing.assert_close(logits(model, rebuilt, tokens), exact, rtol=1e-4, atol=1e-4)
