"""One cluster for this folder's tests, or a skip with the reason; and an undisturbed sweep."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, UnavailableError, running
from sweep import Sweep


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path("/tmp") / f"qx-slurm-{os.getpid()}"  # short, for unix sockets
    try:
        with running(folder) as started:
            yield started
    except UnavailableError as reason:
        pytest.skip(str(reason))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the sweep of these tests gives where nothing disturbs it, without SLURM."""
    sweep = Sweep(tmp_path_factory.mktemp("quiet"), "cluster=debug")
    assert sweep.run() == 0
    return sweep.results()


@pytest.fixture
def sweep(cluster: Cluster, tmp_path: Path) -> Iterator[Sweep]:
    made = Sweep(tmp_path, "cluster.poll_s=1", "cluster.memory_gb=1")
    yield made
    made.end()
