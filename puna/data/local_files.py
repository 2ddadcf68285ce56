"""Local files: JSONL, Parquet, HTML, XML, plain text, source code and zip archives of these.

The field that holds the text of a JSONL or Parquet row is found by its usual names; question and answer, messages, and the
nested replies of Open Assistant trees are joined to one text. Long plain texts are split at blank lines, because a document
mask needs documents and not books.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

from puna.data.open_file import STREAM_ERRORS, Place, open_bytes, open_raw
from puna.data.rows import BadRow, PageRow

TEXT_FIELDS = ("text", "content", "document", "body", "raw_content", "page_content")
HTML_FIELDS = ("html", "raw_html", "html_content")
PAIR_FIELDS = (
    ("question", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "chosen"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("query", "response"),
    ("input", "output"),
    ("title", "abstract"),
)
CODE_NAMES = """
ada adb ads asm awk bash bat bib c cc cfg clj cljs cmake coffee cpp cs css cu cuh cxx d dart diff el elm erl ex exs f f90
f95 for fs fsx glsl go gradle groovy h hh hpp hrl hs hxx idl ini java jl js jsx kt kts lean less lisp lua m mk ml mli
mm nim nix pas patch php pl pm proto ps1 py pyi pyx r rb rkt rs s sass scala scm scss sh sol sql sv swift tcl tex tf toml ts
tsx v vb vhd vhdl vim vue yaml yml zig zsh
"""
CODE_SUFFIXES = frozenset(f".{name}" for name in CODE_NAMES.split())
TEXT_BLOCK = 8 << 20  # bytes of a plain text held at a time
PARQUET_BATCH = 1024  # rows held at a time
MEMBER_BYTES = 8 << 30  # of an archive, unpacked; a larger one is refused and not written to the disk
# what a broken, encrypted or newer zip archive raises
ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, zlib.error)
XML_BLOCK = re.compile(r"\s+")

Rows = Iterator[PageRow | BadRow]


def read_jsonl(place: Place, name: str, max_bytes: int) -> Rows:
    """One page per row with text; a row that is no JSON object, has no text or more than `max_bytes` is a bad row."""
    line_number = 0
    with open_bytes(place) as file:
        try:
            for line_number, (line, size) in enumerate(_lines(file, max_bytes), 1):
                if size > max_bytes:
                    yield BadRow(name, f"line {line_number}", f"row larger than {max_bytes} bytes")
                elif line.strip():
                    yield _json_row(line, name, line_number)
        except STREAM_ERRORS as error:
            yield BadRow(name, f"line {line_number + 1}", f"compressed stream broken: {error}")


def _lines(file: IO[bytes], most: int) -> Iterator[tuple[bytes, int]]:
    """Lines with their sizes; of one of more than `most` bytes the rest is read and thrown away, so that it is never held."""
    while line := file.readline(most + 1):
        size = len(line)
        while size > most and not line.endswith(b"\n") and (rest := file.readline(most)):
            line, size = rest, size + len(rest)
        yield line, size


def _json_row(line: bytes, name: str, line_number: int) -> PageRow | BadRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(name, f"line {line_number}", f"not JSON: {error}")
    return _record(row, name, f"line {line_number}", str(line_number))


def _record(row: Any, name: str, position: str, anchor: str) -> PageRow | BadRow:
    if not isinstance(row, dict):
        return BadRow(name, position, f"expected an object and found {type(row).__name__}")
    html = next((row[key] for key in HTML_FIELDS if isinstance(row.get(key), str | bytes) and row[key].strip()), None)
    text = html if html is not None else text_of_record(row)
    if not text or not text.strip():
        return BadRow(name, position, f"no text field among: {', '.join(list(row)[:8])}")
    url = row.get("url") if isinstance(row.get("url"), str) else None
    date = next((row[key] for key in ("date", "created", "timestamp") if isinstance(row.get(key), str)), "")
    content = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    charset = "" if isinstance(text, bytes) else "utf-8"
    return PageRow(url or f"file:{name}#{anchor}", content, "text" if html is None else "html", charset, date)


def text_of_record(row: dict[str, Any]) -> str | None:
    """The text of a record of unknown schema, or None.

    Tried in order: a text field, a pair of fields, a list of messages, a tree of replies (the best-ranked branch).
    """
    for key in TEXT_FIELDS:
        if isinstance(row.get(key), str):
            return row[key]
    for first, second in PAIR_FIELDS:
        if isinstance(row.get(first), str) and isinstance(row.get(second), str):
            context = row.get("context") or (row.get("input") if first == "instruction" else None)
            parts = [row[first], context if isinstance(context, str) else "", row[second]]
            return "\n".join(part for part in parts if part)
    for key in ("messages", "conversations", "dialog"):
        if isinstance(row.get(key), list):
            turns = [turn.get("content") or turn.get("value") for turn in row[key] if isinstance(turn, dict)]
            return "\n\n".join(turn for turn in turns if isinstance(turn, str))
    if isinstance(row.get("prompt"), dict):
        return "\n\n".join(_best_branch(row["prompt"]))
    return None


def _best_branch(node: dict[str, Any]) -> list[str]:
    """Texts from the root of a tree of replies down its best-ranked branch (rank 0 is best)."""
    turns: list[str] = []
    while isinstance(node, dict) and isinstance(node.get("text"), str):
        turns.append(node["text"])
        replies = [reply for reply in node.get("replies") or [] if isinstance(reply, dict)]
        if not replies:
            break
        node = min(replies, key=lambda reply: reply["rank"] if isinstance(reply.get("rank"), int) else len(replies))
    return turns


def read_parquet(place: Place, name: str, max_bytes: int) -> Rows:
    """One page per row of a Parquet file, by the same rules as JSONL; a page of more than `max_bytes` is a bad row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row_number = 0
    try:
        with open_raw(place) as raw, pq.ParquetFile(raw) as file:
            for group in range(file.num_row_groups):
                row_number = yield from _row_group(file, group, name, row_number, max_bytes)
    except (OSError, ValueError, pa.ArrowException) as error:
        yield BadRow(name, f"row {row_number + 1}", f"not readable as Parquet: {error}")


