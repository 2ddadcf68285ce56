"""Formulas of every markup come out as TeX, once, and nothing of them is lost."""

from __future__ import annotations

import pytest

from puna.data.extract import extract

TEXT = "This paragraph is long enough to be taken for the content of the page, whatever surrounds it. "


def text_of(fragment: str) -> str:
    return extract(f"<body><p>{TEXT}</p><p>Let {fragment} be given.</p><p>{TEXT}</p></body>".encode(), "html", "utf-8").text


def line_of(fragment: str) -> str:
    return text_of(fragment).removeprefix(TEXT.strip()).removesuffix(TEXT.strip()).strip()


MML = "<math xmlns='http://www.w3.org/1998/Math/MathML'{}>{}</math>"
FRACTION = "<mfrac><mrow><mi>a</mi><mo>+</mo><mn>1</mn></mrow><mi>b</mi></mfrac>"
ANNOTATED = f"<semantics><mrow>{FRACTION}</mrow><annotation encoding='application/x-tex'>\\frac{{a+1}}{{b}}</annotation></semantics>"
KATEX = (
    f"<span class='katex'><span class='katex-mathml'>{MML.format('', ANNOTATED)}</span>"
    "<span class='katex-html' aria-hidden='true'><span class='base'><span class='mord'>a+1b</span></span></span></span>"
)
MATHJAX2 = (
    "<span class='MathJax_Preview'>[x]</span><span class='MathJax' id='MathJax-Element-1-Frame'><nobr><span>x2</span></nobr></span>"
    "<script type='math/tex' id='MathJax-Element-1'>x_1 < y^2 & z</script>"
)
MATHJAX3 = (
    "<mjx-container class='MathJax' jax='CHTML' display='true'><mjx-math aria-hidden='true'><mjx-mi>x</mjx-mi></mjx-math>"
    f"<mjx-assistive-mml display='block'>{MML.format('', FRACTION)}</mjx-assistive-mml></mjx-container>"
)
WIKIPEDIA = (
    "<span class='mwe-math-element'><span class='mwe-math-mathml-inline' style='display: none;'>"
    + MML.format(" alttext='{\\displaystyle E=mc^{2}}'", "<semantics><mrow><mi>E</mi></mrow>"
    "<annotation encoding='application/x-tex'>{\\displaystyle E=mc^{2}}</annotation></semantics>")
    + "</span><img src='x.svg' class='mwe-math-fallback-image-inline' alt='{\\displaystyle E=mc^{2}}'></span>"
)  # fmt: skip


@pytest.mark.parametrize(("fragment", "expected"), [
    (MML.format("", ANNOTATED), r"$\frac{a+1}{b}$"),
    (MML.format(" display='block'", ANNOTATED), r"$$\frac{a+1}{b}$$"),
    (MML.format(r" alttext='\pi r^2'", "<mi>r</mi>"), r"$\pi r^2$"),
    (MML.format("", FRACTION), r"$\frac{a + 1}{b}$"),
    (KATEX, r"$\frac{a+1}{b}$"),
    (f"<span class='katex-display'>{KATEX}</span>", r"$$\frac{a+1}{b}$$"),
    (MATHJAX2, "$x_1 < y^2 & z$"),
    ("<script type='math/tex; mode=display'>x_1</script>", "$$x_1$$"),
    ("<script type=math/mml><math><msup><mi>x</mi><mn>2</mn></msup></math></script>", "$x^2$"),
    (MATHJAX3, r"$$\frac{a + 1}{b}$$"),
    (WIKIPEDIA, "$E=mc^{2}$"),
    ("<img class='latex' alt='\\sqrt{2}' src='a.png'>", r"$\sqrt{2}$"),
    ("<span class='math'>\\(a *b* c_1\\)</span>", r"\(a *b* c_1\)"),
    ("<span class='math-container'>$x_1*y*z$</span>", "$x_1*y*z$"),
    ("\\[ \\sum_{i=1}^n i \\]", r"\[ \sum_{i=1}^n i \]"),
])  # fmt: skip
def test_markups(fragment, expected):
    assert line_of(fragment) == f"Let {expected} be given."


@pytest.mark.parametrize(("inner", "expected"), [
    ("<msub><mi>x</mi><mi>i</mi></msub>", "x_i"),
    ("<msup><mi>e</mi><mrow><mi>i</mi><mi>π</mi></mrow></msup>", "e^{iπ}"),
    ("<msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup>", "x_1^2"),
    ("<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover><mi>i</mi>", "∑_{i = 1}^ni"),
    ("<msqrt><mn>2</mn></msqrt>", r"\sqrt{2}"),
    ("<mroot><mi>x</mi><mn>3</mn></mroot>", r"\sqrt[3]{x}"),
    ("<mfenced><mi>a</mi><mi>b</mi></mfenced>", "(a, b)"),
    ("<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd><mtd><mn>1</mn></mtd></mtr></mtable>",
     r"\begin{matrix} 1 & 0 \\ 0 & 1 \end{matrix}"),
    ("<mi>a</mi><mo>≤</mo><mi>b</mi><mtext>if so</mtext>", r"a ≤ b\text{if so}"),
    ("<mi>f</mi><mo>&#x2061;</mo><mo>(</mo><mi>x</mi><mo>)</mo>", "f(x)"),
    ("<mstyle><mi>x</mi><mphantom><mi>y</mi></mphantom></mstyle>", "x"),
])  # fmt: skip
def test_presentation_mathml_is_written_as_tex(inner, expected):
    assert line_of(MML.format("", inner)) == f"Let ${expected}$ be given."


def test_many_formulas_of_one_page_stay_in_order():
    body = "".join(f"<p>Number {i} is {MML.format('', f'<msup><mi>x</mi><mn>{i}</mn></msup>')} here, as anyone can see.</p>" for i in range(50))
    text = extract(f"<body>{body}</body>".encode(), "html", "").text
    found = [line for line in text.split("\n") if line]
    assert found == [f"Number {i} is $x^{i if i < 10 else '{' + str(i) + '}'}$ here, as anyone can see." for i in range(50)]
