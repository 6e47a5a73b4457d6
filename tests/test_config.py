"""conf/ and its schema: every choice is valid, and equal experiments are equal configurations."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import fake_model

from quantexp import registry
from quantexp.config import from_plain, to_plain
from quantexp.errors import ConfigError
from quantexp.experiment.cell import Cell
from quantexp.resources import GROUPS, choices, own
from quantexp.typed import plain


@cache
def composed(*overrides: str) -> dict[str, Any]:
    import sys

    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from quantexp.resources import PACKAGE

    if str(PACKAGE / "_plugins") not in sys.path:
        sys.path.append(str(PACKAGE / "_plugins"))
    with initialize_config_dir(str(own("conf")), version_base="1.3"):
        data: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
        return data


MISSING = {"local": "path=x.txt", "hf": "path=org/name", "ptb": "path=x.parquet"}


@pytest.mark.parametrize(
    "choice", [(group, name) for group in GROUPS for name in choices(group)], ids="=".join
)
def test_every_choice_composes_and_validates(choice: tuple[str, str]) -> None:
    group, name = choice
    overrides = [f"{group}={name}"]
    if group in ("model", "data", "evaluation") and name in MISSING:
        overrides.append(f"{group}.{MISSING[name]}")
    config = from_plain(composed(*overrides))
    assert from_plain(to_plain(config)) == config


@pytest.mark.parametrize("method", choices("method"))
@pytest.mark.parametrize("bits", choices("bits"))
def test_every_method_takes_every_bits(method: str, bits: str) -> None:
    data = {**composed(f"method={method}"), "bits": composed(f"bits={bits}")["bits"]}
    about_weights = data["rounding"] == "gptq" or method == "awq"
    if about_weights and not re.search(r"w[1-8]a", bits):
        with pytest.raises(ConfigError, match=r"rounding=rtn|keep 16 bits.*choose bits with w2…w8"):
            from_plain(data)
        return
    label = from_plain(data).bits.label
    assert label == ("w16a16" if method == "none" else bits)


@pytest.mark.parametrize("method", registry.method_names())
def test_yaml_holds_exactly_the_methods_options_with_their_defaults(method: str) -> None:
    stored = composed(f"method={method}")["method"]
    assert stored == {"name": method, **plain(registry.method(method).Options())}


def test_nothing_in_conf_is_executable() -> None:
    for path in own("conf").rglob("*.yaml"):
        assert "_target_" not in path.read_text()


def test_every_yaml_begins_by_saying_what_it_is() -> None:
    for path in own("conf").rglob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[1 if "@package" in lines[0] else 0].startswith("# "), path
        assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.fixture
def model(tmp_path: Path) -> tuple[str, str]:
    return "model=local", f"model.path={fake_model(tmp_path / 'model')}"


def cell(*overrides: str) -> Cell:
    return Cell(from_plain(composed(*overrides)))


def test_gptq_is_rtn_with_rounding_gptq(model: tuple[str, str]) -> None:
    short = cell(*model, "method=gptq", "gptq.damping=0.02")
    assert short.fingerprint == cell(*model, "rounding=gptq", "gptq.damping=0.02").fingerprint
    assert short.config.label == "gptq"
    assert cell(*model, "method=gptq", "rounding=rtn").id == cell(*model, "method=rtn").id


def test_the_baseline_is_one_whatever_bits_say(model: tuple[str, str]) -> None:
    plainly = cell(*model, "method=none", "bits=w16a16")
    other = cell(*model, "method=none", "bits=w2a16g64", "bits.weight.clip_ratio=0.9", "seed=3")
    assert plainly.id == other.id
    assert not other.config.bits.active


def test_where_it_runs_never_changes_the_name(model: tuple[str, str]) -> None:
    moved = ("cluster=debug", "cluster.threads=7", "tracker=none", "keep=records", "name=x")
    assert cell(*model).id == cell(*model, *moved, "paths.outputs=elsewhere").id


def test_w4a4_leaves_keys_values_and_queries() -> None:
    bits = from_plain(composed("bits=w4a4")).bits
    assert (bits.key.bits, bits.value.bits, bits.query.bits) == (16, 16, 16)


def test_short_forms_of_evaluation_become_sets() -> None:
    config = from_plain(
        composed("evaluation.path=dir/my set.txt", "evaluation.seq_len=32")
    ).evaluation
    assert [(s.name, s.seq_len) for s in config.perplexity] == [("pydocs", 32), ("my-set", 32)]
    assert config.path is None
    listed = from_plain(composed("evaluation.perplexity=[{name:t,path:x.json}]")).evaluation
    assert [(s.name, s.seq_len) for s in listed.perplexity] == [("t", None)]


def test_digits_are_a_name_too() -> None:
    assert from_plain(composed("name=2024")).name == "2024"
