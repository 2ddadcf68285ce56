"""Extraction: furniture goes; lists, code, formulas and picture texts stay; markdown markers vanish, sums and names do not."""

from __future__ import annotations

import time

import pytest

from puna.data.extract import extract, remove_markdown
from puna.data.language import identify
from puna.data.pii import redact

PAGE = """<html><head><title>T</title><script>var x = 1;</script><style>p{}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/b">News of the day</a></li></ul></nav>
<div class="cookie-banner">We use cookies, accept?</div>
<main><h1>Sums &amp; differences</h1>
<p>Ana has 2 pens and buys 5 more of them. 2+5=7.</p>
<ul><li>34 + 5 = 39</li><li>12 - 4 = 8</li></ul>
<ol><li>short one</li></ol>
<pre>def f(x):
    if x:
        return x
</pre>
<table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></tr></table>
<p>Area <math alttext="\\pi r^2"><mi>r</mi></math> and <script type="math/tex">x_1</script> shown as
<img src="a.png" alt="a circle of radius r"></p></main>
<footer>All rights reserved</footer></body></html>"""


def lines_of(html: str, **options) -> list[str]:
    return [line for line in extract(html.encode(), "html", "", **options).text.split("\n") if line.strip()]


def test_main_content_with_lists_code_tables_and_formulas():
    lines = lines_of(PAGE)
    assert lines[:5] == [
        "Sums & differences",
        "Ana has 2 pens and buys 5 more of them. 2+5=7.",
        "34 + 5 = 39",
        "12 - 4 = 8",
        "short one",
    ]
    assert lines[5:8] == ["def f(x):", "    if x:", "        return x"]
    assert lines[8:10] == ["a\tb", "1\t2"]
    rest = " ".join(lines[10:])
    assert "$\\pi r^2$" in rest and "$x_1$" in rest and "a circle of radius r" in rest
    for furniture in ("Home", "cookies", "rights", "var x"):
        assert furniture not in "\n".join(lines)


def test_links_are_measured():
    found = extract(PAGE.encode(), "html", "")
    assert (found.links, found.link_chars) == (2, len("Home") + len("News of the day"))


@pytest.mark.parametrize(("content", "charset", "expected"), [
    ("<p>für alle Kinder</p>".encode("latin-1"), "iso-8859-1", "für alle Kinder"),
    ('<meta charset="windows-1251"><p>Привет всем, кто читает</p>'.encode("cp1251"), "", "Привет всем, кто читает"),
    ("<p>für alle</p>".encode(), "iso-8859-1", "für alle"),  # what is valid UTF-8 is UTF-8
    ("<p>日本語の文章です</p>".encode("shift_jis"), "shift_jis", "日本語の文章です"),
])  # fmt: skip
def test_character_sets(content, charset, expected):
    assert extract(content, "html", charset).text == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("# Title\nText", "Title\nText"),
    ("a **bold** and *slanted* word", "a bold and slanted word"),
    ("see [the docs](https://x.y/z) now", "see the docs now"),
    ("use `x = 1` here", "use x = 1 here"),
    ("```python\nx = 1\n```", "x = 1\n"),
    ("2**3**2 = 512 and 5*x*2", "2**3**2 = 512 and 5*x*2"),
    ("snake_case __init__.py a_b_c", "snake_case __init__.py a_b_c"),
    ("C# and F# are languages; #tag", "C# and F# are languages; #tag"),
    ("2 * 3 * 4", "2 * 3 * 4"),
])  # fmt: skip
def test_markdown_markers(text, expected):
    assert remove_markdown(text) == expected


def test_code_keeps_its_markers():
    code = "# comment\ndef f(**options):\n    return `x`"
    assert extract(code.encode(), "text", "", keep_markers=True).text == code


@pytest.mark.parametrize("html", ["", "<", "<html>", "<p>" * 3000, "<div" * 500, "\x00\xff<b", "<ul><li>" * 400, "<math>" * 50])
def test_odd_html_neither_fails_nor_hangs(html):
    assert isinstance(extract(html.encode(), "html", "").text, str)


TIRING = [
    "<math>",
    "<a ",
    "<a>",
    "<ul><li>",
    "<script type=math/tex>",
    " ",
    "\t ",
    "{",
    "{a}",
    "x",
    "f(",
    "a@",
    "__a ",
    "**a",
    "[a](",
]
TIRING += ["`", "1 ", "9", "0 1-", "DE89 ", "<annotation tex>", "&nbsp;", "\u0e01", "( ", "\n \n", "#"]


@pytest.mark.parametrize("unit", TIRING)
def test_no_page_takes_more_than_linear_time(unit):
    page = "<p>start</p>" + unit * (200_000 // len(unit)) + "end"
    for kind in ("html", "text"):
        started = time.process_time()
        text = extract(page.encode(), kind, "").text
        identify(text)
        redact(text)
        assert time.process_time() - started < 3, kind
