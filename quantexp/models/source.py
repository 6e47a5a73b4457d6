"""Where a model's files are, and what config.json says of them; nothing here imports torch."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from quantexp.config import ModelConfig
from quantexp.errors import ConfigError, DataError
from quantexp.models.architectures import Architecture, Shape
from quantexp.models.detect import architecture_of
from quantexp.models.tables import FAMILIES, shape_of

DEMO = Path(__file__).parent / "demo" / "checkpoint"
# What is fetched of a repository; consolidated.safetensors would be the same weights again.
HUB_FILES = (
    *("*.json", "*.py", "tokenizer.model", "merges.txt"),
    *("model*.safetensors", "pytorch_model*.safetensors"),
)
_QUANTIZED = ("quantization_config", "compression_config", "quantization")  # keys of config.json
_WHOLE = 64 << 20  # bytes: weight files up to this size are hashed whole, larger ones sampled
_SAMPLES, _SAMPLE_BYTES = 256, 1 << 16


@dataclass(frozen=True)
class ModelSource:
    """A local folder that holds config.json, tokenizer files and safetensors."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json as plain data."""
        data: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return data

    @cached_property
    def architecture(self) -> Architecture:
        """The table's entry for this model, or what its tensors say.

        Raises:
            ConfigError: Neither knows it.
        """
        return architecture_of(self.config, self.weight_files)

    @property
    def architecture_name(self) -> str:
        """The ``model_type``, marked where no table names it."""
        kind = str(self.config.get("model_type"))
        return f"{kind} (as llama, by its tensors)" if self.detected else kind

    @property
    def detected(self) -> bool:
        """Whether no table names the model, and its tensors had to say what it is."""
        return self.config.get("model_type") not in FAMILIES

    @cached_property
    def shape(self) -> Shape:
        """Sizes, by whatever names config.json has them."""
        return shape_of(self.config)

    @property
    def hidden(self) -> int:
        """Width of the residual stream, in channels."""
        return self.shape.hidden

    @property
    def intermediate(self) -> int:
        """Width of the MLP's inner activation, in channels."""
        return self.shape.intermediate

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.shape.head_dim

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.shape.heads

    @property
    def kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.shape.kv_heads

    @property
    def blocks(self) -> int:
        """Number of decoder blocks."""
        return self.shape.blocks

    @property
    def max_positions(self) -> int:
        """Longest window the model was made for, in tokens."""
        return int(self.config.get("max_position_embeddings", 1 << 30))

    @cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors shards, sorted: those of the index where there is one."""
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            stat = index.stat()
            return [self.folder / name for name in _named(index, stat.st_size, stat.st_mtime_ns)]
        whole = self.folder / "model.safetensors"
        if whole.is_file():
            return [whole]
        return sorted(self.folder.glob("*.safetensors"))

    @cached_property
    def content_hash(self) -> str:
        """sha256 over configuration, tokenizer and weights, whatever the folder is called.

        Weight files above 64 MiB enter by their header, size and 256 evenly spaced samples, so
        that a 140 GB checkpoint is identified in a second.
        """
        names = ("config.json", "tokenizer.json", "tokenizer.model")
        small = [self.folder / name for name in names if (self.folder / name).is_file()]
        stats = [(p, p.stat().st_size, p.stat().st_mtime_ns) for p in (*small, *self.weight_files)]
        return _content_hash(tuple(stats), len(small))


def find(model: ModelConfig) -> ModelSource:
    """Finds the model's folder and refuses what cannot be loaded.

    Raises:
        ConfigError: The path is missing or the architecture is not in the table.
        DataError: The folder lacks files, or holds pickled weights only.
    """
    folder = {"demo": _demo, "local": _local, "hf": _hub}[model.source](model)
    if not (folder / "config.json").is_file():
        raise DataError(f"model.path={folder} has no config.json: give a Transformers checkpoint")
    source = ModelSource(folder)
    for key in _QUANTIZED:
        if found := source.config.get(key):
            kind = found.get("quant_method", key) if isinstance(found, dict) else key
            raise ConfigError(
                f"model.path={folder} is quantized already ({kind}, says config.json), and its "
                "integers would be read as weights: give the model's checkpoint in 16 or 32 bits"
            )
    if not source.weight_files:
        pickled = ", ".join(sorted(p.name for p in folder.glob("*.bin")))
        raise DataError(
            f"model.path={folder} has no *.safetensors"
            + (f" (only pickled weights, {pickled}, which can run code)" if pickled else "")
            + ": convert it with save_pretrained(…, safe_serialization=True)"
        )
    if lacking := [path.name for path in source.weight_files if not path.is_file()]:
        raise DataError(
            f"model.path={folder} lacks {lacking[0]} ({len(lacking)} of {len(source.weight_files)} "
            "weight files): the download is incomplete; fetch it again"
        )
    try:
        _ = source.architecture
    except ConfigError as error:
        raise ConfigError(f"model.path={folder}: {error}") from error
    return source


@cache
def _named(index: Path, size: int, time: int) -> list[str]:
    """The files of an index; once per process, since those of experts are megabytes."""
    return sorted(set(json.loads(index.read_text())["weight_map"].values()))


@cache
def _content_hash(files: tuple[tuple[Path, int, int], ...], small: int) -> str:
    """Once per process: every cell of a sweep asks. Size and time of the files are in the key."""
    digest = hashlib.sha256()
    for path, _, _ in files[:small]:
        digest.update(path.name.encode() + path.read_bytes())
    for path, _, _ in files[small:]:
        _update(digest, path)
    return digest.hexdigest()


def _demo(model: ModelConfig) -> Path:
    return DEMO


def _local(model: ModelConfig) -> Path:
    if model.path is None:
        raise ConfigError("model=local needs a folder: add model.path=FOLDER")
    folder = Path(model.path).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"model.path={model.path} is not a folder: give a checkpoint's folder, "
            "or model=hf model.path=ORG/NAME for one on the hub"
        )
    return folder.resolve()


def _hub(model: ModelConfig) -> Path:
    if model.path is None or model.path.count("/") != 1:
        raise ConfigError(f"model=hf needs model.path=ORG/NAME, got model.path={model.path}")
    return _snapshot(model.path, model.revision)


@cache
def _snapshot(path: str, revision: str | None) -> Path:
    """Once per process: every cell of a sweep asks, and each time would ask the hub."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    offline = bool(constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE"))
    try:
        return Path(
            snapshot_download(
                path,
                revision=revision,
                allow_patterns=list(HUB_FILES),
                local_files_only=offline,
            )
        )
    except GatedRepoError as error:
        raise DataError(
            f"model.path={path} is gated: accept its licence on the hub and set HF_TOKEN"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise DataError(
            f"model.path={path} (revision {revision or 'main'}) could not be fetched"
            f"{' (offline)' if offline else ''}: {type(error).__name__}. Fetch it on a machine "
            f"with network, 'python -m quantexp prefetch' with the same arguments or "
            f"'hf download {path}', or use model=local model.path=FOLDER"
        ) from error


def _update(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name}:{size}".encode())
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
            return
        header = int.from_bytes(file.read(8), "little")
        digest.update(file.read(header))
        for i in range(_SAMPLES):
            file.seek(8 + header + i * (size - 8 - header - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
