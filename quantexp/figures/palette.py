"""A colour and a marker per method; Okabe and Ito's colours, told apart by colour-blind readers."""

import zlib

PALE = "#8a8a8a"  # what is not data: chance level, front
_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
METHODS = {
    "none": (_BLACK, "s"),
    "original": (_BLACK, "s"),  # rounded as it is, in figures 1 and 2
    "rtn": (_ORANGE, "o"),
    "gptq": (_SKY, "s"),
    "smoothquant": (_GREEN, "^"),
    "awq": (_PURPLE, "D"),
    "omniquant": (_BLUE, "v"),
    "quarot": (PALE, "P"),
    "hadamard": (PALE, "P"),  # QuaRot's transform
    "spinquant": (_YELLOW, "X"),
    "flatquant": (_RED, "*"),
}
_MARKERS = ("h", "<", ">", "d", "p", "8")  # of other methods, and of a method's further variants


def marker(label: str, variant: int = 0) -> str:
    """The marker of a method's variant: its own for the first, another for each further one."""
    return _MARKERS[(variant - 1) % len(_MARKERS)] if variant else method(label)[1]


def method(label: str) -> tuple[str, str]:
    """Colour and marker (matplotlib's name) of a method, ``+gptq`` or not."""
    first = label.split("+")[0]
    if first in METHODS:
        return METHODS[first]
    # a method of the user's own: any look, but in every figure the same
    number = zlib.crc32(first.encode())
    colours = (_SKY, _PURPLE, _BLUE, _GREEN, _YELLOW)
    return colours[number % len(colours)], _MARKERS[number % len(_MARKERS)]
