"""Everything of a model but its blocks, run by the model's own code.

Embedding scales and norms, learned positions, projections around the blocks, masks, rotary
embeddings per layer type, logit softcaps: none of it is written again here. The real model runs
with notes in its blocks' places, which say what a block would have been given and hand on what
they are told to. Weights outside the blocks are read when a module that owns them is called.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Read = Callable[[str, torch.dtype, torch.device], Tensor]


class _Stop(Exception):  # noqa: N818 (it is no error)
    """What was wanted is there: the rest of the model need not run."""


class _Note(nn.Module):
    """Stands in for a block: keeps its keyword arguments, hands on what it is told to."""

    def __init__(self, block: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        self.__dict__["_block"] = block  # not a child: its weights are nobody's business here
        self._returns_tuple = returns_tuple
        self.kwargs: dict[str, Any] = {}
        self.action: Callable[[Tensor], Tensor] = _pass_on

    def forward(self, hidden: Tensor, **kwargs: Any) -> Any:
        self.kwargs = kwargs
        out = self.action(hidden)
        return (out,) if self._returns_tuple else out

    def __getattr__(self, name: str) -> Any:
        """Models ask their blocks for a layer type or the like."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"], name)


class Surroundings(nn.Module):
    """A model around its blocks, in one dtype on one device.

    Args:
        meta: The model; its parameters lie on the meta device, its buffers do not.
        layers: Path of its list of blocks.
        returns_tuple: Whether a block returns a tuple.
        read: Name, dtype and device → tensor of the checkpoint.
        dtype: Of weights and activations.
        device: Where all of it runs.
    """

    def __init__(
        self,
        meta: nn.Module,
        layers: str,
        returns_tuple: bool,
        read: Read,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        blocks: Any = meta.get_submodule(layers)
        notes = [_Note(block, returns_tuple) for block in blocks]
        self._notes = notes
        self._model: Any = copy.deepcopy(meta, {id(blocks): nn.ModuleList(notes)})
        self._model.requires_grad_(False)
        self._dtype, self._device = dtype, device
        for path, module in self._model.named_modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
            if module._parameters:
                module.register_forward_pre_hook(_loader(path, read, dtype, device))

    @torch.no_grad()
    def inputs(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) → inputs (B, T, C) of the first block."""
        found: list[Tensor] = []

        def keep(hidden: Tensor) -> Tensor:
            found.append(hidden)
            raise _Stop

        self._run({0: keep}, input_ids=tokens.to(self._device))
        return found[0]

    @torch.no_grad()
    def kwargs(self, length: int) -> list[dict[str, Any]]:
        """The keyword arguments that each block gets, for windows of ``length`` tokens."""

        def stop(hidden: Tensor) -> Tensor:
            raise _Stop

        self._run({-1: stop}, inputs_embeds=self._nothing(1, length))
        return [note.kwargs for note in self._notes]

    @torch.no_grad()
    def forward(self, hidden: Tensor) -> Tensor:
        """Outputs (B, T, C) of the last block → logits (B, T, V)."""
        out = self._run({0: lambda _: hidden}, inputs_embeds=self._nothing(*hidden.shape[:2]))
        logits: Tensor = out.logits
        return logits

    def _run(self, actions: dict[int, Callable[[Tensor], Tensor]], **inputs: Tensor) -> Any:
        for note in self._notes:
            note.action, note.kwargs = _pass_on, {}
        for index, action in actions.items():
            self._notes[index].action = action
        try:
            return self._model(**inputs, use_cache=False)
        except _Stop:
            return None

    def _nothing(self, batch: int, length: int) -> Tensor:
        """Embeddings (B, T, C) where no token matters: one zero, seen as many."""
        width = self._model.get_input_embeddings().weight.shape[1]
        zero = torch.zeros(1, 1, 1, dtype=self._dtype, device=self._device)
        return zero.expand(batch, length, width)


def _pass_on(hidden: Tensor) -> Tensor:
    return hidden


def _loader(
    path: str, read: Read, dtype: torch.dtype, device: torch.device
) -> Callable[[nn.Module, Any], None]:
    """A forward hook that reads the module's own parameters, once."""

    def load(module: nn.Module, _: Any) -> None:
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                tensor = read(f"{path}.{name}", dtype, device)
                module._parameters[name] = nn.Parameter(tensor, requires_grad=False)

    return load
