"""What tensors' names cannot say of a decoder without a table, checked on one of its blocks."""

import copy
import inspect

import torch
from torch import Tensor, nn

from quantexp.errors import DataError
from quantexp.models.source import ModelSource


def check_detected(block: nn.Module, source: ModelSource) -> None:
    """Refuses a decoder whose modules do not do what Llama's do.

    Args:
        block: One of its blocks, on the meta device.
        source: Its files.

    Raises:
        DataError: Names the module.
    """
    paths, kind = source.architecture, source.config["model_type"]
    for path in paths.linears:
        if not isinstance(block.get_submodule(path), nn.Linear):
            raise DataError(f"model_type '{kind}': {path} is no nn.Linear: not supported")
    attention = inspect.unwrap(type(block.get_submodule(paths.attention)).forward)
    if "ALL_ATTENTION_FUNCTIONS" not in attention.__globals__:
        raise DataError(
            f"model_type '{kind}': {paths.attention} computes attention by itself and not by "
            "transformers' functions, so that keys, values and queries could not be quantized: "
            "not supported"
        )
    for site in paths.sites:
        if site.norm is not None and not _weight_scales(block.get_submodule(site.norm)):
            raise DataError(
                f"model_type '{kind}': {site.norm} does more with its weight than multiply by "
                "it, so that no transform can be absorbed there: not supported"
            )


@torch.no_grad()
def _weight_scales(norm: nn.Module) -> bool:
    """Whether a norm's output is its weight times something."""
    norm = copy.deepcopy(norm).to_empty(device="cpu")
    weight, bias = norm.get_parameter("weight"), getattr(norm, "bias", None)
    x = torch.linspace(-1, 1, weight.numel()).unsqueeze(0)
    outs = []
    for value in (0.0, 1.0, 2.0):
        weight.fill_(value)
        if isinstance(bias, Tensor):
            bias.zero_()
        outs.append(norm(x))
    return not outs[0].any() and torch.allclose(outs[2], 2 * outs[1])
