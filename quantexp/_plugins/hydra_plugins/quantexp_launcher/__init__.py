"""The launcher class alone: Hydra executes plugin modules in its own way, so all else is elsewhere.

``quantexp/_plugins`` is put on ``sys.path`` by quantexp's own command only; other Hydra programs
of the same environment never see it.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

ConfigStore.instance().store(
    group="hydra/launcher",
    name="quantexp",
    node={"_target_": "hydra_plugins.quantexp_launcher.QuantexpLauncher"},
    provider="quantexp",
)


class QuantexpLauncher(Launcher):
    """Hands Hydra's grid to :mod:`quantexp.cluster.launcher`."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keeps what Hydra composes with; the task function is for single runs."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs all cells; returns one result per list of overrides, in order."""
        from quantexp.cluster.launcher import launch

        return launch(self.hydra_context.config_loader, self.config, job_overrides)
