"""Reading a user's files as text a model can work with: csv, tsv, json, jsonl, txt, md, py, xlsx and pdf (section 4.3.5).

Nothing read is executed or unpickled. Sizes are bounded before a file is opened, an xlsx file (a zip) by what it would unpack
to; of a long file the model sees the first part and is told so.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from puna.post.tools.failure import ToolFailed

MAX_BYTES = 20 << 20
MAX_UNPACKED = 200 << 20  # of a zip
MAX_ROWS, MAX_PAGES = 10_000, 200
MAX_CELLS = 1_000_000  # of an xlsx file, empty ones included: a few bytes can claim billions
MAX_CHARS = 4000  # shown to the model


def read_file(name: str, content: bytes, limit: int = MAX_CHARS) -> str:
    """A file as text, cut after `limit` characters with a line that says so.

    Raises ToolFailed for a kind of file that is not read, one too large, and one that is broken.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in READERS:
        raise ToolFailed(f"cannot read '{suffix or name}' files; known are {', '.join(READERS)}")
    _bounded(name, content)
    text = READERS[suffix](content)
    return text if len(text) <= limit else f"{text[:limit]}\n[{len(text) - limit} characters more]"


def table(name: str, content: bytes) -> list[list[str]]:
    """The rows of a csv, tsv or xlsx file (its first sheet), header included, cells as text. Raises ToolFailed."""
    _bounded(name, content)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".xlsx":
        sheets = _sheets(content)
        return sheets[0][1] if sheets else []
    if suffix in (".csv", ".tsv"):
        return list(_delimited(content, "\t" if suffix == ".tsv" else ","))
    raise ToolFailed(f"'{suffix}' files hold no table")


def _bounded(name: str, content: bytes) -> None:
    if len(content) > MAX_BYTES:
        raise ToolFailed(f"{name} has {len(content) >> 20} MB, the limit is {MAX_BYTES >> 20} MB")


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _delimited(content: bytes, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from islice(csv.reader(io.StringIO(_text(content), newline=""), delimiter=delimiter), MAX_ROWS)
    except csv.Error as error:
        raise ToolFailed(f"broken table: {error}") from None


def _rows(rows: Iterable[list[str]]) -> str:
    return "\n".join(" | ".join(row) for row in rows)


def _json(content: bytes) -> str:
    try:
        return json.dumps(json.loads(_text(content)), ensure_ascii=False, indent=1)
    except (ValueError, RecursionError) as error:
        raise ToolFailed(f"not valid JSON: {error}") from None


def _xlsx(content: bytes) -> str:
    return "\n".join(f"# {title}\n{_rows(rows)}" for title, rows in _sheets(content))


def _sheets(content: bytes) -> list[tuple[str, list[list[str]]]]:
    openpyxl = _library("openpyxl", "xlsx")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED:
                raise ToolFailed(f"the file unpacks to more than {MAX_UNPACKED >> 20} MB")
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        return _cells(book)
    except ToolFailed:
        raise
    except Exception as error:  # the library raises whatever its parsers do
        raise ToolFailed(f"broken xlsx file: {type(error).__name__}") from None


def _cells(book: Any) -> list[tuple[str, list[list[str]]]]:
    found: list[tuple[str, list[list[str]]]] = []
    left = MAX_CELLS
    for sheet in book.worksheets:
        found.append((sheet.title, []))
        for row in islice(sheet.iter_rows(values_only=True), MAX_ROWS):
            left -= len(row)
            if left < 0:
                raise ToolFailed(f"the file has more than {MAX_CELLS} cells")
            found[-1][1].append([_cell(cell) for cell in row])
    return found


def _cell(value: object) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _pdf(content: bytes) -> str:
    pypdf = _library("pypdf", "pdf")
    try:
        reader = pypdf.PdfReader(io.BytesIO(content), strict=False)
        return "\n\n".join(page.extract_text() for page in islice(reader.pages, MAX_PAGES)).strip()
    except Exception as error:  # as above
        raise ToolFailed(f"broken pdf file: {type(error).__name__}") from None


def _library(name: str, kind: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ToolFailed(f"{kind} files need the package {name}: pip install 'puna[files]'") from None


READERS: dict[str, Callable[[bytes], str]] = {
    ".csv": lambda content: _rows(_delimited(content, ",")), ".tsv": lambda content: _rows(_delimited(content, "\t")),
    ".json": _json, ".jsonl": _text, ".txt": _text, ".md": _text, ".py": _text, ".xlsx": _xlsx, ".pdf": _pdf,
}  # fmt: skip
