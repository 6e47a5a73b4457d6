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
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from quantexp.calibration.joining import join
from quantexp.errors import DataError
from quantexp.experiment import record
from quantexp.experiment.code import science

_SHARD = 4 << 30  # bytes per consolidated file


class QuantizedCheckpoint:
    """Reads and writes one checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._intact: set[str] = set()  # consolidated files whose hash was found right

    @property
    def complete(self) -> bool:
        """Whether all blocks are there, consolidated and not freed since."""
        manifest = record.read(self.folder / "manifest.json")
        return manifest is not None and all(
            (self.folder / "checkpoint" / name).is_file() for name in manifest["files"]
        )

    def save_block(
        self, index: int, tensors: dict[str, Tensor], report: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Writes one block; after this returns, a killed run goes on behind it.

        Returns:
            The tensors as read from the bytes that were written: what is rebuilt from them is
            rebuilt from what ships, without reading and hashing the file again.
        """
        path = self._block(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = save(tensors)
        with record.replacing(path) as partial:
            partial.write_bytes(content)
        note = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "code": science(),
            "report": report,
        }
        record.write(path.with_suffix(".json"), note)
        written: dict[str, Tensor] = load(content)
        return written

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
        content = path.read_bytes() if note is not None and path.is_file() else None
        if note is None or content is None:
            return None
        if hashlib.sha256(content).hexdigest() != note["sha256"]:
            print(f"{path} is damaged (its sha256 is another): it is made anew", flush=True)
            return None
        return load(content), note["report"]

    def reports(self) -> Iterator[dict[str, Any]]:
        """Reports of the blocks that are stored, while not all are."""
        for path in sorted((self.folder / "blocks").glob("*.json")):
            if note := record.read(path):
                yield note["report"]

    def consolidate(self, blocks: int, manifest: dict[str, Any], report: dict[str, Any]) -> None:
        """Joins the block files into few, writes report and manifest, removes the block files."""
        target = self.folder / "checkpoint"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        files: dict[str, dict[str, Any]] = {}
        members: list[int] = []
        size = 0
        for index in range(blocks):
            self._check(index)
            members.append(index)
            size += self._block(index).stat().st_size
            if size >= _SHARD or index == blocks - 1:
                path = target / f"{len(files):05d}.safetensors"
                parts = {f"blocks.{member}.": self._block(member) for member in members}
                files[path.name] = {"sha256": join(parts, path), "blocks": members}
                members, size = [], 0
        record.write_signed(self.folder / "report.json", report)
        record.write(self.folder / "manifest.json", {**manifest, "files": files})
        shutil.rmtree(self.folder / "blocks")

    def _check(self, index: int) -> None:
        """Refuses a block file that is no longer what was written, and makes it a missing one."""
        path = self._block(index)
        note = record.read(path.with_suffix(".json"))
        if note is None or not path.is_file() or _sha256(path) != note["sha256"]:
            path.unlink(missing_ok=True)
            raise DataError(
                f"{path} was damaged after it was written (its sha256 is another) and is removed: "
                "the same command again makes this block anew"
            )

    def block(self, index: int) -> dict[str, Tensor]:
        """Tensors of one block of a complete checkpoint.

        Raises:
            DataError: A file does not have the hash that the manifest names.
        """
        manifest = record.read(self.folder / "manifest.json")
        assert manifest is not None, f"{self.folder} is not complete"
        name, note = next((n, f) for n, f in manifest["files"].items() if index in f["blocks"])
        path, prefix = self.folder / "checkpoint" / name, f"blocks.{index}."
        if name not in self._intact:
            if not path.is_file() or _sha256(path) != note["sha256"]:
                raise DataError(
                    f"{path} is damaged (its sha256 is not the manifest's): remove the folder "
                    f"{self.folder} and run the same command again"
                )
            self._intact.add(name)
        with safe_open(path, "pt") as file:
            return {
                key[len(prefix) :]: file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118 (it is no mapping)
                if key.startswith(prefix)
            }

    def _block(self, index: int) -> Path:
        return self.folder / "blocks" / f"{index:05d}.safetensors"


def quantized_bits(tensors: Mapping[str, Tensor], linears: Collection[str]) -> int:
    """Bits that a block's quantized weights take.

    Args:
        tensors: The block's tensors as stored.
        linears: Paths of its quantized linears.

    Packed integers, scales, zero points and online transforms count; norms and biases do not.
    """
    counted = [
        tensor
        for name, tensor in tensors.items()
        if name.startswith("online.")
        or (name.rpartition(".")[0] in linears and not name.endswith(".bias"))
    ]
    return sum(8 * t.numel() * t.element_size() for t in counted)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
