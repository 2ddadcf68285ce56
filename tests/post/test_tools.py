"""The model's tools: sums, search, files of each kind and broken ones; functions mined from source."""

import contextlib
import io
import json
import math
import random
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import InputError
from puna.post.synth.signatures import installed, mine
from puna.post.synth.table_questions import ask_table
from puna.post.tools import files
from puna.post.tools.calculator import calculate
from puna.post.tools.failure import ToolFailed
from puna.post.tools.files import read_file, table
from puna.post.tools.search import Search
from puna.post.tools.toolbox import TOOLS, Workspace
from puna.verify.arguments import misfit


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(3 + 4) * 2", "14"), ("0.1 + 0.2", "0.3"), ("1/3", "0.333333333333"), ("7 // 2", "3"), ("-7 % 3", "2"),
        ("2^10", "1024"),
        ("sqrt(16)", "4"), ("sqrt(2)", "1.41421356237"), ("-1/8", "-0.125"), ("factorial(5)", "120"), ("2 ** -2", "0.25"),
        ("max(1, 2.5, 2)", "2.5"), ("round(2.567, 2)", "2.57"), ("12 × 3 ÷ 4", "9"), ("cos(0)", "1"),
        ("10 ** 30", "1" + "0" * 30),
    ],
)  # fmt: skip
def test_calculator(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["1/0", "", "9**9**9", "__import__('os')", "x + 1", "'a' * 3", "True + 1", "factorial(10**6)", "(1).real", "sqrt(-1)",
     "1 if 2 else 3",
     "(" * 400 + "1", "max()", "1e999", "[1]", "round(1.5, 10**9)"],
)  # fmt: skip
def test_what_is_no_sum_fails_with_a_sentence(expression):
    with pytest.raises(ToolFailed, match=r"\w"):
        calculate(expression)


@given(st.integers(-999, 999), st.integers(-999, 999), st.sampled_from("+-*"))
def test_sums_are_pythons(a, b, sign):
    assert calculate(f"({a}) {sign} ({b})") == str(eval(f"({a}) {sign} ({b})"))


@given(st.text(max_size=40))
def test_no_text_breaks_the_calculator(text):
    with contextlib.suppress(ToolFailed):
        assert calculate(text)


def test_search_ranks_by_bm25():
    texts = ["the old garden of Nalo", "the garden garden garden", "roads and houses", "สวนเก่า ของเมือง"]
    search = Search((str(i), text) for i, text in enumerate(texts))
    assert [hit.document for hit in search.find("old garden")] == [0, 1]
    assert [hit.document for hit in search.find("เมือง")] == [3]
    assert search.answer("nothing here") == "nothing found" and search.answer("garden", 1) == "[1] 1: the garden garden garden"
    k1, b, mean = 1.2, 0.75, sum(len(t.split()) + 1 for t in texts[:3])
    mean = (mean + search._lengths[3]) / 4
    frequency, length = 3, 5
    score = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)) * frequency * (k1 + 1) / (frequency + k1 * (1 - b + b * length / mean))
    assert search.find("garden")[0].score == pytest.approx(score, abs=1e-6)
    with pytest.raises(ToolFailed):
        search.answer("?!")


def test_a_passage_begins_where_the_words_are():
    search = Search([("t", "first line\nNalo has a garden\nlast line")])
    assert search.find("garden")[0].passage == "Nalo has a garden last line"


def workbook():
    openpyxl = pytest.importorskip("openpyxl")
    book, content = openpyxl.Workbook(), io.BytesIO()
    book.active.append(["name", "pens"])
    book.active.append(["Ana", 3])
    book.active.append(["Leo", 4.5])
    book.save(content)
    return content.getvalue()


def pdf():
    """A one-page PDF that says Hello, its cross-references left to the reader to mend."""
    stream = b"BT /F1 12 Tf 20 20 Td (Hello 42) Tj ET"
    parts = [
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream), b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]  # fmt: skip
    body = b"".join(b"%d 0 obj%sendobj\n" % (i, part) for i, part in enumerate(parts, 1))
    return b"%PDF-1.4\n" + body + b"trailer<</Root 1 0 R/Size 6>>\nstartxref\n0\n%%EOF"


def test_files_of_each_kind():
    assert read_file("a.csv", b"name,pens\nAna,3\n") == read_file("a.tsv", b"name\tpens\nAna\t3") == "name | pens\nAna | 3"
    assert json.loads(read_file("a.json", b'{"a": [1]}')) == {"a": [1]}
    assert read_file("a.txt", "\ufeffgrün".encode()) == "grün" and read_file("a.md", b"caf\xe9") == "café"
    assert read_file("A.XLSX", workbook()) == "# Sheet\nname | pens\nAna | 3\nLeo | 4.5"
    assert table("a.xlsx", workbook())[1:] == [["Ana", "3"], ["Leo", "4.5"]]
    pytest.importorskip("pypdf")
    assert read_file("a.pdf", pdf()).strip() == "Hello 42"


