"""Pages read without a parser: the same nodes and the same text as with it, or refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from resiliparse.parse.html import HTMLTree

from puna.data.html_bounds import bounded
from puna.data.html_nested import serialised
from puna.data.html_nodes import IMAGE, TEXT, read_nodes
from puna.data.html_text import text_of_html

BLOCKS = tuple("p p p div div span b i a ul li li ol dl dt dd h1 h2 pre code section article nav address label form".split())  # noqa: SIM905
TABLES = ("table", "table", "thead", "tbody", "tr", "tr", "td", "td", "th", "caption", "colgroup")
RARE = ("button", "ruby", "rt", "noscript", "object", "select", "em", "font", "center", "x-y", "listing", "tt", "main", "details")
EMPTY = ("br", "img", "hr", "input", "area", "col", "wbr")
ENDLESS = ("p", "li", "dd", "dt", "td", "th", "tr", "tbody", "rt")  # an end tag may be missing
ATTRIBUTES = (
    "", ' class="nav foot"', " id=main", " hidden", ' style="display: none"', ' alt="a &amp; b"', " href=/x/y?a=1&b=2",
    " class='a' id=\"b\"", " class=sidebar class=main", " alt=one alt=two", ' role="main"', " checked/",
    ' alt="x&quot;y" title="a>b"', " CLASS=sidebar", " alt=caf&eacute;",
)  # fmt: skip
TEXTS = (
    "word ", "  ", "\n", "some text, here", "a & b", "&amp;", "&lt;x&gt;", "&eacute;", "&#8217;", "&#x41;", "&nbsp;", "x < y",
    "a > b", "&bogus;", "&copy", "&#65", "é漢字", "\u00a0", "&notin;", "\r\n", "&NotEqualTilde;", "&", "1 &lt",
    "&quot;", "&#34;", "&#10;", '"q"',
)  # fmt: skip


def nodes(page: bytes) -> list[list]:
    """Kinds, sections, parents, ends, flags, and the words of every text."""
    kind, section, parent, last, start, end, flags = read_nodes(np.frombuffer(page, dtype=np.uint8))
    texts = [
        page[first:stop].split() if what in (TEXT, IMAGE) else [] for what, first, stop in zip(kind, start, end, strict=True)
    ]
    return [kind.tolist(), section.tolist(), parent.tolist(), last.tolist(), flags.tolist(), texts]


def outcome(page: str) -> bool:
    """Whether a page is read without a parser; then the parser must agree."""
    kept, signs = bounded(page.encode())
    ours = None if signs else serialised(kept)
    if ours is None:
        return False
    theirs = HTMLTree.parse(kept.decode()).body.html.encode()
    assert nodes(ours) == nodes(theirs), (page, ours, theirs)
    assert text_of_html(ours) == text_of_html(theirs), page
    return True


def generated(random: random.Random) -> str:
    """A page of random tags, mostly closed in order, with what authors forget and some disorder."""
    names = (BLOCKS, BLOCKS + TABLES, BLOCKS + TABLES + RARE + EMPTY)[random.randrange(3)]
    disorder = random.choice((0.0, 0.0, 0.05))
    parts = [random.choice(("<!doctype html>", "")), "<html><head><title>t</title></head>", f"<body{random.choice(ATTRIBUTES)}>"]
    stack: list[str] = []
    for _ in range(random.randint(1, 30)):
        chance = random.random()
        if chance < 0.4:
            parts.append(random.choice(TEXTS))
        elif chance < 0.7:
            name = random.choice(names)
            written = name.upper() if random.random() < 0.1 else name
            parts.append(f"<{written}{random.choice(ATTRIBUTES) if random.random() < 0.4 else ''}>")
            stack += [] if name in EMPTY else [name]
        elif random.random() < disorder:
            parts.append(f"</{random.choice(names)}>")
        elif stack:
            name = stack.pop()
            parts.append("" if name in ENDLESS and random.random() < 0.3 else f"</{name}>")
    parts += [f"</{name}>" for name in reversed(stack)] if random.random() < 0.8 else []
    return "".join([*parts, random.choice(("</body></html>", "</body>", "", "\n</body>\n</html>\n", "</html>"))])


def test_random_pages_are_read_as_the_parser_reads_them_or_refused():
    source = random.Random(20261124)
    read = sum(outcome(generated(source)) for _ in range(6000))
    assert 800 < read < 5000


@pytest.mark.parametrize("body", [
    "<p>one<p>two<ul><li>a<li>b<p>c</ul>d",
    "<dl><dt>a<dd>b<p>c<dt>d</dl>",
    "<table><tr><td>a<td>b<tr><th>c</table>",
    "<table><caption>x</caption><col><col><thead><tr><th>a</thead><tbody><tr><td>b<p>c</tr></table>",
    "<table>\n<tr> <td> a </td> </tr>\n</table>",
    "text</p>more",
    "<pre>\n  first line\n</pre>",
    "a &amp; b &hellip; &#x1F600; &rsquo; AT & T &",
    '<img alt="a &lt; b" src=x><br/><hr><a href="?a=1&b=2">x</a>',
    "<div><b>bold</b> <i>x</i></div>",
    "<iframe></iframe><textarea></textarea>after",
])  # fmt: skip
def test_what_authors_leave_out_is_read_without_a_parser(body):
    assert outcome(f"<!doctype html><html><head><meta charset=utf-8></head><body>{body}</body></html>")


@pytest.mark.parametrize("body", [
    "<b>a<p>b</b>c</p>",  # misnested formatting is adopted
    "<p><b>a<div>b</div>",  # a block inside formatting inside a paragraph
    "<a href=1>x<a href=2>y</a>",
    "<table>text<tr><td>x</table>",  # text is moved before the table
    "<p><table></table>",  # depends on the doctype
    "<h1>a<h2>b</h2></h1>",
    "<li><div>a<li>b",
    "&copy 2020 &notit; ",
    "&#128; &#0;",
    "<select><option>a<div>b</div></select>",
    "<template><p>x</template>",
    "<p>unclosed <span>x</p>",
    "<div",
    "<title>never ended",
    "<div>a</body>b",
    "x<p",
    "x<a",
    "x</p",
    "<table><colgroup></p></colgroup></table>",
    "<pre>&#10;</pre>",
])  # fmt: skip
def test_what_takes_repair_is_left_to_the_parser(body):
    assert not outcome(f"<!doctype html><html><head></head><body>{body}")


@pytest.mark.parametrize(
    "page",
    [
        "",
        "plain text",
        "<p>no body",
        "<html><head>x</head><body>y",
        "<html><head><p>x</head><body>",
        "<html><head></head><noscript><link></noscript><body>x",
    ],
)
def test_a_page_without_a_plain_head_and_a_body_is_left_to_the_parser(page):
    assert not outcome(page)


def test_depth_and_length_are_bounded():
    deep = "<div>" * 5000 + "x"
    assert not outcome(f"<html><body>{deep}")
    assert outcome(f"<html><body>{'<p>&amp;' * 20000}")
    assert not outcome("<html><body>" + ">" * 100000)  # five times as long when escaped


@pytest.mark.parametrize("body", [
    "<p>line of text<br/>more<br/>again<hr/></p>\n" * 3000,
    '<p id=""id=""class=""class="">' * 3000,
    "<div>" + "<dd><li>" * 195 + ">" * 1706 + "</div>",
    ">" * 1255 + "<p" + " hidden" * 48 + ">",
    "<br/>" * 1000,
])  # fmt: skip
def test_nothing_is_written_behind_the_buffers(body):
    """The kernels do not check bounds, so a zone behind the buffers tells."""
    from puna.data import html_bounds, html_nested

    page = np.frombuffer(f"<html><head></head><body>{body}</body></html>".encode(), dtype=np.uint8)
    guard, room = 4096, 2 * len(page) + 64
    out = np.full(room + guard, 7, dtype=np.uint8)
    slots = np.zeros(html_bounds.SLOTS, np.int64)
    size, _ = html_bounds._rewrite(page, out[:room], html_bounds.KEYS, html_bounds.CODES, slots)
    assert size <= room and (out[room:] == 7).all()
    kept = out[:size].copy()
    room = 2 * len(kept) + 8 * html_nested.ROOM
    out = np.full(room + guard, 7, dtype=np.uint8)
    depth = html_nested.MAX_DEPTH
    state, keys, kinds = np.zeros(html_nested.STATE, np.int64), np.zeros(depth, np.uint64), np.zeros(depth, np.int64)
    html_nested._serialise(kept, out[:room], state, keys, kinds)
    assert (out[room:] == 7).all()
