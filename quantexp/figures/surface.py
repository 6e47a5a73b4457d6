"""FlatQuant's figure 2: squared quantization error over blocks and tokens, per transform.

A map for each transform, all in one logarithmic scale of colour, and the surfaces over one another.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from quantexp.figures import style
from quantexp.figures.variants import ORIGINAL, name

_MOST = 40  # tokens that a surface is drawn at; the maps have all
_TINY = 1e-12  # stands for no error at all, which a logarithm cannot show


def draw(data: Mapping[str, Any]) -> Figure:
    """A map per transform with its mean error, and the overlay.

    Args:
        data: What :func:`quantexp.figures.flatness.measure` returned.
    """
    errors = {
        label: np.maximum(np.asarray(of, dtype=float), _TINY) for label, of in data["mse"].items()
    }
    rows = -(-len(errors) // 2)
    figure = Figure(figsize=(style.PAGE, 1.45 * rows + 0.7), layout="constrained")
    grid = figure.add_gridspec(rows, 4, width_ratios=(1, 1, 0.06, 1.5))
    norm = LogNorm(
        min(float(of.min()) for of in errors.values()),
        max(float(of.max()) for of in errors.values()),
    )
    for n, (label, error) in enumerate(errors.items()):
        axis = figure.add_subplot(grid[n // 2, n % 2])
        image = _map(axis, error, norm)
        axis.set_title(f"{name(label)}: mean {data['mean_mse'][label]:.2g}")
        if n % 2 == 0:
            axis.set_ylabel("block")
        if n + 2 >= len(errors):
            axis.set_xlabel("token")
    figure.colorbar(image, cax=figure.add_subplot(grid[:, 2]))
    _overlay(figure.add_subplot(grid[:, 3], projection="3d"), errors)
    style.legend(figure, {name(label): Patch(facecolor=style.colour(label)) for label in errors})
    figure.suptitle(
        f"{data['model']} {data['bits']}: mean squared error of each block's output", fontsize=8
    )
    return figure


def _map(axis: Axes, error: Any, norm: LogNorm) -> Any:
    blocks, tokens = error.shape
    extent = (-0.5, tokens - 0.5, -0.5, blocks - 0.5)
    axis.grid(False)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return axis.imshow(
        error,
        norm=norm,
        cmap="cividis",
        aspect="auto",
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )


def _overlay(axis: Any, errors: Mapping[str, Any]) -> None:
    """``axis`` has three dimensions, which matplotlib's types do not know."""
    for label, error in errors.items():
        blocks, tokens = error.shape
        chosen = np.unique(np.linspace(0, tokens - 1, _MOST).astype(int))
        X, Y = np.meshgrid(chosen, np.arange(blocks))
        Z = np.log10(error[:, chosen])
        if label == ORIGINAL:  # the highest must not hide the others
            axis.plot_wireframe(X, Y, Z, color=style.colour(label), linewidth=0.4, rcount=blocks)
        else:
            axis.plot_surface(
                X, Y, Z, color=style.colour(label), alpha=0.85, linewidth=0, rstride=1, cstride=1
            )
    axis.zaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.zaxis.set_major_formatter(FuncFormatter(lambda value, _: f"$10^{{{value:.0f}}}$"))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.set_xlabel("token", labelpad=-6)
    axis.set_ylabel("block", labelpad=-6)
    axis.tick_params(pad=-3, labelsize=6)
    axis.view_init(elev=18, azim=-55)
    axis.set_box_aspect(None, zoom=0.95)
    axis.set_title("overlay")
