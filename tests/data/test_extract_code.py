"""Code, tables and pictures: what is verbatim stays verbatim, columns stay apart, descriptions stay."""

from __future__ import annotations

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.data.extract import extract, extract_batch

PROSE = "The function below is explained in this paragraph, which is long enough to be content, as one can see. "
CODE = "def f(x, **kw):\n    # a *comment*\n    if x < 1 and kw:\n\n\n        return `x`, __name__\n\tpass"


def text_of(fragment: str, **options) -> str:
    return extract(f"<body><p>{PROSE}</p>{fragment}<p>{PROSE}</p></body>".encode(), "html", "utf-8", **options).text


def between(fragment: str) -> str:
    return text_of(fragment).removeprefix(PROSE.strip()).removesuffix(PROSE.strip()).strip("\n")


def spans(code: str) -> str:
    """Each word in a span of its own, as highlighters write it."""
    return "".join(f"<span class='k'>{html.escape(word)}</span>" for word in __import__("re").split(r"(\s+|\W)", code))


ROWS = CODE.split("\n")
PYGMENTS = (
    "<div class='highlight'><table class='highlighttable'><tr><td class='linenos'><div class='linenodiv'><pre>"
    + "\n".join(str(i + 1) for i in range(len(ROWS)))
    + f"</pre></div></td><td class='code'><div class='highlight'><pre>{spans(CODE)}\n</pre></div></td></tr></table></div>"
)
GITHUB = "<table>" + "".join(
    f"<tr><td class='blob-num' data-line-number='{i}'></td><td class='blob-code blob-code-inner'>{html.escape(row)}</td></tr>"
    for i, row in enumerate(ROWS)
) + "</table>"  # fmt: skip
NUMBERED = "<pre>" + "\n".join(f"<span class='lineno'>{i}</span>{html.escape(row)}" for i, row in enumerate(ROWS)) + "</pre>"
DIVS = (
    "<div class='syntaxhighlighter'><table><tr><td class='gutter'>"
    + "".join(f"<div class='line'>{i}</div>" for i in range(len(ROWS)))
    + "</td><td class='code'><div class='container'>"
    + "".join(
        "<div class='line'><code>" + html.escape(row).replace("    ", "&nbsp;" * 4).replace("\t", "&nbsp;" * 4) + "</code></div>"
        for row in ROWS
        if row
    )
    + "</div></td></tr></table></div>"
)


@pytest.mark.parametrize("fragment", [
    f"<pre>{html.escape(CODE)}</pre>",
    f"<pre>\n{html.escape(CODE)}\n</pre>",
    f"<pre><code class='language-python'>{html.escape(CODE)}\n</code></pre>",
    f"<div class='highlight'><pre>{spans(CODE)}</pre></div>",
    PYGMENTS,
    NUMBERED,
])  # fmt: skip
def test_code_is_verbatim_whatever_highlights_it(fragment):
    assert between(fragment) == CODE


def test_code_by_table_rows_and_by_lines_of_divs_keeps_its_indentation():
    kept = [row for row in ROWS if row]
    assert [row for row in between(GITHUB).split("\n") if row.strip()] == kept
    lines = [row for row in between(DIVS).split("\n") if row.strip()]
    assert lines == [row.replace("\t", "    ") for row in kept]


def test_inline_code_keeps_signs_that_prose_loses():
    assert between("<p>Use <code>**kw</code> and <kbd>*args</kbd>, **not** [this](http://a.b/c).</p>") == "Use **kw and *args, not this."


@given(st.text(st.sampled_from("ab <>&*_`#[](){}\"'\n\t=äπ日"), max_size=80))
@settings(max_examples=80, deadline=None)
def test_any_code_comes_out_as_it_went_in(code):
    lines = [line.rstrip() for line in code.strip("\n").split("\n")]
    if not code.strip():
        return
    while not lines[0]:
        lines.pop(0)
    while not lines[-1]:
        lines.pop()
    assert between(f"<pre>{html.escape('x' + chr(10) + code)}</pre>").split("\n")[-len(lines) :] == lines


def test_tables_keep_their_columns():
    table = "<table><tr><th></th><th>Mass</th><th>Radius</th></tr><tr><td>Earth</td><td><p>1</p></td><td>1<br>(mean)</td></tr>"
    table += "<tr><td>Moon</td><td></td><td>0.27</td></tr></table>"
    assert between(table).split("\n") == ["\tMass\tRadius", "Earth\t1\t1 (mean)", "Moon\t\t0.27"]


def test_a_table_inside_a_table_is_layout_outside_and_data_inside():
    inner = "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>"
    rows = between(f"<table><tr><td><p>{PROSE}</p><p>Second.</p></td><td>{inner}</td></tr></table>").split("\n")
    assert [row for row in rows if row] == [PROSE.strip(), "Second.", "a\tb", "c\td"]


def test_picture_texts_and_entities():
    assert between("<p>See <img src=a.png alt='a &quot;red&quot; circle &amp; more'> here.</p>") == 'See a "red" circle & more here.'
    assert between("<p>Seen <img src=a.png alt='IMG_0042.JPG'> here.</p>") == "Seen here."
    assert between("<p>&eacute;&#8364;&nbsp;&lt;b&gt; &amp;amp; a&shy;b</p>") == "é€ <b> &amp; ab"


def test_markers_stay_where_the_group_is_code():
    fragment = "<p>Write **kw** and # more.</p>"
    assert "**kw**" in text_of(fragment, keep_markers=True) and "**kw**" not in text_of(fragment)


def test_furniture_by_class_role_and_style_goes_and_comments_with_it():
    furniture = {
        "<div class='share-buttons'>Share this on every network you know</div>": "Share",
        "<div role='navigation'><a href=/>Start</a> <a href=/b>Other pages</a></div>": "Start",
        "<div style='display: none'>Hidden words of no use</div>": "Hidden",
        "<div id='comments'><p>First comment, which says nothing at all about it.</p></div>": "First comment",
        "<h2>Related articles</h2><ul class='related'><li><a href=/1>One</a></li><li><a href=/2>Two</a></li></ul>": "Related",
        "<ul><li><a href=/1>One link</a></li><li><a href=/2>Two links</a></li></ul>": "Two links",
    }
    for markup, word in furniture.items():
        text = extract(f"<body><main><p>{PROSE * 8}</p><p>{PROSE * 3}</p>{markup}</main></body>".encode(), "html", "").text
        assert word not in text and text.count(PROSE.strip()) == 11, markup


def test_a_page_whose_words_all_sound_like_furniture_is_still_read():
    page = f"<body class='sidebar'><div class='comment menu'><p>{PROSE}</p><div class='footer'><p>{PROSE}</p></div></div></body>"
    assert extract(page.encode(), "html", "").text.count("explained") == 2


def test_a_batch_is_its_pages_one_by_one():
    contents = [f"<p>{PROSE}<a href=/>link</a></p>".encode(), b"plain **text**", b"", "für".encode("latin-1")]
    formats, charsets, groups = ["html", "text", "html", "text"], ["", "utf-8", "", "iso-8859-1"], ["general", "code", "", ""]
    table = extract_batch(contents, formats, charsets, groups)
    rows = [extract(c, f, s, keep_markers=g == "code") for c, f, s, g in zip(contents, formats, charsets, groups, strict=True)]
    assert table.column_names == ["text", "links", "link_chars", "seen_chars"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [(r.text, r.links, r.link_chars, r.seen_chars) for r in rows]
    assert table["text"].to_pylist()[1:] == ["plain **text**", "", "für"] and table["links"].to_pylist() == [1, 0, 0, 0]
