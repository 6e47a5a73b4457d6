import os

# before torch is imported: one thread makes sums, and so results, the same on every machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from helpers import REFERENCE


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def reference() -> str:
    """The folder with the official implementations' numbers, or a skip."""
    if REFERENCE is None:
        pytest.skip("set QUANTEXP_REFERENCE_DATA to a folder with models/ and reference/")
    return REFERENCE