def _row_group(file: Any, group: int, name: str, before: int, max_bytes: int) -> Generator[PageRow | BadRow, None, int]:
    """Rows of one row group; a broken one is one bad row, and the number of its rows is still counted."""
    import pyarrow as pa

    number = before
    try:
        for batch in file.iter_batches(PARQUET_BATCH, row_groups=[group], use_threads=False):
            for row in batch.to_pylist():
                number += 1
                page = _record(row, name, f"row {number}", str(number))
                large = isinstance(page, PageRow) and len(page.content) > max_bytes
                yield BadRow(name, f"row {number}", f"row larger than {max_bytes} bytes") if large else page
    except (OSError, ValueError, pa.ArrowException) as error:
        yield BadRow(name, f"row {number + 1}", f"row group {group} is broken: {error}")
    return before + file.metadata.row_group(group).num_rows


def read_html(place: Place, name: str, max_bytes: int) -> Rows:
    """The file as one HTML page."""
    yield from _whole(place, name, "html", max_bytes)


def read_code(place: Place, name: str, max_bytes: int) -> Rows:
    """The file as one document of the group `code`, as it is."""
    yield from _whole(place, name, "text", max_bytes, group="code")


def _whole(place: Place, name: str, kind: str, max_bytes: int, group: str = "") -> Rows:
    try:
        with open_bytes(place) as file:
            content = file.read(max_bytes + 1)
    except STREAM_ERRORS as error:
        yield BadRow(name, "start", f"cannot be read: {error}")
        return
    if len(content) > max_bytes:
        yield BadRow(name, "start", f"larger than {max_bytes} bytes")
    elif not content.strip():
        yield BadRow(name, "start", "empty file")
    else:
        yield PageRow(f"file:{name}", content, kind, "", "", group)


