"""SmoothQuant (arXiv 2211.10438): moves activation outliers into the weights, per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.errors import ConfigError
from quantexp.methods.base import Holds, Method
from quantexp.values import share

if TYPE_CHECKING:
    from torch import Tensor

    from quantexp.calibration.blocks import CalibrationBlock
    from quantexp.config import BitsConfig, ExperimentConfig
    from quantexp.quantization.transforms import Diagonal


@dataclass(frozen=True)
class SmoothQuantOptions:
    """Attributes.

    alpha: Migration strength: 0 leaves all difficulty to the activations, 1 to the weights.
    alpha_grid: Instead of one ``alpha``, those of which each block takes the one with the least
        error of its output under the cell's bits, weights rounded to nearest.
    """

    alpha: float = 0.5
    alpha_grid: tuple[float, ...] = ()


class SmoothQuant(Method):
    """s_j = max|X_j|^α / max|W_j|^(1-α) (equation 4), absorbed into the norms."""

    Options = SmoothQuantOptions
    streams = ("fp",)

    @property
    def uses_forward_bits(self) -> bool:  # type: ignore[override]
        """A grid is judged on outputs; one α is a formula of statistics."""
        return bool(self.options.alpha_grid)

    @classmethod
    def check(cls, config: ExperimentConfig) -> None:
        """Refuses α outside [0, 1], and a grid where every α would do the same."""
        o, bits = config.method.options, config.bits
        given = {"alpha": o.alpha} | {f"alpha_grid[{i}]": a for i, a in enumerate(o.alpha_grid)}
        for key, alpha in given.items():
            share(f"method.{key}", alpha)
        if o.alpha_grid and not (bits.weight.active or bits.activation.active):
            raise ConfigError(
                f"method.alpha_grid={list(o.alpha_grid)} with bits={bits.label}: neither weights "
                "nor inputs of linears are quantized, so every alpha gives the same outputs; use "
                "method.alpha_grid=[] or other bits"
            )

    def holds(self, bits: BitsConfig) -> Holds:
        """Passes that measure each channel."""
        return Holds(passes=1.1)

    def fit(self, block: CalibrationBlock) -> dict[str, Any]:
        """Installs x/s and W·s behind both norms (equation 3); o and down stay as they are."""
        from quantexp.quantization.transforms import Diagonal

        o = self.options
        tried = {alpha: _scales(block, alpha) for alpha in o.alpha_grid or (o.alpha,)}
        installed = {site: Diagonal(1 / s) for site, s in tried[next(iter(tried))].items()}
        for site, diagonal in installed.items():
            block.quant.install(site, diagonal)
        report: dict[str, Any] = {}
        alpha = o.alpha
        if o.alpha_grid:
            errors = _errors(block, installed, tried)
            alpha = min(errors, key=lambda a: errors[a])
            _set(installed, tried[alpha])
            report = {"alpha": alpha, "alpha_errors": {str(a): e for a, e in errors.items()}}
        report["smoothing"] = {
            site: {"scale_min": float(s.min()), "scale_max": float(s.max())}
            for site, s in tried[alpha].items()
        }
        return report


def _scales(block: CalibrationBlock, alpha: float) -> dict[str, Tensor]:
    """Equation 4 at the two sites that norms feed."""
    from quantexp.quantization.smoothing import smoothing_scale

    found = {}
    for site in block.quant.architecture.sites:
        if site.norm is not None:
            weights = [block.quant.linears[path].weight for path in site.linears]
            x_max = block.channel_max[site.linears[0]]
            found[site.name] = smoothing_scale(x_max, weights, alpha)
    return found


def _errors(
    block: CalibrationBlock,
    installed: dict[str, Diagonal],
    tried: dict[float, dict[str, Tensor]],
) -> dict[float, float]:
    """Mean squared error of the quantized block's output for each α, over all windows."""
    import torch

    block.quant.start_fitting()
    total = torch.zeros(len(tried), dtype=torch.float64, device=block.device)
    with torch.no_grad():
        for x, y in zip(block.batches(block.inputs), block.batches(block.targets), strict=True):
            exact = y.to(block.device)
            for i, scales in enumerate(tried.values()):
                _set(installed, scales)
                total[i] += (block.forward(x) - exact).square().sum().double()
    errors = (total / block.targets.numel()).nan_to_num(nan=torch.inf).tolist()
    return dict(zip(tried, errors, strict=True))


def _set(installed: dict[str, Diagonal], scales: dict[str, Tensor]) -> None:
    for site, s in scales.items():
        installed[site].scale.data = 1 / s
