"""GPTQModel's part of ``peers.py``: GPTQ with the settings that quantexp has."""

from __future__ import annotations

from typing import Any

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from peer_job import TOKENS_PER_BATCH, Job, work
from torch import Tensor


def load(job: Job) -> Any:
    """The whole model, in float32."""
    config = QuantizeConfig(
        bits=job.weight_bits,
        group_size=job.group_size or -1,
        sym=True,
        desc_act=False,
        act_group_aware=False,
        damp_percent=job.damping,
        offload_to_disk=False,
    )
    return GPTQModel.load(job.model, config, dtype=torch.float32, device="cpu")


def quantize(job: Job, subject: Any, windows: Tensor) -> Any:
    """Packing is in its time, writing is not."""
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in windows.tolist()]
    batch = max(1, TOKENS_PER_BATCH // windows.shape[1])
    subject.quantize(rows, batch_size=batch, backend=BACKEND.GPTQ_TORCH)
    return subject.model


@torch.no_grad()
def dense(job: Job, subject: Any, made: Any) -> dict[str, Tensor]:
    """What the packed integers say, and the norms."""
    found = {}
    for name, module in made.named_modules():
        if not name.startswith("model.layers."):
            continue
        if name.endswith("norm"):
            found[f"{name}.weight"] = module.weight
        elif hasattr(module, "qweight"):
            found[f"{name}.weight"] = _dequantized(module)
    return found


def _dequantized(module: Any) -> Tensor:
    """(O, C) of a packed linear, without what its kernels would compile."""
    shifts = torch.arange(0, 32, module.bits)
    mask = 2**module.bits - 1
    codes = (module.qweight.unsqueeze(1) >> shifts.view(1, -1, 1)) & mask
    zeros = (module.qzeros.unsqueeze(2) >> shifts) & mask
    # the format's first version stores zero points less one
    codes, zeros = codes.flatten(0, 1), zeros.flatten(1) + (module.qzero_format() == 1)
    group = module.g_idx.long()
    return ((codes - zeros[group]) * module.scales.float()[group]).T


if __name__ == "__main__":
    work(("gptqmodel",), load, quantize, dense)
