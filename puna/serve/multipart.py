"""Forms with files (multipart/form-data, RFC 7578), from a body that is in memory and bounded already."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser

from puna.serve.protocol import ApiError

MOST_PARTS = 64
HEADER_BYTES = 16 << 10
WRONG_PARAMETERS = (ValueError, TypeError, LookupError)  # what email raises at charsets and numbers that are none (RFC 2231)


@dataclass(frozen=True)
class Upload:
    """A file of a form: what the client calls it, and its bytes."""

    name: str
    content: bytes


@dataclass
class Form:
    """The fields of a form; several of one name (`x[]`) stand in order."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)


def read_form(content_type: str, body: bytes) -> Form:
    """The parts of a form; ApiError 400 for anything else."""
    head = Message()
    head["Content-Type"] = content_type
    try:
        boundary = head.get_boundary()
    except WRONG_PARAMETERS:
        boundary = None
    if head.get_content_type() != "multipart/form-data" or not boundary:
        raise ApiError(400, "this endpoint takes a form: multipart/form-data with a field 'file'")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("utf-8", "replace"), MOST_PARTS + 2)
    if len(parts) - 2 > MOST_PARTS:
        raise ApiError(400, f"a form may have {MOST_PARTS} parts")
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        raise ApiError(400, "the form is cut off, or its boundary is not in it")
    form = Form()
    for part in parts[1:-1]:
        _take(form, part)
    return form


def _take(form: Form, part: bytes) -> None:
    """Put one part into the form."""
    written, blank, content = part.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
    header = HeaderParser().parsestr(written.decode("utf-8", "replace")) if len(written) <= HEADER_BYTES else Message()
    try:
        name, file = header.get_param("name", header="content-disposition"), header.get_filename()
    except WRONG_PARAMETERS:
        raise ApiError(400, "a part of the form has a header that cannot be read") from None
    if not blank or not isinstance(name, str) or not name:
        raise ApiError(400, "a part of the form has no name")
    if file is not None:
        form.files[name] = Upload(file, content)
        return
    try:
        form.fields.setdefault(name, []).append(content.decode())
    except UnicodeDecodeError:
        raise ApiError(400, f"'{name}' is no text in UTF-8", param=name) from None
