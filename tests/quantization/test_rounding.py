"""RTN and GPTQ: oracles O24 to O29 and O31."""

from dataclasses import replace

import pytest
import torch
from helpers import relative, spec
from torch import Tensor

from quantexp.config import SCHEMES, GPTQConfig, TensorQuantization
from quantexp.errors import CalibrationError
from quantexp.quantization import pieces
from quantexp.quantization.gptq import GPTQReport, Hessian, gptq
from quantexp.quantization.quantizer import Quantizer, to_integers
from quantexp.quantization.rounding import IntegerWeight, rtn

DEFAULT = GPTQConfig()


def problem(
    seed: int = 0, rows: int = 16, columns: int = 64, tokens: int = 512
) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of correlated inputs, in float64."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    mix = torch.randn(columns, columns, generator=draw, dtype=torch.float64)
    x = torch.randn(tokens, columns, generator=draw, dtype=torch.float64) @ mix
    x += 2 * torch.randn(tokens, 1, generator=draw, dtype=torch.float64)
    return w, 2 * x.T @ x / tokens


def nearest(w: Tensor, what: TensorQuantization) -> IntegerWeight:
    return rtn(w, what, w.dtype)


def compensated(
    w: Tensor, h: Tensor, what: TensorQuantization, options: GPTQConfig = DEFAULT
) -> IntegerWeight:
    return reported(w, h, what, options)[0]


def reported(
    w: Tensor,
    h: Tensor,
    what: TensorQuantization,
    options: GPTQConfig = DEFAULT,
    stored: torch.dtype | None = None,
) -> tuple[IntegerWeight, GPTQReport]:
    [found] = gptq([w], h, what, options, stored or w.dtype)
    return found


