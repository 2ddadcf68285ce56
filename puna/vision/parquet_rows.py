"""Rows of Parquet files with the pictures inside, as data sets of Hugging Face have them: `image: {bytes, path}`, or lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOGETHER = 32  # rows whose pictures are in memory


def parquet_rows(path: Path, folder: Path, bad: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
    """(number, row) of each row, a file's name in place of its bytes; what cannot be read goes to `bad`.

    The pictures of a row lie in `folder` until the next row is asked for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(TOGETHER):
                for row in batch.to_pylist():
                    number += 1
                    written = list[Path]()
                    yield number, _written(row, folder, written)
                    for picture in written:
                        picture.unlink()
    except (pa.ArrowException, OSError) as error:
        bad.append({"file": path.name, "line": number + 1, "reason": f"the file breaks off: {error}"})


def _written(value: Any, folder: Path, written: list[Path]) -> Any:
    """A value with each picture in it as the name of a file in the folder; `written` gets the files."""
    if isinstance(value, list):
        return [_written(one, folder, written) for one in value]
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("bytes"), bytes):
        return {key: _written(one, folder, written) for key, one in value.items()}
    path = folder / f"{len(written)}.media"
    path.write_bytes(value["bytes"])
    written.append(path)
    return path.name