def read_text(place: Place, name: str, document_chars: int) -> Rows:
    """A plain text file, split near `document_chars` characters at blank lines; what came before a broken end is kept."""
    number, held, position = 0, b"", 0
    broken = None
    with open_bytes(place) as file:
        while True:
            try:
                block = file.read(TEXT_BLOCK)
            except STREAM_ERRORS as error:
                block, broken = b"", BadRow(name, f"byte {position}", f"compressed stream broken: {error}")
            held += block
            position += len(block)
            cut = held.rfind(b"\n\n") + 2 if block else len(held)
            if cut > 1:
                for part in split_text(decode(held[:cut]), document_chars):
                    number += 1
                    yield PageRow(f"file:{name}#{number}", part.encode("utf-8", "replace"), "text", "utf-8")
                held = held[cut:]
            if not block:
                break
    if broken:
        yield broken
    elif not number:
        yield BadRow(name, "start", "empty file")


def decode(content: bytes) -> str:
    """Text of bytes without a declared encoding: UTF-8, UTF-16 with its mark, or Windows-1252."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _split_rows(text: str, name: str, document_chars: int) -> Rows:
    for number, part in enumerate(split_text(text, document_chars), 1):
        yield PageRow(f"file:{name}#{number}", part.encode("utf-8", "replace"), "text", "utf-8")


def split_text(text: str, document_chars: int) -> Iterator[str]:
    """Cut a text at blank lines (or, where a paragraph is longer, at line ends) into parts of at most about `document_chars`."""
    held: list[str] = []
    size = 0
    for paragraph in re.split(r"\n[ \t\r]*\n", text.replace("\r\n", "\n")):
        for piece in _pieces(paragraph, document_chars):
            if held and size + len(piece) > document_chars:
                yield "\n\n".join(held)
                held, size = [], 0
            if piece.strip():
                held.append(piece.strip("\n"))
                size += len(piece)
    if held:
        yield "\n\n".join(held)


def _pieces(paragraph: str, limit: int) -> Iterator[str]:
    while len(paragraph) > limit:
        cut = max(paragraph.rfind("\n", 0, limit), paragraph.rfind(" ", limit // 2, limit))
        cut = cut if cut > 0 else limit
        yield paragraph[:cut]
        paragraph = paragraph[cut:]
    yield paragraph


def read_xml(place: Place, name: str, document_chars: int) -> Rows:
    """The text of an XML file, one line per element that holds text of its own; broken XML is a bad row with its position."""
    from xml.etree import ElementTree

    try:
        with open_bytes(place) as file:
            root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, *STREAM_ERRORS, ValueError) as error:
        yield BadRow(name, "start", f"not XML: {error}")
        return
    lines = []
    for element in root.iter():
        own = [element.text or "", *(child.tail or "" for child in element)]
        line = XML_BLOCK.sub(" ", " ".join(own)).strip()
        if line:
            lines.append(line)
    if not lines:
        yield BadRow(name, "start", "no text in this XML file")
    yield from _split_rows("\n\n".join(lines), name, document_chars)


def unzip(place: Place, name: str, directory: Path) -> Iterator[tuple[Path, str] | BadRow]:
    """Unpack the files of a zip archive one by one: (path of the member under `directory`, its name), or why it is broken."""
    try:
        with open_raw(place) as raw, zipfile.ZipFile(raw) as archive:
            for index, member in enumerate(sorted(m.filename for m in archive.infolist() if not m.is_dir())):
                # our own name: a member's name may point outside the directory
                target = directory / f"{index}{''.join(Path(member).suffixes[-2:])}"
                try:
                    if archive.getinfo(member).file_size > MEMBER_BYTES:
                        yield BadRow(f"{name}/{member}", "start", f"unpacked it is larger than {MEMBER_BYTES >> 30} GiB")
                        continue
                    with archive.open(member) as packed, target.open("wb") as out:
                        shutil.copyfileobj(packed, out)  # zipfile ends a member at the size it declares
                except (*ZIP_ERRORS, *STREAM_ERRORS) as error:
                    yield BadRow(f"{name}/{member}", "start", f"cannot be unpacked: {error}")
                    continue
                yield target, f"{name}/{member}"
                target.unlink()
    except (*ZIP_ERRORS, OSError) as error:
        yield BadRow(name, "start", f"this zip archive cannot be read: {error}")
