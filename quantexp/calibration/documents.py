"""Reads the documents of a file one after the other: parquet, JSON lines, compressed or not."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

from quantexp.errors import DataError, unknown


def read(path: Path, field: str = "text") -> Iterator[str]:
    """The documents of a file, in its order.

    Args:
        path: ``*.parquet``, or JSON lines: ``*.jsonl``, ``*.json.gz``, ``*.jsonl.zst``.
        field: Column or key of the text.

    Raises:
        DataError: A line or a column is not as it must be; the file and the place are named.
    """
    if path.suffix == ".parquet":
        yield from _parquet(path, field)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8", newline="\n") as lines:
            yield from _json_lines(path, lines, field)
    else:
        yield from _compressed(path, field)


def _compressed(path: Path, field: str) -> Iterator[str]:
    import pyarrow  # knows gzip and zstd, and is there with `datasets`

    try:
        with (
            pyarrow.input_stream(str(path), compression="detect") as stream,
            io.TextIOWrapper(stream, encoding="utf-8", newline="\n") as lines,
        ):
            yield from _json_lines(path, lines, field)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it and fetch it again") from error


def _json_lines(path: Path, lines: io.TextIOBase, field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield str(json.loads(line)[field])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{path}, line {number}: expected {{"{field}": "…"}}, got {line[:60]!r}'
            ) from error


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is no parquet file ({error})") from error
    with file:
        names = file.schema_arrow.names
        if field not in names:
            raise DataError(f"{path}: {unknown('column', field, names)}")
        for batch in file.iter_batches(columns=[field]):
            yield from (str(value) for value in batch.column(0).to_pylist())
