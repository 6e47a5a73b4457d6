"""Hadamard matrices: orthogonal, of one size of entries, whatever the construction."""

import pytest
import torch

from quantexp.quantization.hadamard import hadamard, hadamard_exists, transform


@pytest.mark.parametrize("n", [1, 2, 4, 12, 20, 28, 32, 36, 40, 60, 108, 140, 148, 256, 640])
def test_entries_are_of_one_size_and_rows_orthogonal(n: int) -> None:
    H = hadamard(n)
    assert torch.allclose(H @ H.T, torch.eye(n), atol=1e-5)
    assert torch.allclose(H.abs(), torch.full((n, n), n**-0.5))


@pytest.mark.parametrize("n", [52, 86, 172])
def test_without_a_construction_the_matrix_is_orthogonal_in_blocks(n: int) -> None:
    H = hadamard(n)
    assert not hadamard_exists(n)
    assert torch.allclose(H @ H.T, torch.eye(n), atol=1e-6)
    assert (H != 0).sum(0).unique().tolist() == [n & -n]


@pytest.mark.parametrize(
    ("n", "sizes"), [(256, (16, 16)), (640, (32, 20)), (4096, (64, 64)), (14336, (128, 112))]
)
def test_a_transform_is_two_factors_that_spread_an_outlier_evenly(
    n: int, sizes: tuple[int, int]
) -> None:
    found = transform(n)
    assert found.left is not None
    assert found.right is not None
    assert (len(found.left.matrix), len(found.right.matrix)) == sizes
    outlier = torch.zeros(1, n)
    outlier[0, 3] = 1.0
    spread = found.act(outlier)
    assert torch.allclose(spread.abs(), torch.full((1, n), n**-0.5), atol=1e-6)
    # the weights take the inverse
    assert torch.allclose(found.weight_in(outlier) @ spread.T, torch.ones(1, 1), atol=1e-5)
