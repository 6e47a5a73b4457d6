import os

# before torch is imported: one thread makes sums, and so results, the same on every machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
import torch

from quantexp.calibration import shared
from quantexp.errors import ConfigError
from quantexp.plugins import active, known


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--plugins",
        dest="method_plugins",
        action="append",
        default=[],
        metavar="FOLDER",
        help="test the methods of this folder like our own; -k NAME runs theirs alone",
    )


def pytest_configure(config: pytest.Config) -> None:
    # before the tests are collected: helpers.METHODS lists what is known by then
    try:
        active.include(config.getoption("method_plugins"))
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier test computed must not stand in for what this one breaks."""
    monkeypatch.setattr(shared, "here", shared.Shared())


@pytest.fixture
def no_plugins() -> Iterator[None]:
    """Nothing of ``--plugins`` within the test, all of it after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(known.VARIABLE, raising=False)
        yield
    active.include([])


@pytest.fixture
def reference() -> str:
    """The folder with the official implementations' numbers, or a skip."""
    from helpers import REFERENCE

    if REFERENCE is None:
        pytest.skip("set QUANTEXP_REFERENCE_DATA to a folder with models/ and reference/")
    return REFERENCE
