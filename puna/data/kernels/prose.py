"""Prose apart from code, in passes over UTF-8 bytes: which lines are code, the words of the others, and mathematical signs.

Words are written to a buffer as they come, with what must not count among them: the end of an address, call or object is seen
after its words, and then the buffer is wound back to where it began. So no byte is looked at more than a bounded number of times.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.tables import DIGIT, LETTER, MARK, WORD
from puna.data.kernels.utf8 import decode, kind_of

CODE_LINE_BYTES = 400  # a longer line is a paragraph
BRACES_BYTES = 1200  # of an object in braces that is left out
CALL_BYTES = 200  # between the parentheses of a call
TAG_BYTES = 30  # of a placeholder's name
DEEPEST = 32  # brackets in brackets that are remembered
WORD_LETTERS = 2  # a shorter word is left out

NEWLINE, BLANK, APOSTROPHE, HYPHEN, COLON, SEMICOLON = 0x0A, 0x20, 0x27, 0x2D, 0x3A, 0x3B
LESS, EQUALS, GREATER, AT, SLASH, BACKSLASH = 0x3C, 0x3D, 0x3E, 0x40, 0x2F, 0x5C
OPEN_CALL, CLOSE_CALL, OPEN_BRACE, CLOSE_BRACE = 0x28, 0x29, 0x7B, 0x7D
NOTHING = -1  # is to be left out

ALWAYS, WITH_COLON, WITH_IMPORT = range(3)  # when a line that begins like this is code
OPENINGS = (
    (ALWAYS, "def ", "class ", "import ", "return ", "print ", "print(", "#include", "function ", "const ", "var ", "let ",
     "public ", "if(", "if (", "for(", "for (", "while(", "while (", ">>> ", "... ", "//"),
    (WITH_COLON, "if ", "elif ", "for ", "while ", "with "),
    (WITH_IMPORT, "from "),
)  # fmt: skip
OPENING_BYTES = np.frombuffer("".join(word for _, *words in OPENINGS for word in words).encode(), dtype=np.uint8)
OPENING_ENDS = np.cumsum([len(word) for _, *words in OPENINGS for word in words])
OPENING_NEEDS = np.array([need for need, *words in OPENINGS for _ in words])
IMPORT = np.frombuffer(b" import ", dtype=np.uint8)

MATHS_SIGNS = np.array([chr(byte) in "0123456789=+^" for byte in range(128)])
MATHS_POINTS = tuple(map(ord, "×÷√∑∫≤≥"))
FRACTION, SUM = np.frombuffer(rb"\frac", dtype=np.uint8), np.frombuffer(rb"\sum", dtype=np.uint8)


@njit(cache=True, nogil=True)
def line_end(data, i, end):  # type: ignore[no-untyped-def]
    """Where the line ends that byte `i` is on: its newline, or `end`."""
    while i < end and data[i] != NEWLINE:
        i += 1
    return i


@njit(cache=True, nogil=True)
def is_code_line(data, i, end):  # type: ignore[no-untyped-def]
    """Whether a line begins like a statement, ends with a brace or semicolon, or holds a comparison or an arrow."""
    while i < end and data[i] <= BLANK:
        i += 1
    while i < end and data[end - 1] <= BLANK:
        end -= 1
    if i >= end or end - i > CODE_LINE_BYTES:
        return False
    last = data[end - 1]
    if last in (OPEN_BRACE, CLOSE_BRACE, SEMICOLON):
        return True
    return _opens_code(data, i, end) or _has_operator(data, i, end)


@njit(cache=True, nogil=True)
def _opens_code(data, i, end):  # type: ignore[no-untyped-def]
    first = 0
    for opening in range(len(OPENING_ENDS)):
        last = OPENING_ENDS[opening]
        if data[i] == OPENING_BYTES[first] and _is_at(data, i, end, OPENING_BYTES[first:last]):
            need = OPENING_NEEDS[opening]
            if need == ALWAYS:
                return True
            if need == WITH_COLON:
                return data[end - 1] == COLON
            while i < end and not (data[i] == BLANK and _is_at(data, i, end, IMPORT)):
                i += 1
            return i < end
        first = last
    return False


@njit(cache=True, nogil=True)
def _is_at(data, i, end, sought):  # type: ignore[no-untyped-def]
    place = 0
    while place < len(sought) and i + place < end and data[i + place] == sought[place]:
        place += 1
    return place == len(sought)


@njit(cache=True, nogil=True)
def _has_operator(data, i, end):  # type: ignore[no-untyped-def]
    """Whether ==, <=, >= or -> is there; a longer run of such signs is a rule or an ornament."""
    for place in range(i, end - 1):
        if data[place] == HYPHEN and data[place + 1] == GREATER:
            return True
        if data[place + 1] == EQUALS and _compares(data[place]):
            before = place > i and _compares(data[place - 1])
            if not before and not (place + 2 < end and _compares(data[place + 2])):
                return True
    return False


@njit(cache=True, nogil=True)
def _compares(byte):  # type: ignore[no-untyped-def]
    return byte in (LESS, EQUALS, GREATER)


@njit(cache=True, nogil=True)
def write_words(data, begin, end, kind, out):  # type: ignore[no-untyped-def]
    """Write the words of some text, joined by blanks, without code, addresses, calls and what stands in braces.

    A word has two letters or more, and may go on after an apostrophe or hyphen. Where nothing but lines of code has words, their
    words count.

    Args:
        kind: `tables().kind`.
        out: uint8, room for as many bytes as the text has; receives the words.

    Returns:
        Bytes written.
    """
    with_code = False
    while True:
        written = write_line_words(data, begin, end, kind, with_code, out)
        if written or with_code:
            return written
        with_code = True


@njit(cache=True, nogil=True)
def write_line_words(data, i, end, kind, with_code, out):  # type: ignore[no-untyped-def]
    """As `write_words`; the words of lines of code count if `with_code`."""
    brackets = np.empty((DEEPEST, 3), np.int64)  # sign, place, bytes written before it
    written, depth = 0, 0
    while i < end:
        first, stop, before = i, line_end(data, i, end), written
        token = written  # bytes written before the run of ASCII signs that we are in
        while i < stop:
            byte = data[i]
            if byte >= 0x80 or kind[byte] & LETTER:
                after, letters, plain = _word(data, i, stop, kind)
                mark = written
                if letters >= WORD_LETTERS:
                    written = _copy(data, i, after, out, written)
                if not plain:
                    token = mark if letters else written
                i = after
                continue
            in_token = i > first and BLANK < data[i - 1] < 0x80
            if byte <= BLANK:
                token = written
            elif byte == LESS:
                i = _tag_end(data, i, stop, kind)
            elif (byte == AT and in_token) or (byte == COLON and i + 2 < stop and data[i + 1] == SLASH and data[i + 2] == SLASH):
                written = min(token, written)
                while i + 1 < stop and BLANK < data[i + 1] < 0x80:
                    i += 1
            elif byte in (OPEN_BRACE, OPEN_CALL):
                named = in_token and kind[data[i - 1]] & WORD
                mark = written if byte == OPEN_BRACE else token if named else NOTHING
                depth = _open(brackets, depth, byte, i, mark)
            elif byte in (CLOSE_BRACE, CLOSE_CALL):
                depth, mark = _close(brackets, depth, byte, i)
                written = min(written, mark) if mark >= 0 else written
                token = min(token, written)
            i += 1
        if not with_code and is_code_line(data, first, stop):
            written = min(written, before)
        i = stop + 1
    return written


@njit(cache=True, nogil=True)
def _word(data, i, end, kind):  # type: ignore[no-untyped-def]
    """The end of a word, the letters before its first apostrophe or hyphen, and whether all is ASCII; of a sign: 0 letters."""
    i, letters, plain = _letters(data, i, end, kind)
    if letters < WORD_LETTERS:
        if not letters:
            _, i = decode(data, i, end)
        return i, letters, plain and letters > 0
    while i + 1 < end:
        byte, joint = data[i], i + 1
        if byte == 0xE2 and i + 3 < end and data[i + 1] == 0x80 and data[i + 2] == 0x99:
            joint = i + 3
        elif byte != APOSTROPHE and byte != HYPHEN:
            break
        after, more, ascii = _letters(data, joint, end, kind)
        if not more:
            break
        i, plain = after, plain and ascii and joint == i + 1
    return i, letters, plain


@njit(cache=True, nogil=True)
def _letters(data, i, end, kind):  # type: ignore[no-untyped-def]
    """The end of a run of letters with their marks, how many there are, and whether all are ASCII."""
    letters, plain = 0, True
    while i < end:
        code, after = decode(data, i, end)
        if not kind_of(kind, code) & (LETTER | MARK if letters else LETTER):
            break
        plain = plain and code < 0x80
        letters += 1
        i = after
    return i, letters, plain


@njit(cache=True, nogil=True)
def _copy(data, i, end, out, written):  # type: ignore[no-untyped-def]
    if written:
        out[written] = BLANK
        written += 1
    for place in range(i, end):
        out[written] = data[place]
        written += 1
    return written


@njit(cache=True, nogil=True)
def _tag_end(data, i, end, kind):  # type: ignore[no-untyped-def]
    """The last byte of `<name>` if there is one at `i`, else `i`."""
    place = i + 1
    while place < min(end, i + 1 + TAG_BYTES) and data[place] < 0x80 and kind[data[place]] & WORD:
        place += 1
    return place if i + 1 < place < end and data[place] == GREATER else i


@njit(cache=True, nogil=True)
def _open(brackets, depth, sign, i, mark):  # type: ignore[no-untyped-def]
    depth = 0 if depth == DEEPEST else depth  # nobody nests so deep outside of code
    brackets[depth, 0], brackets[depth, 1], brackets[depth, 2] = sign, i, mark
    return depth + 1


@njit(cache=True, nogil=True)
def _close(brackets, depth, sign, i):  # type: ignore[no-untyped-def]
    """Take the bracket that this one closes; what was written before it, or -1 where nothing is to be left out."""
    if sign == CLOSE_CALL:
        if depth == 0 or brackets[depth - 1, 0] != OPEN_CALL:
            return depth, NOTHING
        depth -= 1
        return depth, brackets[depth, 2] if i - brackets[depth, 1] <= CALL_BYTES else NOTHING
    while depth > 0:
        depth -= 1
        if brackets[depth, 0] == OPEN_BRACE:
            return depth, brackets[depth, 2] if i - brackets[depth, 1] <= BRACES_BYTES else NOTHING
    return 0, NOTHING


@njit(cache=True, nogil=True)
def code_and_maths(data, bounds, wanted, kind, code, maths):  # type: ignore[no-untyped-def]
    """The share of code among the lines of each document, blank ones counted, and of mathematical signs among its characters.

    Args:
        data, bounds: UTF-8 bytes of the documents, and where each begins.
        wanted: bool [documents]; the others are passed over.
        kind: `tables().kind`.
        code, maths: float64 [documents], the results.
    """
    for doc in range(len(bounds) - 1):
        if not wanted[doc]:
            continue
        i, end = bounds[doc], bounds[doc + 1]
        signs, chars = _signs(data, i, end, kind)
        maths[doc] = signs / max(chars, 1)
        found, lines = 0, 1
        while i < end:
            stop = line_end(data, i, end)
            found += is_code_line(data, i, stop)
            lines += stop < end
            i = stop + 1
        code[doc] = found / lines


@njit(cache=True, nogil=True)
def _signs(data, i, end, kind):  # type: ignore[no-untyped-def]
    """How many digits, operators and TeX fractions and sums there are, and how many characters."""
    signs, chars = 0, 0
    while i < end:
        chars += 1
        byte = data[i]
        if byte < 0x80:
            signs += MATHS_SIGNS[byte]
            if byte == BACKSLASH:
                signs += _is_at(data, i, end, FRACTION) or _is_at(data, i, end, SUM)
            i += 1
        else:
            code, i = decode(data, i, end)
            signs += kind_of(kind, code) & DIGIT != 0 or code in MATHS_POINTS
    return signs, chars
