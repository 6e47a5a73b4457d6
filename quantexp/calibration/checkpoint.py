"""The quantized checkpoint on disk: one file per block while it grows, few files when complete.

::

    calibrations/<fingerprint>/
        blocks/00003.safetensors   packed integers, scales, zeros, online transforms of block 3
        blocks/00003.json          its sha256, the code that made it, and what fitting it reported
        checkpoint/00000.safetensors  consolidated blocks, once all are there
        manifest.json              written last: files with their hashes; its presence means "done"
        report.json                per-block diagnostics, seconds, memory, effective bits
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantexp.errors import DataError
from quantexp.experiment import record
from quantexp.experiment.code import science

_SHARD = 4 << 30  # bytes per consolidated file


class QuantizedCheckpoint:
    """Reads and writes one checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shard: tuple[str, dict[str, Tensor]] | None = None

    @property
    def complete(self) -> bool:
        """Whether all blocks are there, consolidated and not freed since."""
        manifest = record.read(self.folder / "manifest.json")
        return manifest is not None and all(
            (self.folder / "checkpoint" / name).is_file() for name in manifest["files"]
        )

    def save_block(self, index: int, tensors: dict[str, Tensor], report: dict[str, Any]) -> None:
        """Writes one block; after this returns, a killed run goes on behind it."""
        path = self._block(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = record.partial_path(path)
        try:
            save_file(tensors, partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        note = {"sha256": _sha256(path), "code": science(), "report": report}
        record.write(path.with_suffix(".json"), note)

    def saved_block(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and report of a block written before, or ``None`` if it must be (re)done.

        A truncated or altered file is treated as missing: its hash tells. So is a block of other
        code: the blocks before and behind it would not be what one run of either makes.
        """
        path = self._block(index)
        note = record.read(path.with_suffix(".json"))
        if note is not None and note.get("code") != science():
            print(f"block {index} was made by other code: it is made anew", flush=True)
            return None
        if note is None or not path.is_file() or _sha256(path) != note["sha256"]:
            return None
        return load_file(path), note["report"]

    def consolidate(self, blocks: int, manifest: dict[str, Any], report: dict[str, Any]) -> None:
        """Joins the block files into few, writes report and manifest, removes the block files."""
        target = self.folder / "checkpoint"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        files: dict[str, dict[str, Any]] = {}
        shard: dict[str, Tensor] = {}
        members: list[int] = []
        size = 0
        for index in range(blocks):
            saved = load_file(self._block(index))
            shard.update({f"blocks.{index}.{name}": tensor for name, tensor in saved.items()})
            members.append(index)
            size += sum(t.numel() * t.element_size() for t in saved.values())
            if size >= _SHARD or index == blocks - 1:
                path = target / f"{len(files):05d}.safetensors"
                save_file(shard, path)
                files[path.name] = {"sha256": _sha256(path), "blocks": members}
                shard, members, size = {}, [], 0
        record.write_signed(self.folder / "report.json", report)
        record.write(self.folder / "manifest.json", {**manifest, "files": files})
        shutil.rmtree(self.folder / "blocks")

    def block(self, index: int) -> dict[str, Tensor]:
        """Tensors of one block of a complete checkpoint.

        Raises:
            DataError: A file does not have the hash that the manifest names.
        """
        manifest = record.read(self.folder / "manifest.json")
        assert manifest is not None, f"{self.folder} is not complete"
        name, note = next((n, f) for n, f in manifest["files"].items() if index in f["blocks"])
        if self._shard is None or self._shard[0] != name:
            path = self.folder / "checkpoint" / name
            try:
                intact = _sha256(path) == note["sha256"]
                self._shard = (name, load_file(path)) if intact else None
            except (OSError, SafetensorError):
                self._shard = None
            if self._shard is None:
                raise DataError(
                    f"{path} is damaged (its sha256 is not the manifest's): remove the folder "
                    f"{self.folder} and run the same command again"
                )
        prefix = f"blocks.{index}."
        tensors = self._shard[1]
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    def _block(self, index: int) -> Path:
        return self.folder / "blocks" / f"{index:05d}.safetensors"


def effective_bits(tensors: dict[str, Tensor], linears: dict[str, int]) -> tuple[int, int]:
    """Bits that a block's quantized weights take, and the number of these weights.

    Args:
        tensors: The block's tensors as stored.
        linears: Number of weights of each quantized linear, by path.

    Packed integers, scales, zero points and online transforms count; norms and biases do not.
    """
    counted = [
        tensor
        for name, tensor in tensors.items()
        if name.startswith("online.")
        or (name.rpartition(".")[0] in linears and not name.endswith(".bias"))
    ]
    return sum(8 * t.numel() * t.element_size() for t in counted), sum(linears.values())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
