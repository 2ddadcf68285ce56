"""One HTML file for a whole run: no network, no script but the chart library it carries, laid out like the paper.

Figures are plotly specifications (plain dicts); the library itself is embedded once, so the file can be mailed.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"
INTERVAL = re.compile(r"(\S+) \((\S+ to \S+.*)\)")  # a value with its interval, as `percent` writes it
ABSENT = ("", "–", "not measured")


@dataclass
class Section:
    """One section of the report.

    `paper` names the section of the paper it answers to; `blocks` are HTML strings in order; `data` are the numbers behind them.
    """

    title: str
    paper: str
    blocks: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def text(self, words: str) -> None:
        self.blocks.append(f"<p>{html.escape(words)}</p>")

    def table(self, header: list[str], rows: list[list[Any]], caption: str = "") -> None:
        self.blocks.append(table(header, rows, caption))

    def heading(self, words: str) -> None:
        self.blocks.append(f"<h3>{html.escape(words)}</h3>")

    def figure(self, data: list[dict[str, Any]], layout: dict[str, Any], caption: str) -> None:
        self.blocks.append(figure(data, layout, caption))

    def listing(self, title: str, texts: list[str]) -> None:
        """A folded list of literal texts, such as dropped documents or answers."""
        self.folded(title, [f"<pre>{html.escape(text)}</pre>" for text in texts])

    def folded(self, title: str, blocks: list[str], *, note: str = "", opened: bool = False) -> None:
        """Blocks of HTML behind a line that opens them; a figure in there is drawn when it is first seen."""
        small = f" <small>{html.escape(note)}</small>" if note else ""
        state = " open" if opened else ""
        self.blocks.append(f"<details{state}><summary>{html.escape(title)}{small}</summary>{''.join(blocks)}</details>")


def table(header: list[str], rows: list[list[Any]], caption: str = "") -> str:
    """An HTML table; numbers are right-aligned, an interval stands under its value, every cell is escaped."""
    cls = [' class="n"' * _numeric([row[i] for row in rows]) for i in range(len(header))]
    head = "".join(f"<th{c} scope='col'>{html.escape(h)}</th>" for h, c in zip(header, cls, strict=True))
    body = "".join("<tr>" + "".join(f"<td{c}>{_cell(v)}</td>" for v, c in zip(row, cls, strict=True)) + "</tr>" for row in rows)
    note = f"<p class='dim'>{html.escape(caption)}</p>" if caption else ""
    return f"<div class='wide' tabindex='0'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"


def _cell(value: Any) -> str:
    found = INTERVAL.fullmatch(str(value))
    if found is None:
        return html.escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    return f"{html.escape(found[1])} <small>{html.escape(found[2])}</small>"


def _numeric(column: list[Any]) -> bool:
    """Whether a column holds numbers, some of which may be absent."""
    there = [value for value in column if str(value) not in ABSENT]
    return bool(there) and all(isinstance(value, (int, float)) or _looks_numeric(value) for value in there)


def figure(data: list[dict[str, Any]], layout: dict[str, Any], caption: str) -> str:
    """A chart: its specification travels beside it as JSON and is drawn when the page opens."""
    spec = json.dumps({"data": data, "layout": layout}).replace("</", "<\\/")
    label = html.escape(caption, quote=True)
    return (
        f"<figure><div class='figure'><div class='legend'></div><div class='plot' role='img' aria-label='{label}'></div></div>"
        f"<script type='application/json'>{spec}</script>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def page(title: str, subtitle: str, opening: list[str], sections: list[Section]) -> str:
    """The whole report as one HTML document; `opening` are HTML blocks that stand before its sections."""
    from plotly.offline import get_plotlyjs

    links = "".join(f"<a href='#s{i}'>{html.escape(s.title)}</a>" for i, s in enumerate(sections, 1))
    body = "".join(
        f"<section id='s{i}'><h2>{i}. {html.escape(s.title)} <small>paper section {html.escape(s.paper)}</small></h2>"
        f"{''.join(s.blocks)}</section>"
        for i, s in enumerate(sections, 1)
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{(STATIC / 'report.css').read_text()}</style></head><body><main>"
        f"<h1>{html.escape(title)} <small>{html.escape(subtitle)}</small></h1>{''.join(opening)}<nav>{links}</nav>{body}</main>"
        f"<script>{get_plotlyjs()}</script><script>{(STATIC / 'report.js').read_text()}</script></body></html>"
    )


def _looks_numeric(value: Any) -> bool:
    text = str(value).strip().lstrip("+-−±")
    return bool(text) and text[0].isdigit()
