"""protocol=official: the papers' settings, or a refusal that says what there is."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_model
from omegaconf import OmegaConf

from quantexp import registry
from quantexp.calibration.data import find
from quantexp.config import ExperimentConfig, from_plain, to_plain
from quantexp.errors import ConfigError
from quantexp.experiment.cell import Cell
from quantexp.protocols.entry import Entry
from quantexp.protocols.official import conflicts, describe
from quantexp.protocols.table import TABLE
from quantexp.resources import choices, own

METHODS = {"gptq": ("rtn", "gptq"), "flatquant+gptq": ("flatquant", "gptq")}
BITS = re.compile(
    r"(?:w(?P<w>\d+)a(?P<a>\d+))?(?:kv(?P<kv>\d+)|k(?P<k>\d+)v(?P<v>\d+))?"
    r"(?:q(?P<q>\d+))?(?:g(?P<g>\d+))?"
)


def bits(label: str) -> dict[str, Any]:
    found = BITS.fullmatch(label)
    assert found is not None
    base: Any = OmegaConf.to_container(OmegaConf.load(own("conf") / "bits" / "_base.yaml"))
    letters = {"weight": "w", "activation": "a", "key": "kv k", "value": "kv v", "query": "q"}
    for tensor, names in letters.items():
        given = [found[name] for name in names.split() if found[name]]
        base[tensor]["bits"] = int(given[0]) if given else 16
    base["weight"]["group_size"] = int(found["g"]) if found["g"] else None
    return dict(base)


def plain(
    label: str, model: str = "llama2_7b", precision: str = "w4a16", **fields: Any
) -> dict[str, Any]:
    method, rounding = METHODS.get(label, (label, "rtn"))
    return {
        "model": {"name": model, "source": "demo" if model == "demo" else "hf", "path": "a/b"},
        "method": {"name": method},
        "rounding": rounding,
        "bits": bits(precision),
        "data": {"name": "pydocs", "corpus": "pydocs", "num_samples": 32, "seq_len": 256},
        "evaluation": {"name": "none"},
        "protocol": {"name": "official"},
        "cluster": {"name": "local"},
        "tracker": {"name": "none", "mode": "disabled"},
        **fields,
    }


def official(paper: str | None = None) -> dict[str, Any]:
    return {"name": "official", "paper": paper}


def read(*args: Any, **fields: Any) -> ExperimentConfig:
    return from_plain(plain(*args, **fields))


@pytest.mark.parametrize(
    "entry", TABLE, ids=lambda e: f"{e.label}-{e.models[0]}-{e.bits[0]}-{e.paper}"
)
def test_every_entry_makes_valid_cells_that_read_back_equal(entry: Entry) -> None:
    assert entry.source
    for model in entry.models:
        assert model in choices("model")
        for precision in entry.bits:
            config = read(entry.label, model, precision, protocol=official(entry.paper))
            assert config.label == entry.label
            assert config.bits.label == precision
            assert from_plain(to_plain(config)) == config
            for tensor in ("weight", "activation", "key", "value"):
                scheme = entry.settings.get(f"bits.{tensor}.scheme")
                assert scheme in (None, getattr(config.bits, tensor).scheme)


def test_no_two_entries_speak_of_the_same_cell() -> None:
    cells = sorted((e.label, m, b, e.paper or "") for e in TABLE for m in e.models for b in e.bits)
    assert all(one != other for one, other in pairwise(cells))


def test_gptq_is_asymmetric_in_act_order_on_c4() -> None:
    config = read("gptq", precision="w3a16g128")
    assert config.bits.weight.scheme == "asymmetric"
    assert (config.gptq.act_order, config.gptq.true_sequential, config.gptq.damping) == (
        True, True, 0.01,
    )  # fmt: skip
    assert config.data.corpus == "c4"
    assert (find(config.data).count, find(config.data).seq_len) == (128, 2048)


@pytest.mark.parametrize(
    ("model", "alpha"),
    [("llama2_7b", 0.85), ("llama2_13b", 0.85), ("llama2_70b", 0.9), ("llama3_8b", 0.85)],
)
def test_smoothquant_has_an_alpha_for_each_model(model: str, alpha: float) -> None:
    config = read("smoothquant", model, "w8a8")
    assert config.method.options.alpha == alpha
    assert config.bits.weight.scheme == config.bits.activation.scheme == "symmetric"
    source = find(config.data)
    assert (config.data.corpus, source.count, source.seq_len) == ("pile_smoothquant", 512, 512)


def test_flatquant_is_the_recipe_of_its_scripts() -> None:
    config = read("flatquant+gptq", "llama3_8b", "w4a4kv4")
    o = config.method.options
    assert (o.epochs, o.batch_size, o.lr, o.clip_lr_multiplier, o.alpha) == (15, 4, 5e-3, 10, 0.3)
    assert config.bits.weight.scheme == "symmetric"
    assert config.bits.key.scheme == config.bits.value.scheme == "asymmetric"
    assert config.bits.query.bits == 16
    assert not config.gptq.act_order
    assert config.data.corpus == "wikitext2_flatquant"
    assert read("flatquant", "qwen2_5_7b", "w4a4kv4").method.options.parametrization == "direct"


def test_omniquant_learns_scales_where_activations_are_quantized() -> None:
    for precision, epochs, aug in (("w2a16g64", 40, True), ("w3a16", 20, False)):
        config = read("omniquant", "llama2_70b", precision)
        o = config.method.options
        assert (o.epochs, o.aug_loss, o.let, o.lwc) == (epochs, aug, "off", True)
        assert config.bits.weight.scheme == "asymmetric_free"
        assert find(config.data).count == 128
    for precision, rate, alpha in (("w6a6kv6q6", 5e-3, 0.5), ("w4a4kv4q4", 1e-3, 0.75)):
        config = read("omniquant", "llama2_13b", precision)
        o = config.method.options
        assert (o.let, o.letqk, o.let_lr, o.alpha, o.epochs) == ("on", "untied", rate, alpha, 20)
        assert config.bits.query.scheme == config.bits.key.scheme == "asymmetric_free"
    o = read("omniquant", "demo", "w4a4kv4q4").method.options
    assert (o.let, o.letqk, o.letvo) == ("on", "off", False)


def test_flatquants_ablations_run_by_the_official_protocol() -> None:
    plainly = read("flatquant", "llama3_8b", "w4a4kv4").method.options
    ours = registry.method("flatquant").Options()
    # what the table leaves to the options is the official recipe by their defaults
    assert plainly == ours
    assert (ours.transform, ours.per_channel_scaling, ours.clipping) == (True, True, True)
    assert (ours.parametrization, ours.init, ours.clipping_position) == ("svd", "random", "after")
    assert (ours.scale_init, ours.kronecker_hidden) == ("smoothquant", None)
    ablated = {"name": "flatquant", "clipping": False, "parametrization": "direct"}
    precision = bits("w4a4kv4")
    precision["key"]["clip_ratio"] = 0.95
    config = read("flatquant", "llama3_8b", "w4a4kv4", method=ablated, bits=precision)
    assert not config.method.options.clipping
    assert config.bits.key.clip_ratio == 0.95
    given = ["method.clipping=false", "bits.key.clip_ratio=0.95", "method.epochs=3"]
    (problem,) = conflicts(config, given)
    assert "method.epochs=15" in problem
    assert read("flatquant", "llama3_70b", "w4a4kv4").method.options.value_transform == "online"


def test_the_demo_model_keeps_its_own_text() -> None:
    config = read("gptq", "demo")
    assert (config.data.corpus, config.data.seq_len) == ("pydocs", 256)
    assert config.bits.weight.scheme == "asymmetric"


@pytest.mark.parametrize("model", ["local", "demo", "qwen2_5_7b"])
def test_a_model_that_no_paper_of_the_method_names_gets_its_settings_and_says_so(
    model: str,
) -> None:
    config = read("gptq", model)
    assert (config.bits.weight.scheme, config.gptq.act_order) == ("asymmetric", True)
    assert config.data.corpus == "pydocs"
    assert conflicts(config, ["method=gptq", "data.num_samples=64"]) == []
    assert "no model of the paper" in describe(config)["protocol_deviations"][-1]


def test_the_baseline_is_the_same_but_for_its_protocol() -> None:
    config = read("none", "some_model")
    assert config.bits.label == "w16a16"
    assert config.data.corpus == "pydocs"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("smoothquant", "llama2_7b", "w4a4"), "smoothquant, model llama2_7b, bits w4a4.*w8a8"),
        (("gptq", "qwen2_5_7b", "w2a16"), "model qwen2_5_7b.*any other model.*w4a16"),
        (("smoothquant+gptq", "llama2_7b", "w8a8"), "it has rtn, gptq, smoothquant, flatquant"),
    ],
)
def test_without_an_entry_the_cell_is_refused_with_what_there_is(
    args: tuple[str, str, str], said: str
) -> None:
    label, model, precision = args
    changes = {"method": {"name": "smoothquant"}, "rounding": "gptq"} if "+" in label else {}
    with pytest.raises(ConfigError, match=f"protocol=official has no.*{said}.*protocol=uniform"):
        read(label, model, precision, **changes)


def test_an_override_against_the_paper_is_refused_by_name() -> None:
    config = read("gptq")
    for override, key in [
        ("bits.weight.scheme=symmetric", "bits.weight.scheme=asymmetric"),
        ("gptq.act_order=false", "gptq.act_order=True"),
        ("data=wikitext2", "data.name=c4"),
        ("data.num_samples=64", "data.num_samples=128"),
        ("bits.weight={scheme:symmetric}", "bits.weight.scheme=asymmetric"),
    ]:
        (problem,) = conflicts(config, ["method=gptq", override])
        assert problem.startswith(override)
        assert f"protocol=official sets {key}" in problem
    agreed = ["method=gptq", "data=c4", "gptq.damping=0.01", "data.seed=3", "evaluation.seq_len=9"]
    assert conflicts(config, agreed) == []
    assert conflicts(read("gptq", protocol={"name": "uniform"}), ["data=pile"]) == []


def test_the_settings_are_hashed_and_their_source_is_recorded(tmp_path: Path) -> None:
    path = str(fake_model(tmp_path / "model"))
    model = {"name": "llama2_7b", "source": "local", "path": path}
    data = plain("gptq") | {"model": model}
    official, uniform = (
        Cell(from_plain(data | {"protocol": {"name": name}})) for name in ("official", "uniform")
    )
    assert official.calibration_inputs["weight"]["scheme"] == "asymmetric"
    assert official.calibration_inputs["gptq"]["act_order"] is True
    assert official.calibration_inputs["data"]["repo"] == "allenai/c4"
    assert "IST-DASLab/gptq" in official.describe()["protocol_source"]
    assert official.describe()["protocol_deviations"]
    assert uniform.calibration_inputs["weight"]["scheme"] == "symmetric"
    assert "protocol_source" not in uniform.describe()


def test_a_papers_baselines_are_run_as_that_paper_did() -> None:
    authors = read("gptq", precision="w4a16")
    quarots = read("gptq", precision="w4a16", protocol=official("quarot"))
    assert (authors.gptq.act_order, authors.data.corpus) == (True, "c4")
    assert (quarots.gptq.act_order, quarots.data.corpus) == (False, "wikitext2")
    schemes = {
        paper: read("rtn", precision="w4a16g128", protocol=official(paper)).bits.weight.scheme
        for paper in ("awq", "omniquant")
    }
    assert schemes == {"awq": "asymmetric_clamped", "omniquant": "asymmetric_free"}


def test_a_method_that_a_paper_says_nothing_of_keeps_its_own_settings() -> None:
    asked = read("flatquant", precision="w4a4kv4", protocol=official("omniquant"))
    assert asked.method == read("flatquant", precision="w4a4kv4").method


def test_a_paper_is_refused_where_it_is_unknown_or_not_read() -> None:
    with pytest.raises(ConfigError, match=r"protocol.paper.*did you mean 'awq'"):
        read("gptq", protocol=official("awk"))
    with pytest.raises(ConfigError, match=r"protocol.paper=awq is read by protocol=official only"):
        read("gptq", protocol={"name": "uniform", "paper": "awq"})


def test_smoothquant_at_4_bits_is_as_omniquant_ran_it() -> None:
    config = read("smoothquant", "llama2_7b", "w4a4kv4q4")
    tensors = (config.bits.weight, config.bits.activation, config.bits.key, config.bits.query)
    assert {spec.scheme for spec in tensors} == {"asymmetric_free"}
    assert config.method.options.alpha == 0.5


def test_what_a_paper_varies_itself_is_the_users() -> None:
    changed = {"name": "flatquant", "clipping": False, "lr": 1.0}
    config = read("flatquant", "llama3_8b", "w4a4kv4", method=changed)
    assert (config.method.options.clipping, config.method.options.lr) == (False, 5e-3)
    assert conflicts(config, ["method.clipping=false"]) == []
    assert len(conflicts(config, ["method.lr=1.0", "data=ptb"])) == 2
    c4 = {"name": "c4", "corpus": "c4", "num_samples": 8}
    config = read("flatquant", "llama3_8b", "w4a4kv4", data=c4)
    assert (config.data.corpus, config.data.num_samples) == ("c4", 128)
    # no such table for this model
    assert read("flatquant", "llama2_7b", "w4a4kv4", data=c4).data.corpus == "wikitext2_flatquant"
