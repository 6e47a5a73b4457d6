"""AWQ: oracle O21, O13 for its scales, its clips against a plain loop, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    calibrated,
    logits,
    make_config,
    plain_blocks,
    relative,
    spec,
    spy,
    stored_blocks,
    streamed,
    tiny_llama,
    windows,
)
from torch import Tensor

from quantexp.calibration.blocks import CalibrationBlock
from quantexp.calibration.weights import WeightRounding
from quantexp.errors import CalibrationError, ConfigError
from quantexp.methods.awq import CLIPS, AWQOptions, best_clips, scales
from quantexp.quantization.block import QuantBlock
from quantexp.quantization.clipping import FixedClamp
from quantexp.quantization.quantizer import Quantizer
from quantexp.quantization.transforms import ValueScale

TOKENS = windows(6, 32)
W3 = (3, 16, 16, 16)
ASYMMETRIC = {"weight": {"scheme": "asymmetric_clamped"}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("awq") / "model", intermediate_size=176)


def fitted(
    path: Path,
    folder: Path,
    options: dict[str, Any] | None = None,
    tensors: dict[str, dict[str, Any]] | None = None,
    method: str = "awq",
) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Tensors and report of each block."""
    config = make_config(
        path, method, W3, options=options or {}, tensors=tensors or ASYMMETRIC
    )  # fmt: skip
    model = streamed(config)
    checkpoint = calibrated(model, config, TOKENS, folder)
    found = [checkpoint.saved_block(index) for index in range(model.blocks)]
    return [saved for saved in found if saved is not None]


@pytest.mark.parametrize("tensors", [None, {"weight": {"group_size": 16}}])
def test_o21_the_exponent_zero_is_round_to_nearest(
    path: Path, tmp_path: Path, tensors: dict[str, dict[str, Any]] | None
) -> None:
    alone = {"grid": 1, "clipping": False, "gqa": "tie"}
    awq = fitted(path, tmp_path / "awq", alone, tensors)
    rtn = fitted(path, tmp_path / "rtn", tensors=tensors, method="rtn")
    for (found, report), (expected, _) in zip(awq, rtn, strict=True):
        assert all(row["scale_min"] == row["scale_max"] == 1 for row in report["scales"].values())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("gqa", ["skip", "tie"])
def test_o21_the_chosen_scale_is_no_worse_than_none(path: Path, tmp_path: Path, gqa: str) -> None:
    sites = {"attention_input", "mlp_input", "mlp_output"}
    for _, report in fitted(path, tmp_path, {"gqa": gqa}):
        rows = report["scales"]
        assert set(rows) == sites | ({"attention_output"} if gqa == "tie" else set())
        assert all(row["error"] <= row["error_unscaled"] for row in rows.values())
        # on random weights most sites gain something
        assert sum(row["error"] < row["error_unscaled"] for row in rows.values()) >= 2


