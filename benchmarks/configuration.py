"""One configuration from overrides, as the command line would compose it."""

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from quantexp import resources
from quantexp.config import ExperimentConfig, from_plain


def configuration(*overrides: str) -> ExperimentConfig:
    """Raises ``ConfigError`` for what the command line would refuse."""
    resources.show_launcher()  # conf/ names it
    with initialize_config_dir(str(resources.own("conf")), version_base="1.3"):
        data: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return from_plain(data)