def error(w: Tensor, h: Tensor, rounded: IntegerWeight) -> float:
    """tr((W-Q) H (W-Q)ᵀ)."""
    miss = w - rounded.dequantize(w.dtype)
    return float((miss @ h * miss).sum())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "where", [{}, {"group_size": 16}, {"granularity": "per_tensor"}, {"clip_ratio": 0.9}]
)
def test_rtn_integers_mean_what_the_quantizer_returns(
    scheme: str, where: dict[str, object]
) -> None:
    w, _ = problem()
    what = spec(3, scheme, **where)
    # the same values by two ways: fake quantization while fitting, integers when shipped
    torch.testing.assert_close(
        nearest(w, what).dequantize(w.dtype), Quantizer(what)(w), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("group_size", [None, 16])
def test_rtn_of_a_few_rows_at_a_time_is_rtn(
    granularity: str, group_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, _ = problem(rows=37)
    what = spec(3, "asymmetric", group_size=group_size, granularity=granularity)
    whole = nearest(w, what)
    monkeypatch.setattr(pieces, "PIECE", 5 * w.shape[1])  # 37 rows, 5 at a time
    parts = nearest(w, what)
    assert torch.equal(parts.integers, whole.integers)
    assert torch.equal(parts.dequantize(w.dtype), whole.dequantize(w.dtype))


def test_rtn_rounds_with_the_scale_that_is_stored() -> None:
    w, _ = problem()
    found = rtn(w.float(), spec(4), torch.float16)
    assert found.scale.dtype == torch.float16
    wide = found.scale.float()
    assert ((found.dequantize(torch.float32) - w.float()).abs() <= wide / 2 * 1.002).all()


def test_scales_never_underflow_in_sixteen_bits() -> None:
    found = rtn(torch.full((2, 64), 1e-9), spec(4), torch.float16)
    assert (found.scale > 0).all()
    assert torch.isfinite(found.dequantize(torch.float32)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("act_order", [False, True])
def test_o24_with_a_diagonal_hessian_gptq_is_rtn(
    scheme: str, group_size: int | None, act_order: bool
) -> None:
    w, _ = problem()
    what = spec(3, scheme, group_size=group_size)
    draw = torch.Generator().manual_seed(1)
    options = replace(DEFAULT, act_order=act_order, static_groups=act_order)
    for diagonal in (torch.ones(64), torch.rand(64, generator=draw) + 0.01):
        found = compensated(w, diagonal.double().diag(), what, options)
        expected = nearest(w, what)
        assert torch.equal(found.integers, expected.integers)
        assert torch.equal(found.scale, expected.scale)
        assert torch.equal(found.zero, expected.zero)


def one_by_one(w: Tensor, h: Tensor, what: TensorQuantization, damping: float) -> Tensor:
    """Equations 2 and 3 of the paper as they stand: the inverse loses one column after another."""
    w, size = w.clone(), what.group_size or w.shape[1]
    eye = torch.eye(len(h), dtype=h.dtype)
    inverse = torch.linalg.inv(h + damping * h.diagonal().mean() * eye)
    integers = []
    for i in range(w.shape[1]):
        if i % size == 0:
            group = nearest(w[:, i : i + size], what)
        column = to_integers(
            w[:, i, None], group.scale, group.zero.to(w.dtype), what.bits, what.scheme
        )
        integers.append(column.squeeze(1).to(torch.int16))
        miss = w[:, i] - ((column - group.zero) * group.scale).squeeze(1)
        w[:, i:] -= miss[:, None] / inverse[i, i] * inverse[i, i:]
        inverse = inverse - inverse[:, i, None] * inverse[i] / inverse[i, i]
    return torch.stack(integers, 1)


@pytest.mark.parametrize(
    ("group_size", "block_size"), [(None, 128), (None, 24), (8, 24), (64, 128), (64, 32)]
)
def test_blocks_strips_and_the_factor_give_what_the_equations_give(
    group_size: int | None, block_size: int
) -> None:
    # wide enough that the factor is inverted by halves
    w, h = problem(columns=320, tokens=2048)
    what = spec(4, "asymmetric", group_size=group_size)
    found = compensated(w, h, what, replace(DEFAULT, block_size=block_size)).integers
    assert torch.equal(found, one_by_one(w, h, what, DEFAULT.damping))


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("act_order", [False, True])
def test_o25_the_block_size_changes_nothing(group_size: int | None, act_order: bool) -> None:
    w, h = problem(columns=192)
    what = spec(3, group_size=group_size)
    options = replace(DEFAULT, act_order=act_order, static_groups=act_order)
    one, *others = (
        compensated(w, h, what, replace(options, block_size=size)).integers for size in (1, 32, 128)
    )
    for other in others:
        assert torch.equal(one, other)


@pytest.mark.parametrize("factor", [2.0**-20, 3.0, 1e6])
def test_o26_the_hessians_factor_changes_nothing(factor: float) -> None:
    w, h = problem()
    found, scaled = (compensated(w, m, spec(3)).integers for m in (h, h * factor))
    assert torch.equal(found, scaled)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_o27_gptqs_error_under_the_hessian_is_below_rtns(bits: int, seed: int) -> None:
    w, h = problem(seed)
    what = spec(bits, "asymmetric")
    ratio = error(w, h, compensated(w, h, what)) / error(w, h, nearest(w, what))
    assert ratio < 0.95


def test_o27_more_damping_is_nearer_to_rtn() -> None:
    w, h = problem()
    expected = nearest(w, spec(3)).integers
    differing = [
        int((compensated(w, h, spec(3), replace(DEFAULT, damping=d)).integers != expected).sum())
        for d in (0.01, 1, 100, 1e6)
    ]
    assert differing == sorted(differing, reverse=True)
    assert differing[-1] == 0


def test_the_reported_loss_is_half_the_error_under_the_damped_hessian() -> None:
    w, h = problem()
    rounded, report = reported(w, h, spec(3))
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(64, dtype=h.dtype)
    assert report.loss == pytest.approx(error(w, damped, rounded) / 2, rel=1e-8)


@pytest.mark.parametrize("scheme", ["symmetric", "symmetric_full", "asymmetric"])
def test_o28_dead_columns_become_zero(scheme: str) -> None:
    w, h = problem()
    dead = [3, 40]
    h[dead], h[:, dead] = 0, 0
    rounded, report = reported(w, h, spec(4, scheme))
    assert (rounded.dequantize(w.dtype)[:, dead] == 0).all()
    assert report.dead_columns == 2


def test_o29_fewer_tokens_than_columns_are_enough_thanks_to_damping() -> None:
    w, h = problem(tokens=9)
    for dtype in (torch.float64, torch.float32):
        rounded, report = reported(w.to(dtype), h.to(dtype), spec(4), DEFAULT, torch.float32)
        assert torch.isfinite(rounded.dequantize(dtype)).all()
        assert report.damping == DEFAULT.damping


def test_o29_damping_grows_where_it_must_and_says_so() -> None:
    w, h = problem()
    h -= 0.05 * h.diagonal().mean() * torch.eye(64, dtype=h.dtype)  # slightly indefinite
    smallest = float(torch.linalg.eigvalsh(h)[0])
    assert smallest < -0.01 * float(h.diagonal().mean())
    rounded, report = reported(w, h, spec(4))
    assert report.damping == pytest.approx(0.1)
    assert torch.isfinite(rounded.dequantize(w.dtype)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_o29_a_hessian_that_is_not_finite_is_refused(bad: float) -> None:
    w, h = problem()
    h[5, 6] = bad
    with pytest.raises(CalibrationError, match="not finite"):
        compensated(w, h, spec(4))


def test_o29_an_indefinite_hessian_is_refused_with_a_way_out() -> None:
    w, h = problem()
    with pytest.raises(CalibrationError, match=r"damping 1\b.*num_samples.*gptq\.damping"):
        compensated(w, h - 5 * h.diagonal().max() * torch.eye(64, dtype=h.dtype) + 5, spec(4))


def uneven_problem() -> tuple[Tensor, Tensor]:
    """Columns whose Hessian diagonals differ, so that act order has something to order."""
    w, h = problem()
    uneven = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=h.dtype) + 0.1
    return w, h * uneven.outer(uneven)


def test_act_order_with_static_groups_uses_scales_of_the_original_groups() -> None:
    w, h = uneven_problem()
    what = spec(4, group_size=16)
    found = compensated(w, h, what, replace(DEFAULT, act_order=True, static_groups=True))
    assert found.group_index is None
    torch.testing.assert_close(found.scale, nearest(w, what).scale)
    assert error(w, h, found) < 0.95 * error(w, h, nearest(w, what))


def test_act_order_without_static_groups_is_gptq_on_permuted_columns() -> None:
    w, h = uneven_problem()
    what = spec(4, group_size=16)
    order = h.diagonal().argsort(descending=True, stable=True)
    found = compensated(w, h, what, replace(DEFAULT, act_order=True))
    permuted = compensated(w[:, order], h[order][:, order], what)
    assert found.group_index is not None
    assert torch.equal(found.integers[:, order], permuted.integers)
    assert torch.equal(found.group_index[order], torch.arange(64).int() // 16)
    assert torch.equal(found.dequantize(w.dtype)[:, order], permuted.dequantize(w.dtype))


def test_group_scales_follow_the_corrected_weights() -> None:
    w, h = problem()
    what = spec(3, group_size=16)
    moving = compensated(w, h, what)
    fixed = compensated(w, h, what, replace(DEFAULT, static_groups=True))
    assert torch.equal(moving.scale[:, 0], fixed.scale[:, 0])
    assert not torch.equal(moving.scale[:, 1:], fixed.scale[:, 1:])


def test_the_weight_and_hessian_are_left_as_they_were() -> None:
    w, h = problem()
    before = w.clone(), h.clone()
    compensated(w, h, spec(4))
    assert torch.equal(w, before[0])
    assert torch.equal(h, before[1])


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_weights_rounded_together_are_those_rounded_alone(act_order: bool, learned: bool) -> None:
    one, h = problem()
    weights = [one, problem(seed=1)[0][:7], problem(seed=2)[0]]
    what, options = spec(3, "asymmetric", group_size=16), replace(DEFAULT, act_order=act_order)
    half = [torch.full((len(w), 4, 1), 0.5 + i / 10, dtype=w.dtype) for i, w in enumerate(weights)]
    factors = [(f, f) if learned else None for f in half]
    together = gptq(weights, h, what, options, one.dtype, factors)
    for w, own, (found, report) in zip(weights, factors, together, strict=True):
        [(alone, said)] = gptq([w], h, what, options, w.dtype, [own])
        assert torch.equal(found.integers, alone.integers)
        assert torch.equal(found.zero, alone.zero)
        torch.testing.assert_close(found.scale, alone.scale, rtol=1e-12, atol=0)
        assert report.loss == pytest.approx(said.loss, rel=1e-9)
        assert (found.group_index is None) == (alone.group_index is None)


@pytest.mark.parametrize("batches", [(8,), (1, 3, 4), (1,) * 8])
@pytest.mark.parametrize("columns", [64, 300])
def test_o31_the_running_mean_is_the_hessian_of_all_sequences(
    batches: tuple[int, ...], columns: int
) -> None:
    x = torch.randn(8, 24, columns, generator=torch.Generator().manual_seed(0))
    found = Hessian(columns, torch.device("cpu"), torch.float32)
    for part in x.split(list(batches)):
        found.add(part)
        assert relative(found.matrix, found.matrix.T) < 1e-6  # as far as it is, at any time
    rows = x.reshape(-1, columns).double()
    assert relative(found.matrix, 2 / 8 * rows.T @ rows) < 1e-5