def test_files_that_cannot_be_read(monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/workbook.xml", b" " * 1_000_000)
    for name, content in (("a.exe", b""), ("a", b""), ("a.json", b"{"), ("a.xlsx", b"PK"), ("a.pdf", b"%PDF"), ("a.xlsx", b"")):
        with pytest.raises(ToolFailed):
            read_file(name, content)
    monkeypatch.setattr(files, "MAX_UNPACKED", 500_000)
    with pytest.raises(ToolFailed, match="unpacks"):
        read_file("bomb.xlsx", archive.getvalue())
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    with pytest.raises(ToolFailed, match="limit"):
        read_file("a.txt", b"x" * 11)
    assert read_file("a.txt", b"0123456789", 4) == "0123\n[6 characters more]"


def test_a_workspace_uses_what_it_has():
    place = Workspace({"a.csv": b"x,y\n1,2"}, Search([("t", "a garden")]))
    assert place.use("calculator", {"expression": "1+1"}) == "2" and place.use("read_file", {"name": "a.csv"}) == "x | y\n1 | 2"
    assert "garden" in place.use("search", {"query": "garden"})
    for name, arguments in (("read_file", {"name": "b.csv"}), ("python", {"code": "1"}), ("calculator", {"expression": 3}),
                            ("calculator", {}), ("other", {"x": "1"})):  # fmt: skip
        with pytest.raises(ToolFailed):
            place.use(name, arguments)
    with pytest.raises(ToolFailed, match="no documents"):
        Workspace().use("search", {"query": "x"})
    assert all(
        misfit((name, {next(iter(tool["parameters"]["properties"])): "x"}), [tool]) is None for name, tool in TOOLS.items()
    )


SOURCE = '''
def area(width: float, height: float = 1.0, *, unit="cm", tags: list[str] = ()):
    """Area of a field.

    More words."""
    return width * height

def _hidden(a):
    """No."""

def bare(a):
    return a

def many(*args):
    """No."""

class Shape:
    def side(self):
        """No."""
'''


def test_functions_are_mined_with_their_types():
    (area,) = mine(SOURCE)
    assert area.description() == {
        "name": "area",
        "description": "Area of a field.",
        "parameters": {
            "type": "object",
            "properties": {"width": {"type": "number"}, "height": {"type": "number"}, "unit": {"type": "string"},
                           "tags": {"type": "array"}},
            "required": ["width"],
        },
    }  # fmt: skip
    place: dict = {}
    exec(area.source, place)
    assert place["area"](3.0, 2.0) == 6.0
    assert mine("def broken(:") == [] and mine("x = 1") == []


def test_functions_of_installed_modules_can_be_run(capsys):
    found = {signature.name: signature for signature in installed(["calendar", "textwrap"])}
    assert found["isleap"].source == "from calendar import isleap" and "shorten" not in found  # it takes **kwargs
    exec(found["isleap"].program({"year": 2024}), {})
    assert capsys.readouterr().out == "true\n"
    with pytest.raises(SystemExit):
        exec(mine('def nothing(a):\n    """Nothing."""')[0].program({"a": 1}), {})
    for name in ("no_such_module", "math", "os.path", "pydantic", "six"):
        with pytest.raises(InputError, match="no module of the standard library"):
            list(installed([name]))


ROWS = [["name", "pens", "town"], ["Ana", "3", "Nalo"], ["Leo", "4.5", "Oda"], ["Mia", "10", "Oda"]]


def test_questions_about_a_table_have_their_answers():
    found = [ask_table(ROWS, random.Random(seed), worked=True) for seed in range(30)]
    answers = {(q.template, q.answer) for q in found}
    assert {("ask_total", "17.5"), ("ask_mean", "5.83333333333")} <= answers and all(q.slots["column"] == "pens" for q in found)
    assert {a for t, a in answers if t == "ask_difference"} <= {"1.5", "7", "5.5"}
    cell = ask_table(ROWS, random.Random(1), worked=False)
    assert cell.answer == {"Ana": "3", "Leo": "4.5", "Mia": "10"}[cell.slots["row"]]


@pytest.mark.parametrize(
    "rows", [[], ROWS[:2], [["name", "x"], ["a", "b"], ["c", "d"]], [*ROWS, ["Ana", "1", "x"]], [*ROWS, ["Ida"]]]
)
def test_a_table_without_numbers_or_names_gives_no_question(rows):
    assert ask_table(rows, random.Random(0), worked=True) is None


def test_a_table_is_as_bounded_as_a_file(monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    with pytest.raises(ToolFailed, match="limit"):
        table("a.csv", b"a,b\n" * 3)


def test_a_small_file_that_claims_many_cells_is_refused():
    openpyxl = pytest.importorskip("openpyxl")
    book, written = openpyxl.Workbook(), io.BytesIO()
    for row in range(1, 80):
        book.active.cell(row=row, column=16_384, value=1)
    book.save(written)
    assert len(written.getvalue()) < 20_000
    with pytest.raises(ToolFailed, match="more than 1000000 cells"):
        table("wide.xlsx", written.getvalue())
