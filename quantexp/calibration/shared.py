"""What cells of one process share: token windows, and outputs of unquantized blocks.

Small cells of a sweep run one after the other in one process (``cluster.pack``). What two of them
would compute alike is kept, as long as there is little of it: tensors of large models never are.
Keys hold all that decides a value, so every number is the same to the bit with and without.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
LIMIT = 128 << 20  # bytes that are kept in all
_LARGEST = 8 << 20  # bytes of one value that is kept


class Shared:
    """Values by key, the one that was used least recently dropped first.

    Args:
        limit: Bytes of all tensors together.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._items: OrderedDict[Hashable, Any] = OrderedDict()
        self._size = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made if it is not there; it must not be changed in place."""
        if key in self._items:
            self._items.move_to_end(key)
            found: T = self._items[key]
            return found
        made = make()
        if fits(made):
            self._items[key] = made
            self._size += _bytes(made)
            while self._size > self._limit:
                self._size -= _bytes(self._items.popitem(last=False)[1])
        return made


here = Shared()


def fits(value: Any) -> bool:
    """Whether a value is small enough to be kept."""
    return _bytes(value) <= _LARGEST


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, tuple) else 0
