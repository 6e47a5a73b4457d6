"""Plant activation outliers into the demo model without changing its function.

Large language models have a few channels whose activations are far larger than all others,
in the same hidden channels of every block; small ones like the demo model have not, so on
them low-bit activation quantization looks easier than it is.  Here a few channels are scaled
up by a power of two where they are produced (RMSNorm weights, rows of ``up_proj``) and the
matching input columns of the linears that follow are scaled down by the same factor.  Powers
of two only shift exponents: in floating point the logits stay what they were, while a
quantizer of the activations now sees outliers.
"""

import argparse
import json
import math
import random
from collections.abc import Mapping, MutableMapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GAIN = 16
HIDDEN_CHANNELS = 2
MLP_CHANNELS = 2
SEED = 0

FLOAT16_STEP = 2.0**-24
"""Distance between the smallest float16 numbers."""

CONSUMERS: Mapping[str, tuple[str, ...]] = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up_proj": ("mlp.down_proj",),
}
"""What produces an activation -> the linears that read it, both inside one block."""


def choose_channels(
    weights: Mapping[str, torch.Tensor],
    hidden: int = HIDDEN_CHANNELS,
    mlp: int = MLP_CHANNELS,
    seed: int = SEED,
) -> dict[str, list[int]]:
    """Choose the channels: the same hidden ones in every block, other MLP ones in each.

    Args:
        weights: The model's parameters by name.
        hidden: Number of channels of every RMSNorm.
        mlp: Number of channels of every ``up_proj`` output.
        seed: Fixes the choice.

    Returns:
        Channel indices by the name of the producing module ("model.layers.0.mlp.up_proj").
    """
    rng = random.Random(seed)
    blocks = sorted({int(name.split(".")[2]) for name in weights if ".layers." in name})
    width, mlp_width = weights["model.layers.0.mlp.down_proj.weight"].shape
    shared = sorted(rng.sample(range(width), hidden))
    chosen = {}
    for block in blocks:
        for producer in CONSUMERS:
            is_mlp = producer.startswith("mlp.")
            chosen[f"model.layers.{block}.{producer}"] = (
                sorted(rng.sample(range(mlp_width), mlp)) if is_mlp else list(shared)
            )
    return chosen


def _consumers(producer: str) -> list[str]:
    """Return the parameter names of the linears that read what ``producer`` writes."""
    block = ".".join(producer.split(".")[:3])
    return [f"{block}.{name}.weight" for name in CONSUMERS[producer.removeprefix(f"{block}.")]]


@torch.no_grad()
def snap(
    weights: MutableMapping[str, torch.Tensor], channels: Mapping[str, list[int]], gain: float
) -> None:
    """Round the columns to be divided, in place, so that the division is exact in float16.

    A float16 weight below about ``gain * 2**-14`` would lose its last bits in the subnormal
    range.  Rounding it to a multiple of ``gain * 2**-24`` first (an absolute change of at most
    half of that, 5e-7 for a gain of 16) makes planting and undoing exact.
    """
    step = gain * FLOAT16_STEP
    for producer, picked in channels.items():
        for name in _consumers(producer):
            columns = weights[name][:, picked]
            weights[name][:, picked] = (columns.double() / step).round().mul(step).to(columns)


@torch.no_grad()
def plant(
    weights: MutableMapping[str, torch.Tensor], channels: Mapping[str, list[int]], gain: float
) -> None:
    """Scale the chosen channels up by ``gain`` and their readers down, in place.

    Args:
        weights: The parameters by name, e.g. ``dict(model.named_parameters())``.
        channels: As :func:`choose_channels` returns them.
        gain: A power of two; its inverse undoes the planting.

    Raises:
        ValueError: If ``gain`` is not a power of two (the function would change).
    """
    if gain <= 0 or math.frexp(gain)[0] != 0.5:
        raise ValueError(f"gain must be a power of two, got {gain!r}")
    for producer, picked in channels.items():
        weights[f"{producer}.weight"][picked] *= gain
        for name in _consumers(producer):
            weights[name][:, picked] /= gain


def undo(weights: MutableMapping[str, torch.Tensor], planted: Mapping[str, object]) -> None:
    """Take planted outliers out again, in place.

    Args:
        weights: The planted parameters by name.
        planted: The ``planted`` entry of ``train_result.json`` (``gain`` and ``channels``).

    Raises:
        ValueError: If the entry is malformed.
    """
    gain, channels = planted.get("gain"), planted.get("channels")
    if not isinstance(gain, int | float) or not isinstance(channels, dict):
        raise ValueError("planted must hold a number 'gain' and a mapping 'channels'")
    plant(weights, channels, 1 / gain)


def plant_folder(
    folder: Path, gain: float = GAIN, hidden: int = HIDDEN_CHANNELS, mlp: int = MLP_CHANNELS
) -> None:
    """Plant outliers into a float16 checkpoint on disk and note them in its result file.

    Args:
        folder: Holds ``model.safetensors`` and ``train_result.json``; both are rewritten.
        gain: A power of two.
        hidden: Number of channels of every RMSNorm.
        mlp: Number of channels of every ``up_proj`` output.

    Raises:
        ValueError: If the checkpoint is planted already.
        ArithmeticError: If undoing would not give back every weight bit for bit.
    """
    result_path, weights_path = folder / "train_result.json", folder / "model.safetensors"
    result = json.loads(result_path.read_text())
    if "planted" in result:
        raise ValueError(f"{folder} holds planted outliers already")
    weights = load_file(weights_path)
    channels = choose_channels(weights, hidden, mlp)
    snap(weights, channels, gain)
    original = {name: weight.clone() for name, weight in weights.items()}
    plant(weights, channels, gain)
    planted = {"gain": gain, "seed": SEED, "channels": channels}

    restored = {name: weight.clone() for name, weight in weights.items()}
    undo(restored, planted)
    changed = [name for name in original if not torch.equal(original[name], restored[name])]
    if changed:
        raise ArithmeticError(f"a gain of {gain} is not exact in float16 for {changed}")
    save_file(weights, weights_path, metadata={"format": "pt"})
    result_path.write_text(json.dumps(result | {"planted": planted}, indent=2) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Plant activation outliers into a checkpoint.")
    parser.add_argument("folder", type=Path, help="what quantexp.models.demo.train wrote")
    parser.add_argument("--gain", type=int, default=GAIN)
    parser.add_argument("--hidden-channels", type=int, default=HIDDEN_CHANNELS)
    parser.add_argument("--mlp-channels", type=int, default=MLP_CHANNELS)
    args = parser.parse_args()
    plant_folder(args.folder, args.gain, args.hidden_channels, args.mlp_channels)


if __name__ == "__main__":
    main()
