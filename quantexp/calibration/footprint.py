"""How much memory a block at work takes, from config.json; nothing here imports torch.

Sums over what is alive at the peak: copies of the block's weights, activations of one pass,
factorizations. The counts hold on a CPU, where host and device are one and a slow test compares
them with what processes took (``tests/experiment/test_estimate_holds.py``).
"""

from dataclasses import dataclass

from quantexp.config import BitsConfig, ExperimentConfig
from quantexp.methods.base import Method
from quantexp.models.source import ModelSource

TOKENS = 8192  # that one pass without gradients takes at once (calibration/passes.py)
LOGITS = 1 << 29  # bytes of float32 logits held at once (evaluation/perplexity.py)
FLOAT = 4  # bytes; fits run in float32
_INTEGERS = 2  # bytes per weight until they are packed
_MATRICES = 8  # (C, C) of GPTQ: Hessian, its copy, damped, lower, turned, inverse, LAPACK's own
_SCORES = 5  # (O, C) of GPTQ: weight as merged, turned, rounded, integers, the linear's own
_HEAP = 32 << 20  # bytes from which glibc maps a piece of memory by itself


@dataclass(frozen=True)
class Work:
    """Bytes that a block at work takes beside the streams.

    Attributes:
        host: Of the machine.
        device: Of the accelerator; without one they come from the host as well.
    """

    host: int
    device: int


def streams(method: Method, config: ExperimentConfig) -> tuple[str, ...]:
    """The buffers of activations (B, T, C) that a calibration holds at once.

    ``fp`` comes with ``targets``, the unquantized block's outputs, which are the next block's
    ``fp``; ``quantized`` is overwritten block by block.
    """
    found = ["fp", "targets"] if "fp" in method.streams else []
    if "quantized" in method.streams or config.rounding == "gptq" or config.bits.static:
        found.append("quantized")
    return (*found, *method.more_streams)


def fitting(
    model: ModelSource, config: ExperimentConfig, method: Method, count: int, length: int
) -> Work:
    """A block that is fitted, rounded, stored and rebuilt.

    Args:
        model: Its sizes.
        config: Bits and rounding.
        method: What it holds.
        count: Calibration windows; 0 where there are none.
        length: Tokens of each.
    """
    weights, wide = model.shape.block_weights, max(model.hidden, model.intermediate)
    tokens = _at_once(count, length)
    holds = method.holds(config.bits)
    fit = holds.weights * FLOAT * _spread(model)
    running = config.bits.running
    fit += FLOAT * _per_token(model, running) * max(
        holds.passes * tokens,
        holds.trained * length * min(count, getattr(method.options, "batch_size", 0)),
    )  # fmt: skip
    if config.rounding == "gptq":
        held = (FLOAT + _INTEGERS) * weights
        factors = FLOAT * (_MATRICES * wide**2 + _SCORES * model.hidden * model.intermediate)
        watched = FLOAT * (wide**2 + (_per_token(model, running) + wide) * tokens)
        # Hessians of all experts that are rounded at once: gate and up, then down
        experts = FLOAT * model.shape.experts * max(2 * model.hidden**2, model.intermediate**2)
        fit = max(fit, held + experts + max(factors, watched))
    return Work(host=_reading(model), device=int(fit))


def evaluating(
    model: ModelSource, bits: BitsConfig, count: int, length: int, itemsize: int
) -> Work:
    """A block rebuilt from its integers, or the head: hidden states through either.

    Args:
        model: Its sizes.
        bits: What is quantized while it runs.
        count: Windows.
        length: Tokens of each.
        itemsize: Bytes of a weight and of a hidden state.
    """
    # quantizers compute in float32: one activation as it came, and as it is rounded
    rounded = 2 * FLOAT * max(model.hidden, model.intermediate) if bits.running else 0
    passing = (itemsize * _per_token(model, False) + rounded) * _at_once(count, length)
    block = (itemsize + _INTEGERS) * model.shape.block_weights + 2 * FLOAT * model.hidden * (
        model.intermediate
    )
    vocabulary = int(model.config["vocab_size"])
    windows = min(count, max(1, LOGITS // (FLOAT * vocabulary * max(1, length))))
    # as the head makes them, in float32, in the order of the loss, and their logarithms
    logits = (itemsize + 3 * FLOAT) * windows * length * vocabulary
    head = itemsize * vocabulary * model.hidden
    return Work(host=_reading(model), device=max(block + passing, head + logits))


def embedding(model: ModelSource, itemsize: int) -> int:
    """Bytes of the host before the first block: the table as stored and as it is used."""
    return (2 + itemsize) * int(model.config["vocab_size"]) * model.hidden


def _spread(model: ModelSource) -> float:
    """The block's weights, those counted half again that lie in the C library's heap.

    It gives pieces of 32 MiB and more back at once; smaller ones leave gaps that others do not fit.
    """
    shape = model.shape
    attention = [shape.hidden * heads * shape.head_dim for heads in (shape.heads, shape.kv_heads)]
    rest = shape.block_weights - 2 * sum(attention)  # in pieces of the MLP's, or an expert's, size
    pieces = [(2 * n, n) for n in attention] + [(rest, shape.hidden * shape.intermediate)]
    return sum(n * (1.5 if FLOAT * piece < _HEAP else 1.0) for n, piece in pieces)


def _reading(model: ModelSource) -> int:
    """The largest weight as it is stored, mapped from its file."""
    return FLOAT * model.hidden * model.intermediate


def _at_once(count: int, length: int) -> int:
    """Tokens of one pass without gradients."""
    return min(count, max(1, TOKENS // max(1, length))) * length


def _per_token(model: ModelSource, quantized: bool) -> int:
    """Numbers that are alive for a token within a pass, by the widths of MLP and residual.

    Quantized activations lie beside those that they are rounded from.
    """
    return (6 if quantized else 5) * model.intermediate + 9 * model.hidden
