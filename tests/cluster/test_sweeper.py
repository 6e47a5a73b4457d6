"""Hydra's other sweepers: they get the value of each cell, and choose the next cells by it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import fake_model

TESTS = Path(__file__).parents[1]

SWEEPER = '''
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Halving(Sweeper):
    """Tries three widths, then the best one again with another seed."""

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        grid = [[*arguments, f"bits.weight.bits={bits}"] for bits in (8, 3, 4)]
        values = [r.return_value for r in self.launcher.launch(grid, initial_job_idx=0)]
        best = grid[values.index(min(values))]
        [last] = self.launcher.launch([[*best, "data.seed=1"]], initial_job_idx=3)
        print("values", values, last.return_value)
'''

PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:3]
from fakes import finish
from quantexp.experiment import run
run._calibrate_and_evaluate = lambda cell, status: finish(cell, cell.config.bits.weight.bits)
from quantexp.__main__ import main
sys.exit(main(sys.argv[3:]))
"""


def sweep(folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    fake_model(folder / "model")
    (folder / "plugins/hydra_plugins").mkdir(parents=True)
    (folder / "plugins/hydra_plugins/halving.py").write_text(SWEEPER)
    (folder / "conf/hydra/sweeper").mkdir(parents=True)
    (folder / "conf/hydra/sweeper/halving.yaml").write_text(
        "# A sweeper that looks at results.\n_target_: hydra_plugins.halving.Halving\n"
    )
    given = ["model=local", "model.path=model", "tracker=none", "method=gptq", "bits=w4a16"]
    given += ["hydra/sweeper=halving", "name=s", "-m", *more]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(TESTS), str(folder / "plugins"), *given],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_sweeper_gets_values_and_its_batches_are_one_sweep(tmp_path: Path) -> None:
    done = sweep(tmp_path, "cluster=debug")
    assert done.returncode == 0, done.stderr
    assert "values [8.0, 3.0, 4.0] 3.0" in done.stdout
    stored = json.loads((tmp_path / "outputs/sweeps/s/sweep.json").read_text())
    assert len(stored["cells"]) == 5  # three widths, the best one again, the baseline


@pytest.mark.parametrize("place", ["debug", "slurm"])
def test_a_sweeper_that_needs_values_cannot_be_detached(tmp_path: Path, place: str) -> None:
    refused = sweep(tmp_path, f"cluster={place}", "cluster.detach=true")
    assert refused.returncode == 2
    assert "Halving" in refused.stderr
    assert not (tmp_path / "outputs").exists()
