"""A sweeper that chooses cells by results must wait for them."""

import pytest
from configs import make

from quantexp.cluster import launcher
from quantexp.errors import ConfigError


def test_a_sweeper_that_needs_values_cannot_be_detached(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    launcher._check([make()])
    with pytest.raises(ConfigError, match=r"cluster\.detach=true.*wait"):
        launcher._check([make(cluster={"detach": True})])
