"""Words of prose, lines of code and plain forms of letters, against regular expressions and `unicodedata`; guessed groups."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.data.groups import guess_groups
from puna.data.kernels.letters import FORM_ROOM, letters, plain_form
from puna.data.kernels.prose import BRACES_BYTES, CALL_BYTES, CODE_LINE_BYTES, code_and_maths, is_code_line, write_words
from puna.data.kernels.tables import tables

STATEMENT = re.compile(
    r"def |class |import |return |print[ (]|#include|function |const |var |let |public |(?:if|for|while) ?\(|>>> |\.\.\. |//"
    r"|(?:if|elif|for|while|with) .*:$|from .* import ",
    re.S,
)
OPERATOR = re.compile(r"(?<![<=>])[<=>]=(?![<=>])|->")
WORD = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]+)*")
CONTROL = "".join(map(chr, range(33)))


def array(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def words(text: str) -> str:
    data = array(text)
    out = np.empty(len(data), dtype=np.uint8)
    return out[: write_words(data, 0, len(data), tables().kind, out)].tobytes().decode()


def is_code(line: str) -> bool:
    return bool(is_code_line(array(line), 0, len(line.encode())))


def is_code_by_expression(line: str) -> bool:
    line = line.strip(CONTROL)
    if not line or len(line.encode()) > CODE_LINE_BYTES:
        return False
    return line[-1] in "{};" or bool(STATEMENT.match(line) or OPERATOR.search(line))


@pytest.mark.parametrize(("line", "code"), [
    ("def f(x):", True), ("  return a", True), ("return", False), ("returned goods", False), ("from a.b import c", True),
    ("from here to there", False), ("for example", False), ("for name in names:", True), ("if (a) b", True), ("Für x;  ", True),
    ("größer == kleiner", True), ("x -> y", True), ("=====", False), ("<==", False), ("a <= b", True), ("日本 {", True),
    ("", False), (" \t ", False), ("}", True), (">>> x", True), ("... y", True), (">>>", False), ("x = y", False),
    ("é" * (CODE_LINE_BYTES // 2) + ";", False), ("é" * (CODE_LINE_BYTES // 2 - 1) + ";", True),
])  # fmt: skip
def test_lines_of_code(line, code):
    assert is_code(line) is code is is_code_by_expression(line)


@given(st.text(st.sampled_from("defr importu:();{}=<>->/ .é日_x1\t"), max_size=14), st.sampled_from(
    ["", "def ", "from a", "if ", "with ", "print", "while", "import", "... "]))  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_a_line_is_code_as_the_expressions_say(tail, head):
    assert is_code(head + tail) == is_code_by_expression(head + tail)


LIVELY = st.sampled_from("abÄß 'ñ’-.,;\n5_日本語дж")
PROSE = st.characters(codec="utf-8", categories=["L", "Nd", "P", "Zs"], exclude_characters="(){}<>@:;", max_codepoint=0x1FFFF)


@given(st.text(st.one_of(LIVELY, PROSE), max_size=60))
@settings(max_examples=400, deadline=None)
def test_words_are_those_of_the_expression(text):
    prose = [line for line in text.split("\n") if not is_code_by_expression(line)]
    expected = [word for line in prose for word in WORD.findall(line)]
    assert words(text) == " ".join(expected or [word for line in text.split("\n") for word in WORD.findall(line)])


@pytest.mark.parametrize(("text", "left"), [
    ("详见 https://a.cn/b?c=d吧朋友们", "详见 吧朋友们"),
    ("Schreib an max.muster@post.de bald", "Schreib an bald"),
    ("请写信到 list@lists.org参加讨论", "请写信到 参加讨论"),
    ("@name sagt", "name sagt"),
    ("ein <platz> oder a < b und <kein platz>", "ein oder und kein platz"),
    ("Das gibt obj.add(one, two(three)) zurück", "Das gibt zurück"),
    ("Die Élève(nen) und das (kleine) Haus", "Die und das kleine Haus"),
    ("функция(да) нет", "функция да нет"),
    ("vor {'a': {'b': 'cc'}} nach", "vor nach"),
    ("Heute\n{\n 'wort': 'wert',\n 'noch': 3\n}\nMorgen", "Heute Morgen"),
    ("vor {" + "lang " * (BRACES_BYTES // 5) + "} nach", "vor " + "lang " * (BRACES_BYTES // 5) + "nach"),
    ("vor ruf(" + "lang " * (CALL_BYTES // 5) + "x) nach", "vor ruf " + "lang " * (CALL_BYTES // 5) + "nach"),
    ("zu} viel) hier { und ( da", "zu viel hier und da"),
    ("x = gut;\nreturn schlecht;", "gut return schlecht"),
    ("Ein Satz.\nreturn schlecht;", "Ein Satz"),
    ("हिन्दी में", "हिन्दी में"),
    ("a b c 12 d'eau l’été rock’n’roll", "eau été rock’n’roll"),
])  # fmt: skip
def test_what_is_no_prose_is_left_out(text, left):
    assert words(text) == left


def plain(text: str) -> str:
    data = array(text)
    out = np.empty(FORM_ROOM * len(data), dtype=np.uint8)
    return out[: plain_form(data, 0, len(data), letters(), out)].tobytes().decode()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "text", ["Être façade", "Tiếng Việt của chúng tôi", "ÇA ALORS", "ΕΛΛΑΔΑ", "आज़ादी", "パンがある", "\u212b \U0001d160"]
)
def test_the_plain_form_is_composed_and_not_shouted(text, form):
    expected = unicodedata.normalize("NFC", text.lower() if text.isupper() else text)
    assert plain(unicodedata.normalize(form, text)) == expected


def test_a_second_accent_may_come_first():
    assert plain("e\u0302\u0323 e\u0323\u0302 \u00ea\u0323 \u1eb9\u0302") == "\u1ec7 \u1ec7 \u1ec7 \u1ec7"


def test_shares_of_code_and_maths():
    texts = ["a = 1;\n\nb\n", "3 × ४ ≤ \\frac \\sum x", "", "passed over;"]
    data, bounds = array("".join(texts)), np.cumsum([0, *(len(text.encode()) for text in texts)])
    code, maths = np.zeros(4), np.zeros(4)
    code_and_maths(data, bounds, np.array([True, True, True, False]), tables().kind, code, maths)
    assert code.tolist() == [1 / 4, 0, 0, 0] and maths.tolist() == [2 / 10, 6 / 20, 0, 0]


def test_groups():
    texts = [
        "def add(a, b):\n    return a + b\n",
        "Ten and 5 are 15. 15 * 2 = 30",
        "The children play in the garden.",
        "Die Kinder spielen.",
        None,
    ]
    langs = ["und", "en", "en", "de", "und"]
    assert guess_groups(pa.array(texts), langs) == ["code", "maths", "general", "multilingual", "general"]
    assert guess_groups(pa.array([], pa.string()), []) == []