@pytest.mark.parametrize("heads", [2, 4])
def test_o13_scales_leave_the_model_as_it_was(
    tmp_path: Path, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_llama(tmp_path / "m", num_key_value_heads=heads, attention_bias=True, mlp_bias=True)
    config = make_config(path, "awq", W3, options={"clipping": False, "gqa": "tie"})
    model = streamed(config)
    monkeypatch.setattr(WeightRounding, "round", lambda _: {})
    checkpoint = calibrated(model, config, TOKENS, tmp_path / "c")
    saved = checkpoint.saved_block(0)
    assert saved is not None
    assert min(row["scale_min"] for row in saved[1]["scales"].values()) < 0.9
    exact = logits(model, plain_blocks(model), TOKENS)
    assert relative(logits(model, stored_blocks(model, config, checkpoint), TOKENS), exact) < 1e-5


def test_tied_scales_are_shared_by_the_heads_that_read_a_value_head(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[ValueScale] = []

    def note(quant: QuantBlock, stored: torch.dtype) -> None:
        found.append(quant.transforms["attention_output"])  # type: ignore[arg-type]

    spy(QuantBlock, "merge", monkeypatch, note)
    fitted(path, tmp_path, {"gqa": "tie"})
    for transform in found:
        assert transform.scale.shape == (2 * 16,)  # 2 value heads, 4 query heads
        columns = 1 / transform.weight_in(torch.ones(1, 64)).view(2, 2, 16)
        assert torch.equal(columns[:, 0], columns[:, 1])


def test_the_scale_of_values_keeps_the_product(path: Path) -> None:
    torch.manual_seed(0)
    V, W, bias = torch.randn(32, 64).double(), torch.randn(64, 64).double(), torch.randn(32)
    transform = ValueScale(torch.rand(32).double() + 0.5, 2, 16).requires_grad_(False)
    x = torch.randn(5, 64).double()

    def output(rows: Tensor, b: Tensor, columns: Tensor) -> Tensor:
        values = (x @ rows.T + b).unflatten(1, (2, 1, 16)).expand(-1, -1, 2, -1)
        return values.flatten(1) @ columns.T

    rows, b = transform.weight_out(V, bias.double())
    assert b is not None
    found = output(rows, b, transform.weight_in(W))
    assert relative(found, output(V, bias.double(), W)) < 1e-12


def test_candidates_are_powers_normalized_by_their_extremes() -> None:
    a = torch.tensor([0.0, 0.5, 1.0, 8.0])
    found = scales(a, 20)
    assert torch.equal(found[0], torch.ones(4))
    torch.testing.assert_close(found.amax(1) * found.amin(1), torch.ones(20))
    r = 0.35
    s = torch.tensor([1e-4, 0.5**r, 1.0, 8.0**r])
    torch.testing.assert_close(found[7], s / (s.max() * s.min()).sqrt())


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric_clamped"])
@pytest.mark.parametrize("group", [None, 16])
def test_clips_are_those_of_a_loop_over_rows_and_groups(scheme: str, group: int | None) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(6, 48) ** 3, torch.randn(40, 48)
    quantizer = Quantizer(spec(3, scheme, group_size=group, dynamic=False))
    one = Quantizer(spec(3, scheme, dynamic=False))
    found = best_clips(weight, x, quantizer)
    size = group or 48
    assert found.shape == (6, 48 // size, 1)
    for row in range(6):
        for g in range(48 // size):
            part = slice(g * size, (g + 1) * size)
            w, top = weight[row : row + 1, part], weight[row, part].abs().max()
            errors = [
                (x[:, part] @ (one(w.clamp(-top * c, top * c)) - w).T).square().mean()
                for c in CLIPS
            ]
            assert found[row, g] == torch.tensor(CLIPS)[int(torch.stack(errors).argmin())]


def test_rows_are_clipped_alike_in_parts_or_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(12, 32) ** 3, torch.randn(20, 32)
    quantizer = Quantizer(spec(3, group_size=8, dynamic=False))
    found = best_clips(weight, x, quantizer)
    monkeypatch.setattr("quantexp.methods.awq.CLIP_ELEMENTS", 4 * 4 * 20)
    assert torch.equal(best_clips(weight, x, quantizer), found)


def test_a_clamp_of_one_leaves_the_weight_exactly_and_a_smaller_one_cuts_both_ends() -> None:
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0], [-0.1, 0.2, 0.3, -0.4]])
    clamp = FixedClamp(torch.tensor([[[1.0]], [[0.5]]]))
    expected = torch.tensor([[1.0, -4.0, 2.0, 3.0], [-0.1, 0.2, 0.2, -0.2]])
    torch.testing.assert_close(clamp(weight), expected, rtol=0, atol=1e-8)


def test_all_but_q_and_k_are_clipped(path: Path, tmp_path: Path) -> None:
    _, report = fitted(path, tmp_path)[0]
    assert set(report["clip_ratios"]) == {
        *("self_attn.v_proj.weight", "self_attn.o_proj.weight"),
        *("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"),
    }
    assert all(0.55 <= row["min"] <= row["mean"] <= 1 for row in report["clip_ratios"].values())


def test_the_search_does_not_depend_on_how_windows_are_batched(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantexp.methods.awq.CLIP_TOKENS", 10)
    whole = fitted(path, tmp_path / "whole")
    monkeypatch.setattr(CalibrationBlock, "batches", lambda _, x: x.split(1))
    parts = fitted(path, tmp_path / "parts")
    for (_, one), (_, other) in zip(whole, parts, strict=True):
        for site, row in one["scales"].items():
            assert other["scales"][site]["exponent"] == row["exponent"]
            assert other["scales"][site]["error"] == pytest.approx(row["error"], rel=1e-4)
        for name, row in one["clip_ratios"].items():
            assert other["clip_ratios"][name]["mean"] == pytest.approx(row["mean"], abs=0.01)


def test_it_lowers_the_error_of_blocks(path: Path, tmp_path: Path) -> None:
    for _, report in fitted(path, tmp_path):
        assert report["error"]["method"] < report["error"]["rounded"]


def test_a_search_without_a_finite_error_names_block_and_site(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "quantexp.methods.awq.scales", lambda a, grid: torch.full((grid, len(a)), torch.nan)
    )
    with pytest.raises(CalibrationError, match="block 0, attention_input: no scale"):
        fitted(path, tmp_path)


@pytest.mark.parametrize(
    ("bits", "options", "weight", "said"),
    [
        ((16, 8, 16, 16), {}, {}, r"bits=w16a8.*keep 16 bits.*method=smoothquant"),
        (W3, {"scaling": False, "clipping": False}, {}, "both off.*method=rtn"),
        (W3, {"gqa": "tied"}, {}, r"method\.gqa.*tie"),
        (W3, {"grid": 0}, {}, r"method\.grid=0.*1 or more"),
        (W3, {}, {"granularity": "per_tensor"}, "per_tensor.*per_channel"),
        (W3, {}, {"clip_search": "grid"}, r"clip_search=grid.*twice.*method\.clipping=false"),
        (W3, {}, {"clip_ratio": 0.9}, r"clip_ratio=0\.9.*twice"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    path: Path,
    bits: tuple[int, int, int, int],
    options: dict[str, Any],
    weight: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_config(path, "awq", bits, options=options, tensors={"weight": weight})


@pytest.mark.parametrize("weight", [{"clip_search": "grid"}, {"clip_ratio": 0.9}])
def test_scales_alone_go_with_every_other_clip(
    path: Path, tmp_path: Path, weight: dict[str, Any]
) -> None:
    (_, report), _ = fitted(path, tmp_path, {"clipping": False}, {"weight": weight})
    assert "clip_ratios" not in report
    assert AWQOptions().gqa == "skip"  # as in the official code
