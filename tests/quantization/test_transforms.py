"""Transforms keep the function of a site: oracles O13, O14, O16, O17 and O18."""

from collections.abc import Callable

import pytest
import torch
from helpers import relative
from torch import Tensor

from quantexp.quantization import transforms
from quantexp.quantization.factors import Factor, cayley, make_factor, random_orthogonal
from quantexp.quantization.sizes import hadamard, kronecker_sizes
from quantexp.quantization.transforms import (
    Composition,
    Diagonal,
    Heads,
    Kronecker,
    Online,
    Transform,
    apply_kronecker,
)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
KINDS = [("svd", "random"), ("svd", "identity"), ("direct", "random"), ("direct", "identity")]


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def factor(n: int, kind: tuple[str, str], draw: torch.Generator) -> Factor:
    """A factor with parameters moved away from where they start."""
    found = make_factor(n, *kind, draw)
    for parameter in found.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    found.refresh()
    return found


def sites(kind: tuple[str, str]) -> dict[str, Callable[[torch.Generator], Transform]]:
    def diagonal(g: torch.Generator) -> Diagonal:
        return Diagonal(torch.rand(88, generator=g) + 0.5)

    def kronecker(g: torch.Generator) -> Kronecker:
        return Kronecker(factor(8, kind, g), factor(11, kind, g))

    return {
        "diagonal": diagonal,
        "kronecker": kronecker,
        "left": lambda g: Kronecker(factor(8, kind, g), None),
        "right": lambda g: Kronecker(None, factor(11, kind, g)),
        "composition": lambda g: Composition([diagonal(g), kronecker(g)]),
        "identity": lambda _: Transform(),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", list(sites(KINDS[0])))
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@torch.no_grad()
def test_o13_activation_and_weight_undo_each_other(
    kind: tuple[str, str], site: str, dtype: torch.dtype, draw: torch.Generator
) -> None:
    transform = sites(kind)[site](draw)
    if dtype == torch.float64:
        transform.double().refresh()
    x = torch.randn(9, 5, 88, generator=draw).to(dtype)
    w = torch.randn(70, 88, generator=draw).to(dtype)
    found = transform.act(x) @ transform.weight_in(w).T
    assert relative(found, x.double() @ w.double().T) < TOLERANCE[dtype]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16])
@torch.no_grad()
def test_o13_a_frozen_transform_is_exact_whatever_it_is_stored_in(
    kind: tuple[str, str], stored: torch.dtype, draw: torch.Generator
) -> None:
    # the weights undo the matrix that ships: 16-bit storage costs no accuracy here
    transform = sites(kind)["composition"](draw)
    x = torch.randn(9, 88, generator=draw).double()
    w = torch.randn(70, 88, generator=draw).double()
    transform.freeze(stored)
    online, scale = transform.online(), transform.channel_scale()
    assert online is not None
    assert scale is not None
    shipped = Online(online.left.to(stored), online.right.to(stored))
    assert relative(shipped(x * scale) @ transform.weight_in(w).T, x @ w.T) < 1e-10


@pytest.mark.parametrize("mix", [True, False])
@torch.no_grad()
def test_o13_heads_undo_what_the_values_carry(mix: bool, draw: torch.Generator) -> None:
    # 4 query heads of 8 on 2 KV heads: P_v on the rows of v, P_o online, both undone in o
    left = factor(4, KINDS[0], draw).double() if mix else None
    transform = Heads(left, factor(8, KINDS[0], draw).double())
    transform.refresh()
    x, v, bias = (torch.randn(*s, generator=draw).double() for s in ((5, 24), (16, 24), (16,)))
    o = torch.randn(24, 32, generator=draw).double()

    def output(v: Tensor, bias: Tensor, act: Callable[[Tensor], Tensor], o: Tensor) -> Tensor:
        values = (x @ v.T + bias).unflatten(1, (2, 8)).repeat_interleave(2, 1).flatten(1)
        return act(values) @ o.T

    changed, moved = transform.weight_out(v, bias)
    assert moved is not None
    found = output(changed, moved, transform.act, transform.weight_in(o))
    assert relative(found, output(v, bias, lambda t: t, o)) < 1e-10
    assert relative(changed, v) > 0.1


