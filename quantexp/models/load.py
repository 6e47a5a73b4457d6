"""A causal language model in pieces: embedding, one block at a time, head.

The whole model exists on the meta device only; weights are read from safetensors when a piece is
asked for, so that one block is in memory at a time.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from quantexp.config import ModelConfig
from quantexp.errors import DataError
from quantexp.models.source import ModelSource
from quantexp.quantization import attention

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
            # a resumed calibration must end bit-identical; cuBLAS needs CUBLAS_WORKSPACE_CONFIG
            torch.use_deterministic_algorithms(True, warn_only=True)
        self._trust = config.trust_remote_code
        self._config = AutoConfig.from_pretrained(
            source.folder, trust_remote_code=self._trust, local_files_only=True
        )
        self._files = _index(source)
        self.stored = _stored_dtype(config.dtype, self._config, self)
        with torch.device("meta"):
            self._meta: nn.Module = AutoModelForCausalLM.from_config(
                self._config,
                trust_remote_code=self._trust,
                attn_implementation=attention.IMPLEMENTATION,
            )
        self._meta.eval()

    @property
    def compute(self) -> torch.dtype:
        """Dtype of evaluation: the checkpoint's, but float32 for float16 on a CPU.

        PyTorch's CPU kernels are several times slower in float16, and float32 holds every
        float16 number exactly.
        """
        half_on_cpu = self.stored == torch.float16 and self.device.type == "cpu"
        return torch.float32 if half_on_cpu else self.stored

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
        block = self.empty_block(index)
        prefix = f"{self.source.architecture.layers}.{index}."
        return _fill(
            block,
            {
                name: self._read(prefix + name, dtype)
                for name, _ in (*block.named_parameters(), *block.named_buffers())
            },
        )

    def empty_block(self, index: int) -> nn.Module:
        """Decoder block ``index`` on the meta device, to be filled by the caller."""
        layers = self._meta.get_submodule(self.source.architecture.layers)
        assert isinstance(layers, nn.ModuleList)
        return copy.deepcopy(layers[index])

    def skeleton(self) -> Any:
        """The whole model on the meta device but for its rotary embedding, to be filled.

        Its head is tied to its embedding only where the checkpoint stores no head.
        """
        model: Any = copy.deepcopy(self._meta)
        model.config.use_cache = False  # nothing is generated
        model.config.tie_word_embeddings = self._tied
        path = self.source.architecture.rotary
        model.set_submodule(path, self._rotary(model.get_submodule(path)))
        return model

    def embedding(self, dtype: torch.dtype, device: str | None = None) -> nn.Module:
        """Token ids (B, T) → (B, T, C), with its weight, on the device."""
        path = self.source.architecture.embedding
        weight = self._read(f"{path}.weight", dtype, device)
        return _fill(copy.deepcopy(self._meta.get_submodule(path)), {"weight": weight})

    def embed(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Token ids (B, T) → inputs (B, T, C) of block 0, on the CPU."""
        with torch.no_grad():
            out: Tensor = self.embedding(dtype, "cpu")(tokens)
        return out

    def head(self, dtype: torch.dtype) -> nn.Module:
        """Final norm and output projection: (B, T, C) → logits (B, T, V), on the device."""
        path = self.source.architecture.final_norm
        norm = copy.deepcopy(self._meta.get_submodule(path))
        _fill(norm, {n: self._read(f"{path}.{n}", dtype) for n, _ in norm.named_parameters()})
        name = f"{self.source.architecture.embedding}.weight" if self._tied else "lm_head.weight"
        head = copy.deepcopy(self._meta.get_submodule("lm_head"))
        _fill(head, {"weight": self._read(name, dtype)})
        return nn.Sequential(norm, head)

    def block_kwargs(self, length: int, dtype: torch.dtype) -> list[dict[str, Any]]:
        """The keyword arguments that the real model gives to each block, for windows of ``length``.

        Captured by running the real model with blocks that only take notes, so that masks,
        positions and rotary embeddings (per layer type) are what transformers makes them.
        """
        model = copy.copy(self._meta)
        model._modules = dict(self._meta._modules)
        decoder_path, _, layers_name = self.source.architecture.layers.rpartition(".")
        decoder = copy.copy(self._meta.get_submodule(decoder_path))
        decoder._modules = dict(decoder._modules)
        notes = [_Notes(layer) for layer in getattr(decoder, layers_name)]
        setattr(decoder, layers_name, nn.ModuleList(notes))
        rotary = self.source.architecture.rotary.rpartition(".")[2]
        setattr(decoder, rotary, self._rotary(getattr(decoder, rotary)))
        norm = self.source.architecture.final_norm.rpartition(".")[2]
        setattr(decoder, norm, nn.Identity())
        hidden = torch.zeros(1, length, self.source.hidden, dtype=dtype, device=self.device)
        with torch.no_grad():
            decoder(inputs_embeds=hidden, use_cache=False)
        return [note.kwargs for note in notes]

    @property
    def _tied(self) -> bool:
        """Whether embedding and head are one tensor, stored once."""
        return "lm_head.weight" not in self._files and bool(self._config.tie_word_embeddings)

    def _rotary(self, meta: nn.Module) -> nn.Module:
        """Its buffers are computed, not stored: it is built anew outside the meta device."""
        found: nn.Module = type(meta)(self._config).to(self.device)
        return found

    def _read(self, name: str, dtype: torch.dtype, device: str | None = None) -> Tensor:
        if name not in self._files:
            raise DataError(
                f"{self.source.folder} lacks the tensor '{name}': the checkpoint is incomplete"
            )
        with safe_open(self._files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        # a narrower model.dtype rounds here, whatever the device then computes in
        return tensor.to(device or self.device, self.stored).to(dtype)


class _Notes(nn.Module):
    """Stands in for a block: keeps its keyword arguments, returns its input."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.kwargs: dict[str, Any] = {}
        self.attention_type = getattr(block, "attention_type", None)

    def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
        self.kwargs = kwargs
        return hidden


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


def _stored_dtype(name: str, config: Any, model: StreamedModel) -> torch.dtype:
    if name != "auto":
        return _DTYPES[name]
    # what is on disk counts, whatever config.json claims
    path = f"{model.source.architecture.embedding}.weight"
    with safe_open(model._files[path], "pt") as file:
        dtype: torch.dtype = file.get_tensor(path).dtype
    return dtype
