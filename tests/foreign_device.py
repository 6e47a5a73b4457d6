"""A device that a machine without an accelerator can have: CPU arithmetic, CUDA's refusals.

Its tensors hide what they hold behind PyTorch's free device type, so code that leaves a tensor or a
random generator on the CPU fails here as it would on a GPU. It knows no kernels, streams or memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "foreign"
_setup_privateuseone_for_python_backend(NAME)
_MODULE = getattr(torch, NAME)
_MODULE.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]  # autocast asks
_MODULE.is_available = lambda: False  # outside of foreign(): other tests have no accelerator
DEVICE = torch.device(NAME, 0)
_CPU = torch.device("cpu")
# between devices by what they are for; indices may lie on the CPU (CUDA allows both)
_COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}


class ForeignTensor(Tensor):
    """A tensor that says it lies on the foreign device.

    Attributes:
        held: The numbers, on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> ForeignTensor:
        made: ForeignTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"ForeignTensor({self.held})"

    def tolist(self) -> Any:
        """Numbers leave the device without a copy of the tensor."""
        return self.held.tolist()

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """As of any tensor; an assignment replaces what is held as well."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        assert isinstance(value, ForeignTensor)
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


def _empty(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    return ForeignTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy(source: Tensor, target: ForeignTensor, _: bool = False) -> Tensor:
    target.held.copy_(source)
    return target


# indexing by a Python list makes its tensor below all modes
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty_strided", _empty, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy, "PrivateUse1")
# autocast is let through: products keep their dtype
_REST = torch.library.Library("_", "IMPL")
_REST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


class _Factories(TorchDispatchMode):
    """Makes tensors where the device is asked for by name."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


@contextmanager
def foreign() -> Iterator[torch.device]:
    """The device, as long as this lasts."""
    with _Factories(), patch.object(_MODULE, "is_available", lambda: True):
        yield DEVICE


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    here = [leaf for leaf in given if isinstance(leaf, ForeignTensor)]
    asked = kwargs.get("device")
    target = torch.device(asked) if asked is not None else None
    if here and function not in _COPIES:
        left = [t for t in given if not isinstance(t, ForeignTensor) and t.dim()]
        if function in _INDEXED:
            left = [t for t in left if t.dtype not in (torch.int64, torch.bool)]
        if left:
            raise RuntimeError(
                f"{function}: tensors on two devices: {[tuple(t.shape) for t in left]} on the CPU"
            )
    on = target.type == NAME if target is not None else bool(here)
    if on and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{function}: a generator of the CPU for a tensor of the device")
    if target is not None and target.type == NAME:
        kwargs = {**kwargs, "device": _CPU}
    plain_args, plain_kwargs = tree_map_only(ForeignTensor, lambda t: t.held, (args, kwargs))
    if function is torch.ops.aten.histc.default:  # of integers, as only accelerators can
        plain_args = (plain_args[0].float(), *plain_args[1:])
    out = function(*plain_args, **plain_kwargs)
    if function is torch.ops.aten.copy_.default:
        return args[0]
    if not on:
        return out
    # what the CPU handed back as it was would else be one tensor on two devices
    out = tree_map_only(Tensor, ForeignTensor, out)
    return return_and_correct_aliasing(function, args, kwargs, out) if here else out
