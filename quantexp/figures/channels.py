"""FlatQuant's figure 1: channel magnitudes, sorted, of activations and weights at each site.

Magnitudes are divided by their root mean square: a flat tensor is a line at 1, whatever its scale.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantexp.figures import style
from quantexp.figures.variants import ORIGINAL, SITES, name


def draw(data: Mapping[str, Any]) -> Figure:
    """A column of panels per site; activations above weights.

    Args:
        data: What :func:`quantexp.figures.flatness.measure` returned.
    """
    sites = data["channels"]
    count = len(sites)
    figure, axes = style.panels(2 * count, height=1.8, columns=count)
    entries: dict[str, Any] = {}
    for n, (site, tensors) in enumerate(sites.items()):
        for row, tensor in enumerate(("activations", "weights")):
            axis = axes[row * count + n]
            if n:
                axis.sharey(axes[row * count])
                axis.tick_params(labelleft=False)
            for label, magnitudes in tensors[tensor].items():
                look = style.line(label)
                if label == ORIGINAL:
                    look["linestyle"] = (0, (4, 1.5))
                _plot(axis, np.asarray(magnitudes, dtype=float), look)
                entries.setdefault(name(label), look)
        axes[n].set_title(SITES.get(site, site))
        axes[count + n].set_xlabel("channel, sorted")
    # outliers of activations are tens of times the rest; weights may be zero
    style.log_if_wide(axes[0], [*_range(sites)])
    axes[count].set_ylim(bottom=0)
    axes[0].set_ylabel("activations\nrelative magnitude")
    axes[count].set_ylabel("rounded weights\nrelative magnitude")
    style.legend(figure, entries)
    figure.suptitle(f"{data['model']} {data['bits']}, block {data['block']}", fontsize=8)
    return figure


def _plot(axis: Axes, magnitudes: Any, look: dict[str, Any]) -> None:
    count = len(magnitudes)
    # few markers: they tell the curves apart in grey
    every = (count // 8, max(1, count // 4))
    axis.plot(np.arange(1, count + 1), _relative(magnitudes), markevery=every, **look)
    axis.set_xlim(1 - 0.04 * count, 1.04 * count)  # an outlier must not lie on the axis
    axis.set_xticks([1, count // 2, count])


def _relative(magnitudes: Any) -> Any:
    return magnitudes / (np.sqrt(np.mean(np.square(magnitudes))) or 1.0)


def _range(sites: Mapping[str, Any]) -> tuple[float, float]:
    every = [
        _relative(np.asarray(of, dtype=float))
        for tensors in sites.values()
        for of in tensors["activations"].values()
    ]
    return min(float(of.min()) for of in every), max(float(of.max()) for of in every)
