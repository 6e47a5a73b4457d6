import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import fake_model
from lab import CODE, Write


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plugins: None) -> Path:
    """An empty working directory with a model and a text; no plugin but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTEXP_OUTPUTS", raising=False)
    fake_model(tmp_path / "model")
    (tmp_path / "text.txt").write_text("long enough " * 1000)
    return tmp_path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a plugin: the files of a folder; ``mine.py`` and ``mine.yaml`` unless told else."""

    def make(where: str = "lab", /, **files: str | None) -> Path:
        place = tmp_path / where
        place.mkdir(parents=True, exist_ok=True)
        content = {"mine_py": CODE, "mine_yaml": "name: mine\nscale: 0.5\n", **files}
        for name, text in content.items():
            stem, _, end = name.rpartition("_")
            if text is not None:
                (place / f"{stem}.{end}").write_text(text)
        return place

    return make


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes ``site/`` the place of an installed distribution with one entry point."""

    def make(value: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
            del sys.modules[name]  # another test's
        info = tmp_path / "site" / "mylab_quant-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab-quant\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[quantexp.plugins]\nlab = {value}\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return make
