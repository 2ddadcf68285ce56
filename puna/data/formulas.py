"""Formulas of a page as TeX: MathML, MathJax, KaTeX and pictures of formulas (paper section 3.1.1 keeps the structure of maths).

Most pages carry the TeX they were made from: in an annotation, in `alttext`, in a script, in the `alt` of a picture. Where none
is there, presentation MathML is written as TeX, sign by sign. A formula replaces what a browser would show in its place, so
that no rendering of it is left beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from puna.data.html_bounds import MATH_SIGN, PICTURE_SIGN, RENDERED_SIGN, SCRIPT_SIGN

FORMULA_TAG = "puna-formula"  # what a formula becomes in the tree
MAX_FORMULAS = 20_000  # of a page
MAX_DEPTH = 60  # of nested MathML

RENDERED = ".mwe-math-element, .katex, mjx-container, .MathJax, .MathJax_SVG, .MathJax_CHTML, .MathJax_Display, .MathJax_Preview"
PICTURES = "img.tex, img.latex, img.math, img.mwe-math-fallback-image-inline, img.mwe-math-fallback-image-display"
DISPLAY_STYLE = re.compile(r"^\{\\(?:display|text)style\s*(.*)\}$", re.S)
INVISIBLE = re.compile("[\u2061-\u2064\u200b\ufeff]")
SPACED = frozenset("=<>≤≥≠≈≡∼≅+−-±×÷⋅·∈∉⊂⊆∪∩∧∨→←↔⇒⇔↦∣:")
SCRIPT_KINDS = {"msup": "^", "mover": "^", "msub": "_", "munder": "_"}


def replace_formulas(tree: Any, signs: int) -> None:
    """Replace every formula of a page by an element `puna-formula` that holds its TeX between dollar signs.

    Args:
        tree: a resiliparse HTMLTree, changed in place.
        signs: what `puna.data.html_bounds.bounded` saw in the page, so that the tree is not asked for what it has not.
    """
    body = tree.body
    found = body.query_selector_all("script")[:MAX_FORMULAS] if signs & SCRIPT_SIGN else []
    scripts = [node for node in found if _is_formula_script(node)]
    for node in scripts:
        _replace(tree, node, *_of_script(node))
    for node in _outermost(body, RENDERED) if signs & RENDERED_SIGN else ():
        if scripts and "MathJax" in (node.class_name or ""):
            node.remove()  # the script beside it was the source
        else:
            _replace_rendered(tree, node)
    for node in _outermost(body, "math") if signs & MATH_SIGN else ():
        _replace(tree, node, *_of_math(node))
    for node in _outermost(body, PICTURES) if signs & PICTURE_SIGN else ():
        if node.get_attribute("alt"):
            _replace(tree, node, _bare(node.get_attribute("alt")), "display" in (node.class_name or ""))


def _outermost(body: Any, selector: str) -> Iterator[Any]:
    """The matching elements that lie in no other one; the list is in document order, so what lies inside follows at once."""
    inside = 0
    for node in body.query_selector_all(selector)[:MAX_FORMULAS]:
        if inside:
            inside -= 1
            continue
        inside = len(node.query_selector_all(selector))
        yield node


def _replace_rendered(tree: Any, node: Any) -> None:
    """Replace a rendering by the MathML or picture text inside it; without either it stays."""
    math = node.query_selector("math")
    if math is not None:
        tex, display = _of_math(math)
        above = node.parent_element
        names = f"{node.class_name or ''} {(above.class_name or '') if above else ''}"
        wide = node.get_attribute("display") == "true" or "katex-display" in names or "MathJax_Display" in names
        _replace(tree, node, tex, display or wide)
        return
    picture = node.query_selector("img[alt]")
    if picture is not None:
        _replace(tree, node, _bare(picture.get_attribute("alt")), False)


def _replace(tree: Any, node: Any, tex: str, display: bool) -> None:
    signs = "$$" if display else "$"
    formula = tree.create_element(FORMULA_TAG)
    formula.append_child(tree.create_text_node(f"{signs}{tex}{signs}" if tex else ""))
    node.replace_with(formula)


def _is_formula_script(node: Any) -> bool:
    return (node.get_attribute("type") or "").lower().strip().startswith("math/")


def _of_script(node: Any) -> tuple[str, bool]:
    kind, text = (node.get_attribute("type") or "").lower(), node.text or ""
    if "mml" in kind:
        from resiliparse.parse.html import HTMLTree

        body = HTMLTree.parse(text).body
        math = body.query_selector("math") if body is not None else None
        return _of_math(math) if math is not None else ("", False)
    return _bare(text.replace("% <![CDATA[", "").replace("%]]>", "")), "display" in kind


def _of_math(math: Any) -> tuple[str, bool]:
    """TeX of a `math` element, and whether it stands on a line of its own."""
    display = math.get_attribute("display") == "block" or math.get_attribute("mode") == "display"
    for note in math.query_selector_all("annotation")[:]:
        if "tex" in (note.get_attribute("encoding") or "").lower() and (note.text or "").strip():
            return _bare(note.text), display
    for name in ("alttext", "data-latex"):
        if (math.get_attribute(name) or "").strip():
            return _bare(math.get_attribute(name)), display
    return " ".join(_written(math, 0).split()), display


def _bare(tex: str) -> str:
    """TeX without the signs and the style that say it is a formula."""
    tex = tex.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if tex.startswith(opening) and tex.endswith(closing) and len(tex) > len(opening) + len(closing):
            tex = tex[len(opening) : -len(closing)].strip()
    styled = DISPLAY_STYLE.match(tex)
    return styled[1].strip() if styled else tex


def _written(node: Any, depth: int) -> str:
    """TeX of an element of presentation MathML."""
    name, parts = node.tag or "", node.children[:] if depth < MAX_DEPTH else []
    if name in ("annotation", "annotation-xml", "mphantom", "mprescripts", "none"):
        return ""
    if not parts:
        return _sign(name, INVISIBLE.sub("", node.text or "").strip())
    inner = [_written(part, depth + 1) for part in parts]
    return _arranged(name, inner, node)


def _sign(name: str, text: str) -> str:
    if name == "mo":
        return f" {text} " if text in SPACED else f"{text} " if text in (",", ";") else text
    if name == "mspace":
        return " "
    return f"\\text{{{text}}}" if name == "mtext" and len(text) > 1 else text


def _arranged(name: str, inner: list[str], node: Any) -> str:
    joined = "".join(inner)
    if name == "mfrac" and len(inner) == 2:
        return f"\\frac{{{inner[0].strip()}}}{{{inner[1].strip()}}}"
    if name == "msqrt":
        return f"\\sqrt{{{joined.strip()}}}"
    if name == "mroot" and len(inner) == 2:
        return f"\\sqrt[{inner[1].strip()}]{{{inner[0].strip()}}}"
    if name in SCRIPT_KINDS and len(inner) == 2:
        return f"{inner[0].strip()}{SCRIPT_KINDS[name]}{_group(inner[1])}"
    if name in ("msubsup", "munderover") and len(inner) == 3:
        return f"{inner[0].strip()}_{_group(inner[1])}^{_group(inner[2])}"
    if name == "mfenced":
        opening, closing = (node.get_attribute(key) for key in ("open", "close"))
        return f"{'(' if opening is None else opening}{', '.join(inner)}{')' if closing is None else closing}"
    if name == "mtable":
        return "\\begin{matrix} " + r" \\ ".join(inner) + " \\end{matrix}"
    if name in ("mtr", "mlabeledtr"):
        return " & ".join(part.strip() for part in inner)
    return joined


def _group(text: str) -> str:
    text = text.strip()
    return text if len(text) == 1 else f"{{{text}}}"
