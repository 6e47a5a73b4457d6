"""The whole model in memory, for code that wants a ``PreTrainedModel``: lm-eval, generation.

Perplexity streams one block at a time; a harness calls the model many times with batches of its
own and needs all of it at once. The blocks are the same objects that the streamed evaluation
calls, so both compute the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_max_memory
from torch import nn

from quantexp.errors import DataError
from quantexp.models.load import StreamedModel
from quantexp.quantization.linear import QuantLinear

Device = int | str | torch.device
_SHARE = 0.85  # of a device's free memory that weights may take; the rest is for activations


def assemble(model: StreamedModel, block: Callable[[int], nn.Module]) -> Any:
    """One ``PreTrainedModel`` of embedding, blocks, norm and head, in ``model.compute``.

    A model larger than one accelerator is spread over all of them by accelerate, whole blocks at a
    time, and over the host's memory after that; its hooks move the activations.

    Args:
        model: The checkpoint's pieces.
        block: Block by index, quantized or not, in ``model.compute``.

    Raises:
        DataError: It does not fit the accelerators and the host together.
    """
    whole = model.skeleton()
    devices = placement(whole, model)
    for index, path in enumerate(_block_paths(model)):
        found = block(index)
        for linear in found.modules():
            if isinstance(linear, QuantLinear):
                linear.integers = (
                    None  # the weight holds their values; a whole model needs the room
                )
        whole.set_submodule(path, found.to(_device_of(path, devices)))
    model.fill_surroundings(whole, lambda path: _device_of(path, devices))
    if len(set(devices.values())) > 1:
        dispatch_model(whole, dict(devices))
    return whole.requires_grad_(False).eval()


def placement(
    whole: nn.Module,
    model: StreamedModel,
    max_memory: Mapping[int | str, int | str] | None = None,
) -> dict[str, Device]:
    """Module path → device; one entry ``""`` where everything fits one device.

    Args:
        whole: The model on the meta device.
        model: Its pieces.
        max_memory: Bytes per device, by accelerate's names; ``None`` takes what is free, less
            room for activations.

    Raises:
        DataError: Something would have to lie on disk.
    """
    if max_memory is None and model.device.type == "cpu":
        return {"": model.device}
    if max_memory is None:
        torch.cuda.empty_cache()  # what torch keeps for later is free as well
        free = get_max_memory()
        max_memory = {name: int(size * _SHARE) for name, size in free.items()}
    classes = sorted({type(whole.get_submodule(p)).__name__ for p in _block_paths(model)})
    found = infer_auto_device_map(
        whole, dict(max_memory), no_split_module_classes=classes, dtype=model.compute
    )
    if "disk" in found.values():
        room = ", ".join(f"{name}: {size}" for name, size in max_memory.items())
        raise DataError(
            f"the whole model does not fit the memory that is free ({room}): zero-shot tasks need "
            "it at once; give the job more accelerators or host memory"
        )
    devices: dict[str, Device] = dict(found)
    return devices


def _block_paths(model: StreamedModel) -> list[str]:
    return [f"{model.source.architecture.layers}.{index}" for index in range(model.blocks)]


def _device_of(path: str, devices: Mapping[str, Device]) -> Device:
    """The device of the nearest module that has one; what lies below it for sure is on it."""
    parts = path.split(".")
    for end in range(len(parts), -1, -1):
        name = ".".join(parts[:end])
        if name in devices:
            return devices[name]
    raise AssertionError(f"{path} has no device in {devices}")