@pytest.mark.parametrize("sizes", [(4, 6), (1, 43), (2, 86)])
def test_o14_kronecker_apply_is_the_dense_product(
    sizes: tuple[int, int], draw: torch.Generator
) -> None:
    left, right = (torch.randn(n, n, generator=draw, dtype=torch.float64) for n in sizes)
    x = torch.randn(7, 3, sizes[0] * sizes[1], generator=draw, dtype=torch.float64)
    assert relative(apply_kronecker(x, left, right), x @ torch.kron(left, right)) < 1e-12
    eye = torch.eye(sizes[0], dtype=torch.float64)
    assert relative(apply_kronecker(x, None, right), x @ torch.kron(eye, right)) < 1e-12


@torch.no_grad()
def test_o14_multiplying_out_small_products_changes_nothing(
    draw: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = Heads(*(factor(n, KINDS[0], draw).double() for n in (8, 11)))
    plain = Kronecker(mix.left, mix.right)
    x = torch.randn(9, 88, generator=draw, dtype=torch.float64)
    found = []
    for dense in (0, 88):
        monkeypatch.setattr(transforms, "DENSE", dense)
        for transform in (mix, plain):
            transform.refresh()
            found.append((transform.act(x), transform.weight_in(x)))
    for one, other in zip(found[:2], found[2:], strict=True):
        assert all(relative(a, b) < 1e-12 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("n", [1, 2, 4, 8, 12, 20, 24, 28, 36, 40, 56, 64, 80, 108, 112, 148, 224])
def test_o15_hadamard_matrices_have_orthogonal_rows_of_signs(n: int) -> None:
    H = torch.tensor(hadamard(n))
    assert torch.equal(H @ H.T, n * torch.eye(n, dtype=H.dtype))
    assert torch.equal(H.abs(), torch.ones_like(H))


@pytest.mark.parametrize("n", [3, 6, 43, 86, 92, 172])
def test_hadamard_sizes_out_of_reach_are_none(n: int) -> None:
    assert hadamard(n) is None


@pytest.mark.parametrize("parametrization", ["svd", "direct"])
@torch.no_grad()
def test_hadamard_factors_start_at_hadamard(parametrization: str, draw: torch.Generator) -> None:
    found = make_factor(12, parametrization, "hadamard", draw)
    expected = torch.tensor(hadamard(12)) / 12**0.5
    assert relative(found.matrix, expected) < 1e-6
    assert relative(found.inverse_transpose, expected) < 1e-6


@pytest.mark.parametrize("n", [32, 64, 128])
def test_o16_cayley_is_orthogonal_and_starts_where_the_official_code_does(
    n: int, draw: torch.Generator
) -> None:
    found = cayley(random_orthogonal(n, draw))
    assert (found.T @ found - torch.eye(n)).abs().max() < 1e-5
    assert 0.58 <= float(found.trace()) / n <= 0.71


def test_o16_random_orthogonal_matrices_are_orthogonal(draw: torch.Generator) -> None:
    found = random_orthogonal(48, draw)
    assert (found.T @ found - torch.eye(48)).abs().max() < 1e-5


@pytest.mark.parametrize("n", [2, 43, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_o17_factor_times_its_inverse_is_the_identity(
    n: int, kind: tuple[str, str], draw: torch.Generator
) -> None:
    found = factor(n, kind, draw)
    assert (found.matrix @ found.inverse_transpose.T - torch.eye(n)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (4096, (64, 64)), (5120, (64, 80)), (8192, (64, 128)), (11008, (86, 128)),
        (13824, (108, 128)), (14336, (112, 128)), (28672, (128, 224)), (3584, (56, 64)),
        (18944, (128, 148)), (50, (5, 10)), (130, (10, 13)), (172, (2, 86)), (43, (1, 43)),
    ],
)  # fmt: skip
def test_o18_sizes_are_the_official_ones_and_always_found(
    n: int, expected: tuple[int, int]
) -> None:
    assert kronecker_sizes(n) == expected
