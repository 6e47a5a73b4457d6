"""One cluster for all tests of this folder, or a skip with the reason."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, UnavailableError, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path("/tmp") / f"qx-slurm-{os.getpid()}"  # short, for unix sockets
    try:
        with running(folder) as started:
            yield started
    except UnavailableError as reason:
        pytest.skip(str(reason))
    shutil.rmtree(folder, ignore_errors=True)
