"""A causal language model in pieces: what stands before the blocks, one block at a time, the head.

The whole model's weights exist on the meta device only; they are read from safetensors when a
piece is asked for, so that one block is in memory at a time. What stands around the blocks is run
by the model's own code (:mod:`quantexp.models.surroundings`).
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from quantexp.config import ModelConfig
from quantexp.errors import DataError
from quantexp.models.ahead import read_ahead
from quantexp.models.source import ModelSource
from quantexp.models.surroundings import Surroundings
from quantexp.models.verify import check_detected
from quantexp.quantization import attention

_TOKENS = 2048  # that are embedded at once: some models make a mask per head of them
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class StreamedModel:
    """The pieces of one checkpoint.

    Attributes:
        source: The checkpoint's files.
        stored: Dtype that the checkpoint is (to be) stored in.
        device: Where pieces are put.
    """

    def __init__(self, source: ModelSource, config: ModelConfig) -> None:
        transformers_logging.set_verbosity_error()
        attention.register()
        self.source = source
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            # a resumed calibration must end bit-identical
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            # unless a calibration says otherwise, and whatever the environment says
            torch.backends.cuda.matmul.fp32_precision = "ieee"
        # the repository's code is for models that transformers lacks; a table is of transformers'
        self._trust = config.trust_remote_code and source.detected
        self._config = AutoConfig.from_pretrained(
            source.folder, trust_remote_code=self._trust, local_files_only=True
        )
        self._files = _index(source)
        # buffers (rotary frequencies, embedding scales) are computed, not stored: they stay
        with init_empty_weights(include_buffers=False):
            self._meta: Any = AutoModelForCausalLM.from_config(
                self._config,
                trust_remote_code=self._trust,
                attn_implementation=(
                    attention.IMPLEMENTATION if source.architecture.interface else "sdpa"
                ),
                dtype=torch.float32,
            )
        self._meta.eval()
        self.stored = self._stored_dtype(config.dtype)
        if source.detected:
            check_detected(self._empty_block(0), source)

    @property
    def compute(self) -> torch.dtype:
        """Dtype of evaluation: the checkpoint's, but float32 for float16 on a CPU.

        PyTorch's CPU kernels are several times slower in float16, and float32 holds every
        float16 number exactly.
        """
        half_on_cpu = self.stored == torch.float16 and self.device.type == "cpu"
        return torch.float32 if half_on_cpu else self.stored

    @property
    def identity(self) -> tuple[str, torch.dtype, torch.device]:
        """All that decides the weights: models of equal identity compute the same."""
        return self.source.content_hash, self.stored, self.device

    @property
    def blocks(self) -> int:
        """Number of decoder blocks."""
        return self.source.blocks

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer.

        Raises:
            DataError: The folder holds none.
        """
        try:
            return AutoTokenizer.from_pretrained(
                self.source.folder, trust_remote_code=self._trust, local_files_only=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.source.folder} holds no usable tokenizer: save it with "
                "tokenizer.save_pretrained(FOLDER)"
            ) from error

    def block(self, index: int, dtype: torch.dtype) -> nn.Module:
        """Decoder block ``index`` with its weights, in ``dtype``, on the device."""
        block = self._empty_block(index)
        prefix = f"{self.source.architecture.layers}.{index}."
        names = block.state_dict()
        self._read_ahead(index + 1)
        return _fill(block, {name: self._read(prefix + name, dtype) for name in names})

    def _read_ahead(self, index: int) -> None:
        prefix = f"{self.source.architecture.layers}.{index}."
        base = f"{self._meta.base_model_prefix}."
        prefixes = (prefix, prefix.removeprefix(base))
        read_ahead((name for name in self._files if name.startswith(prefixes)), self._files)

    def blank_block(self, index: int, dtype: torch.dtype) -> nn.Module:
        """Decoder block ``index`` on the device, its parameters to be filled by the caller."""
        block = self._empty_block(index)
        for module in block.modules():
            for name, parameter in module.named_parameters(recurse=False):
                empty = torch.empty_like(parameter, dtype=dtype, device=self.device)
                module._parameters[name] = nn.Parameter(empty, requires_grad=False)
        return block

    def skeleton(self) -> Any:
        """The whole model, its parameters on the meta device, to be filled.

        Its head is tied to its embedding only where the checkpoint stores no head.
        """
        model = copy.deepcopy(self._meta)
        model.config.use_cache = False  # nothing is generated
        model.config.tie_word_embeddings = bool(self._tied)
        return model

    def fill_surroundings(self, model: Any, device_of: Callable[[str], Any]) -> None:
        """Reads all weights of a :meth:`skeleton` outside its blocks; ties what is tied."""
        blocks = self.source.architecture.layers + "."
        for path, module in model.named_modules():
            if f"{path}.".startswith(blocks):
                continue
            device = device_of(path)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
            for name, _ in [*module.named_parameters(recurse=False)]:
                full = f"{path}.{name}"
                if full not in self._tied:
                    tensor = self._read(full, self.compute, device)
                    module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        model.tie_weights()

    def embed(self, tokens: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        """Token ids (B, T) → inputs (B, T, C) of block 0, on the CPU or into ``out``."""
        around = self._surroundings(dtype, torch.device("cpu"))
        size = max(1, _TOKENS // tokens.shape[1])
        if out is None:
            out = torch.empty(*tokens.shape, self.source.hidden, dtype=dtype)
        for part, place in zip(tokens.split(size), out.split(size), strict=True):
            place.copy_(around.inputs(part))
        return out

    def head(self, dtype: torch.dtype) -> nn.Module:
        """What follows the last block: (B, T, C) → logits (B, T, V), on the device."""
        around = self._surroundings(dtype, self.device)
        # once on nothing: what it needs is read, or found missing, now
        around(torch.zeros(1, 1, self.source.hidden, dtype=dtype, device=self.device))
        return around

    def block_kwargs(self, length: int, dtype: torch.dtype) -> list[dict[str, Any]]:
        """The keyword arguments that the real model gives to each block, for windows of ``length``.

        Masks, positions and rotary embeddings (per layer type) are what transformers makes them.
        """
        return self._surroundings(dtype, self.device).kwargs(length)

    def _surroundings(self, dtype: torch.dtype, device: torch.device) -> Surroundings:
        paths = self.source.architecture
        return Surroundings(
            self._meta, paths.layers, paths.returns_tuple, self._read, dtype, device
        )

    def _empty_block(self, index: int) -> nn.Module:
        """A copy of block ``index``: parameters on the meta device, buffers on the device."""
        layers = self._meta.get_submodule(self.source.architecture.layers)
        assert isinstance(layers, nn.ModuleList)
        block = copy.deepcopy(layers[index])
        for module in block.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(self.device)
        return block

    @property
    def _tied(self) -> dict[str, str]:
        """Tensors that are not stored since they are others': name → the other's name."""
        if not self._config.tie_word_embeddings:
            return {}
        keys = self._meta._tied_weights_keys or {}
        return {name: other for name, other in keys.items() if self._stored(name) is None}

    def _stored(self, name: str) -> str | None:
        """What a tensor is called in the checkpoint: with or without the base model's prefix."""
        prefix = f"{self._meta.base_model_prefix}."
        names = [name, name.removeprefix(prefix), prefix + name]
        if (experts := self.source.architecture.experts) is not None:
            names.append(name.replace(f".{experts.parent}.", f".{experts.stored}."))
        return next((found for found in names if found in self._files), None)

    def _read(
        self, name: str, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> Tensor:
        tensor = self._tensor(self._tied.get(name, name))
        # a narrower model.dtype rounds here, whatever the device then computes in
        return tensor.to(device if device is not None else self.device, self.stored).to(dtype)

    def _tensor(self, name: str) -> Tensor:
        """A tensor as it is stored, on the CPU; experts that are stored one by one are stacked."""
        stored = self._stored(name)
        if stored is not None:
            with safe_open(self._files[stored], "pt") as file:
                tensor: Tensor = file.get_tensor(stored)
            if not tensor.is_floating_point() or tensor.element_size() == 1:
                raise DataError(
                    f"{self.source.folder}: {stored} is stored as {tensor.dtype}, as in a model "
                    "that is quantized already; give its checkpoint in 16 or 32 bits"
                )
            return tensor
        experts = self.source.architecture.experts
        parts = () if experts is None else experts.stored_parts(name)
        if not parts:
            raise DataError(
                f"{self.source.folder} lacks the tensor '{name}': the checkpoint is incomplete"
            )
        return torch.stack([torch.cat([self._tensor(n) for n in names]) for names in parts])

    def _stored_dtype(self, name: str) -> torch.dtype:
        if name != "auto":
            return _DTYPES[name]
        # what is on disk counts, whatever config.json claims
        embedding = self._meta.get_input_embeddings()
        path = next(p for p, module in self._meta.named_modules() if module is embedding)
        stored = self._stored(f"{path}.weight")
        if stored is None:
            raise DataError(
                f"{self.source.folder} lacks the tensor '{path}.weight': the checkpoint is "
                "incomplete"
            )
        with safe_open(self._files[stored], "pt") as file:
            dtype: torch.dtype = file.get_tensor(stored).dtype
        return dtype


def _fill(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def _index(source: ModelSource) -> dict[str, str]:
    """Tensor name → file."""
    index = source.folder / "model.safetensors.index.json"
    if index.is_file():
        names: dict[str, str] = json.loads(index.read_text())["weight_map"]
        return {name: str(source.folder / file) for name, file in names.items()}
    found = {}
    for path in source.weight_files:
        try:
            with safe_open(path, "pt") as file:
                found.update(dict.fromkeys(file.keys(), str(path)))
        except Exception as error:  # safetensors raises its own error type
            raise DataError(f"{path} is no readable safetensors file: {error}") from error
    return found
