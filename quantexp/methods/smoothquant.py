"""SmoothQuant (arXiv 2211.10438): moves activation outliers into the weights, per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.errors import ConfigError
from quantexp.methods.base import Method

if TYPE_CHECKING:
    from quantexp.calibration.blocks import CalibrationBlock
    from quantexp.config import ExperimentConfig


@dataclass(frozen=True)
class SmoothQuantOptions:
    """Attributes.

    alpha: Migration strength: 0 leaves all difficulty to the activations, 1 to the weights.
    """

    alpha: float = 0.5


class SmoothQuant(Method):
    """s_j = max|X_j|^α / max|W_j|^(1-α) (equation 4), absorbed into the norms."""

    Options = SmoothQuantOptions
    streams = ("fp",)

    @classmethod
    def check(cls, config: ExperimentConfig) -> None:
        """Refuses α outside [0, 1]."""
        alpha = config.method.options.alpha
        if not 0 <= alpha <= 1:
            raise ConfigError(f"method.alpha={alpha} is out of range: allowed 0 to 1")

    def fit(self, block: CalibrationBlock) -> dict[str, Any]:
        """Installs x/s and W·s behind both norms (equation 3); o and down stay as they are."""
        from quantexp.quantization.smoothing import smoothing_scale
        from quantexp.quantization.transforms import Diagonal

        report = {}
        for site in block.quant.architecture.sites:
            if site.norm is None:
                continue
            x_max = block.channel_max[site.linears[0]]
            weights = [block.quant.linears[path].weight for path in site.linears]
            s = smoothing_scale(x_max, weights, self.options.alpha)
            block.quant.install(site.name, Diagonal(1 / s))
            report[site.name] = {"scale_min": float(s.min()), "scale_max": float(s.max())}
        return {"smoothing": report}
