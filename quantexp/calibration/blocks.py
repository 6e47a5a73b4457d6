"""The block loop: capture, fit, merge, round, store, propagate. It exists once, for all methods.

Two streams of block inputs run through the model, as far as somebody reads them: ``fp`` from the
blocks as they are, ``quantized`` from the blocks as rebuilt from their stored integers. They lie
where ``activations.py`` found room; all other memory is one block's. A run that was killed rebuilds
the streams from the stored blocks and goes on at the next one; since each block draws its random
numbers from its own seed, it ends bit-identical to an unbroken run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.calibration import activations, diagnostics, footprint, shared
from quantexp.calibration.activations import Store
from quantexp.calibration.checkpoint import QuantizedCheckpoint, quantized_bits
from quantexp.calibration.footprint import TOKENS
from quantexp.calibration.ladder import Rung, short, split
from quantexp.calibration.ladder import rungs as ladder_rungs
from quantexp.calibration.passes import batches, hidden_states, largest, observe, once_more, run
from quantexp.calibration.sampling import token_hash
from quantexp.calibration.weights import WeightRounding
from quantexp.config import ExperimentConfig
from quantexp.errors import CalibrationError, NumericalError
from quantexp.host import give_back
from quantexp.measure import Meter, highest
from quantexp.methods.base import Method, check_transforms
from quantexp.models.load import StreamedModel
from quantexp.precision import products
from quantexp.quantization.block import QuantBlock

FIT_DTYPE = torch.float32  # of parameters, statistics and factorizations

Progress = Callable[[str, int, int, float | None], None]
# outputs of the unquantized block; largest and mean |x| of each input channel, by linear
Observed = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


class CalibrationBlock:
    """What a method sees of one block.

    Attributes:
        index: Position of the block.
        quant: The block, to install transforms and clips into.
        inputs: Inputs (B, T, C) of the fp stream.
        targets: Outputs (B, T, C) of the unquantized block for these inputs.
        quantized_inputs: Inputs (B, T, C) of the quantized stream.
        channel_max: Largest |x| of each input channel, by linear, over all tokens of ``inputs``.
        channel_mean: Mean |x| of the same.
        generator: Random numbers of this block.
        rung: How it is fitted, after how many failures (``calibration/ladder.py``).
        micro_batch: Windows of a batch that are on the device at once, where memory was short.

    Streams are there as far as the method asks for them, in the dtype in which they are kept, and
    while the block is fitted: later blocks overwrite them.
    """

    def __init__(
        self,
        index: int,
        quant: QuantBlock,
        kwargs: dict[str, Any],
        device: torch.device,
        generator: torch.Generator,
        report_loss: Callable[[float], None],
        rung: Rung,
        store: Store,
        autocast: torch.dtype | None = None,
        tokens: int = TOKENS,
    ) -> None:
        self._store, self._tokens = store, tokens
        self.index = index
        self.quant = quant
        self.kwargs = kwargs
        self.device = device
        self.generator = generator
        self.report_loss = report_loss
        self.rung = rung
        self.autocast = autocast
        self.micro_batch: int | None = None
        self.inputs = torch.empty(0)
        self.targets = torch.empty(0)
        self.quantized_inputs = torch.empty(0)
        self.channel_max: dict[str, Tensor] = {}
        self.channel_mean: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The block on a batch (B, T, C), with the real model's keyword arguments."""
        return hidden_states(self.quant.module(x.to(self.device, FIT_DTYPE), **self.kwargs))

    def unquantized(self, x: Tensor) -> Tensor:
        """Outputs of the unquantized block for all of ``x`` (B, T, C); call before installing."""
        with self.quant.bypass():
            out = self._store.like(x)
            return run(self.quant.module, x, self.kwargs, self.device, out, self._tokens)

    def batches(self, x: Tensor) -> tuple[Tensor, ...]:
        """Views of (B, T, C), as many windows each as one pass without gradients takes."""
        return batches(x, self._tokens)

    def products(self) -> torch.autocast:
        """Context of the fit's forward passes: 16-bit matrix products where the rung has them."""
        on = self.autocast is not None and self.rung.autocast
        return torch.autocast(self.device.type, self.autocast, enabled=on)


def calibrate_blocks(
    model: StreamedModel,
    method: Method,
    config: ExperimentConfig,
    windows: Tensor | None,
    checkpoint: QuantizedCheckpoint,
    progress: Progress,
) -> dict[str, Any]:
    """Fits and rounds all blocks that ``checkpoint`` does not hold yet.

    Args:
        model: The unquantized model.
        method: Fits one block at a time.
        config: Bits, rounding and seed.
        windows: Token ids (B, T), or ``None`` for a method that needs none.
        checkpoint: Where blocks are stored and found.
        progress: Told of each block and of losses within it.

    Returns:
        The calibration's report: one entry per block, effective bits.
    """
    check_transforms(method, config, model.source)
    architecture = _described(model, method)

    def steps(tokens: int) -> tuple[list[dict[str, Any]], int]:
        with products(config.products):
            loop = _Loop(model, method, config, windows, checkpoint, progress, tokens)
            return [loop.step(index) for index in range(model.blocks)], loop.bits

    # what an earlier run found out about the device's memory holds for all blocks
    tokens = min((r.get("pass_tokens", TOKENS) for r in checkpoint.reports()), default=TOKENS)
    (reports, bits), _ = once_more(steps, config.bits, tokens)
    return {
        "architecture": architecture,
        "blocks": reports,
        "effective_bits": bits / (model.blocks * model.source.shape.block_weights),
        "seconds": round(sum(r["seconds"] for r in reports), 3),
        **highest(reports),
    }


