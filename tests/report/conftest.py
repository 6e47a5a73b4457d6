from pathlib import Path

import pytest
from fake_outputs import FakeOutputs


@pytest.fixture
def outputs(tmp_path: Path) -> FakeOutputs:
    return FakeOutputs(tmp_path / "outputs")
