"""The models that figures 1 and 2 compare: two that need no cell, and cells by their labels."""

from quantexp.report import names

ORIGINAL, HADAMARD = "original", "hadamard"  # rounded as it is; after a Hadamard transform
SITES = {
    "attention_input": "input of q, k, v",
    "attention_output": "input of o",
    "mlp_input": "input of gate, up",
    "mlp_output": "input of down",
}


def name(variant: str) -> str:
    """As legends print it."""
    return {ORIGINAL: "original", HADAMARD: "Hadamard"}.get(variant) or names.method_name(variant)


def order(variant: str) -> int:
    """As the paper lists them: original, per-channel scaling, Hadamard, FlatQuant."""
    if variant == ORIGINAL:
        return 0
    return 2 if variant == HADAMARD else 3 if variant.startswith("flatquant") else 1