def _described(model: StreamedModel, method: Method) -> dict[str, Any]:
    """Which table the model has, and where no scale can be absorbed; printed where it matters."""
    name, unscaled = model.source.architecture_name, model.source.architecture.unscaled
    if model.source.detected:
        print(f"model_type {name}", flush=True)
    if method.transforms:
        for site, reason in unscaled.items():
            print(f"no scale at {site}: {reason}", flush=True)
    return {"name": name, "unscaled": unscaled}


class _Loop:
    def __init__(
        self,
        model: StreamedModel,
        method: Method,
        config: ExperimentConfig,
        windows: Tensor | None,
        checkpoint: QuantizedCheckpoint,
        progress: Progress,
        tokens: int,
    ) -> None:
        self.model, self.method, self.config = model, method, config
        self.checkpoint, self.progress = checkpoint, progress
        self.tokens = tokens
        self.bits = 0
        self.micro_batch: int | None = None  # once a block needed it, the next ones do
        self.fp: Tensor | None = None
        self.targets: Tensor | None = None  # fp of the next block, while this one is fitted
        self.quantized: Tensor | None = None
        self.kwargs: list[dict[str, Any]] = []
        self.shared: tuple[Hashable, ...] = ()
        if windows is None:
            self.store = Store("host", model.device)
            return
        self.kwargs = model.block_kwargs(windows.shape[1], FIT_DTYPE)
        names = footprint.streams(method, config)
        shape = (*windows.shape, model.source.hidden)
        dtype = activations.dtype(config, FIT_DTYPE)
        self.store = activations.choose(
            activations.setting(config, tokens),
            len(names),
            shape,
            dtype,
            model.device,
            footprint.fitting(model.source, config, method, *windows.shape),
            checkpoint.folder,
        )
        first = model.embed(windows, FIT_DTYPE, self.store.empty(shape, dtype))
        decisive = (token_hash(windows), FIT_DTYPE, dtype, tokens, config.products)
        self.shared = (*model.identity, *decisive)
        if "fp" in names:
            self.fp, self.targets = first, self.store.like(first)
        if "quantized" in names:
            # a stream of its own from the start: it is overwritten block by block
            own = first if self.fp is None else self.store.like(first).copy_(first)
            self.quantized = own

    def step(self, index: int) -> dict[str, Any]:
        """Block ``index``: from disk if it is there, else fitted and stored."""
        total, device = self.model.blocks, self.model.device
        read_on = index + 1 < total  # behind the last block nobody reads the streams
        self.progress("calibrate", index, total, None)
        give_back()
        saved = self.checkpoint.saved_block(index)
        if saved is None:
            saved = self._fit(index)
            give_back()
        else:
            self.micro_batch = saved[1].get("micro_batch", self.micro_batch)
            if self.fp is not None and read_on:
                block = self.model.block(index, FIT_DTYPE)
                run(block, self.fp, self.kwargs[index], device, self.fp, self.tokens)
                del block
        tensors, report = saved
        if self.quantized is not None and read_on:
            module = rebuild(self.model, tensors, index, self.config, FIT_DTYPE).module
            stream = self.quantized
            run(module, stream, self.kwargs[index], device, stream, self.tokens)
        self.bits += quantized_bits(tensors, self.model.source.architecture.linears)
        self.progress("calibrate", index + 1, total, None)
        return report

    def _fit(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Fits, rounds and stores a block: its tensors as they were written, and its report."""
        meter = Meter()
        module = self.model.block(index, FIT_DTYPE)
        observed = self._observe(module, index) if self.fp is not None else None
        report: dict[str, Any] = {"block": index}
        ladder: list[dict[str, str]] = []
        rungs = ladder_rungs(self.method.autocast is not None)
        for rung, below in zip(rungs, (*rungs[1:], None), strict=True):
            block = self._block(module, index, rung, observed)
            before = diagnostics.rounded_error(block) if observed is not None else None
            try:
                report |= self.method.fit(block)
                break
            except NumericalError as error:
                if below is None:
                    raise
                ladder.append({"step": below.name, "cause": str(error)})
                module = self.model.block(index, FIT_DTYPE)
            finally:
                self.micro_batch = block.micro_batch
        if self.micro_batch is not None:
            report["micro_batch"] = self.micro_batch
            ladder.append(split(self.micro_batch))
        quant = block.quant
        report |= diagnostics.fitted(quant)
        quant.merge(self.model.stored)
        if self.config.bits.static:
            self._observe_ranges(quant, index)
        if self.config.bits.weight.active:
            report |= WeightRounding(
                quant, index, self.config, self.model.stored, partial(self._watch, quant, index)
            ).round()
            ladder += report.pop("ladder", [])
        if observed is not None:
            report["error"] = {"rounded": before, "method": diagnostics.error(block)}
        if self.tokens < TOKENS:
            report["pass_tokens"] = self.tokens
            ladder.append(short(self.tokens))
        if ladder:
            report["ladder"] = ladder
        report |= meter.read()
        if observed is not None:
            self.fp, self.targets = observed[0], self.fp
        return self.checkpoint.save_block(index, quant.state(self.model.stored), report), report

    def _block(
        self,
        module: nn.Module,
        index: int,
        rung: Rung,
        observed: Observed | None,
    ) -> CalibrationBlock:
        """The block as the method gets it; each attempt has the same random numbers."""
        model, config, autocast = self.model, self.config, self.method.autocast
        block = CalibrationBlock(
            index,
            QuantBlock(module, model.source.architecture, config.bits),
            self.kwargs[index] if self.kwargs else {},
            model.device,
            torch.Generator().manual_seed(config.seed * 100_003 + index),
            lambda loss: self.progress("calibrate", index, model.blocks, loss),
            rung,
            self.store,
            getattr(torch, autocast) if autocast else None,
            self.tokens,
        )
        block.micro_batch = self.micro_batch
        if self.fp is not None and observed is not None:
            block.inputs = self.fp
            block.targets, block.channel_max, block.channel_mean = observed
        if self.quantized is not None:
            block.quantized_inputs = self.quantized
        return block

    def _observe(self, module: nn.Module, index: int) -> Observed:
        """One pass of the unquantized block: outputs, and each linear's channel maxima, means."""
        assert self.targets is not None

        out, top, mean = shared.here.get(
            (*self.shared, index), lambda: self._pass_unquantized(module, index)
        )
        if out is not self.targets:
            self.targets.copy_(out)
        return self.targets, top, mean

    def _pass_unquantized(self, module: nn.Module, index: int) -> Observed:
        assert self.fp is not None
        assert self.targets is not None
        # what may be shared stays as it is: not in the buffer that later blocks overwrite
        place = None if shared.fits(self.targets) else self.targets
        tokens = self.fp.shape[0] * self.fp.shape[1]
        top: dict[str, Tensor] = {}
        mean: dict[str, Tensor] = {}

        def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                size = args[0].detach().abs().flatten(0, -2)
                highest, share = size.amax(0), size.sum(0) / tokens
                top[name] = torch.maximum(top[name], highest) if name in top else highest
                mean[name] = mean[name] + share if name in mean else share

            return hook

        paths = self.model.source.architecture
        hooks = []
        for site in paths.sites:
            reader = module.get_submodule(paths.module_of(site.linears[0]))
            hooks.append(reader.register_forward_pre_hook(note(site.name)))
        out = run(module, self.fp, self.kwargs[index], self.model.device, place, self.tokens)
        for hook in hooks:
            hook.remove()
        if not all(torch.isfinite(part).all() for part in batches(out)):
            raise CalibrationError(
                f"block {index}: the unquantized model's own outputs are not finite "
                f"(largest input {largest(self.fp):.3g}): check the checkpoint"
            )
        read = {path: site.name for site in paths.sites for path in site.linears}
        top, mean = ({path: x[name] for path, name in read.items()} for x in (top, mean))
        return out, top, mean

    def _observe_ranges(self, quant: QuantBlock, index: int) -> None:
        """Ranges of static quantizers, from the quantized stream."""
        assert self.quantized is not None
        static = [q for _, q in quant.quantizers() if q.active and not q.spec.dynamic]
        for quantizer in static:
            quantizer.observing = True
        self._watch(quant, index, {})
        for quantizer in static:
            quantizer.observing = False
        unseen = [name for name, q in quant.quantizers() if q in static and q.low is None]
        if unseen:
            raise CalibrationError(
                f"block {index}: no calibration token reached {unseen[0]}, whose input has a "
                "static range: use more windows (data.num_samples), or "
                "bits.activation.dynamic=true"
            )

    def _watch(
        self, quant: QuantBlock, index: int, observers: Mapping[str, Callable[[Tensor], None]]
    ) -> None:
        """The quantized stream through the block, for those who watch; outputs are not kept."""
        assert self.quantized is not None
        observe(
            quant, observers, self.quantized, self.kwargs[index], self.model.device, self.tokens
        )


def rebuild(
    model: StreamedModel,
    tensors: dict[str, Tensor],
    index: int,
    config: ExperimentConfig,
    dtype: torch.dtype,
) -> QuantBlock:
    """A block from its stored tensors alone, in ``dtype`` on the model's device."""
    module = model.blank_block(index, dtype)
    quant = QuantBlock(module, model.source.architecture, config.bits)
    quant.load({name: tensor.to(model.device) for name, tensor in tensors.items()})
    return quant
