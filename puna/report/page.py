"""One HTML file for a whole run: no network, no script but the chart library it carries, laid out like the paper.

Figures are plotly specifications (plain dicts); the library itself is embedded once, so the file can be mailed.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from typing import Any

STYLE = """
:root { --fg:#1d2126; --dim:#626b76; --bg:#fbfaf7; --card:#fff; --line:#e3e0d8; --accent:#a8741a; --good:#2f7d5b; --bad:#b03a2e; }
@media (prefers-color-scheme: dark) { :root { --fg:#e8e6e1; --dim:#9aa2ad; --bg:#16181b; --card:#1f2226; --line:#33373d;
  --accent:#d9a441; --good:#6fc39a; --bad:#e57f73; } }
* { box-sizing:border-box; } body { margin:0; background:var(--bg); color:var(--fg); font:16px/1.6 system-ui,sans-serif; }
main { max-width:62rem; margin:0 auto; padding:1.5rem 1rem 4rem; } h1 { font-size:1.9rem; line-height:1.2; margin:.5rem 0; }
h2 { margin:2.5rem 0 .25rem; font-size:1.35rem; } h2 small, .dim { color:var(--dim); font-weight:400; font-size:.85rem; }
table { border-collapse:collapse; width:100%; font-size:.9rem; margin:.75rem 0; } .wide { overflow-x:auto; }
th,td { text-align:left; padding:.3rem .6rem; border-bottom:1px solid var(--line); } td.n,th.n { text-align:right;
  font-variant-numeric:tabular-nums; } th { color:var(--dim); font-weight:600; } .figure { background:var(--card);
  border:1px solid var(--line); border-radius:.5rem; padding:.5rem; margin:.75rem 0; min-height:300px; }
.good { color:var(--good); } .bad { color:var(--bad); } nav a { margin-right:1rem; } a { color:var(--accent); }
pre { white-space:pre-wrap; overflow-wrap:anywhere; background:var(--card); border:1px solid var(--line);
  border-radius:.5rem; padding:.6rem; font-size:.85rem; } figcaption { color:var(--dim); font-size:.85rem; }
details { margin:.5rem 0; } summary { cursor:pointer; color:var(--accent); } h3 { margin:1.75rem 0 .25rem; font-size:1.05rem; }
summary small { color:var(--dim); font-size:.85rem; } td.text { overflow-wrap:anywhere; min-width:14rem; }
"""

SCRIPT = """
const css = n => getComputedStyle(document.documentElement).getPropertyValue(n).trim();
const draw = el => {
  const f = JSON.parse(el.nextElementSibling.textContent), axis = { gridcolor: css('--line'), zeroline: false, automargin: true };
  f.layout = Object.assign({ paper_bgcolor: 'transparent', plot_bgcolor: 'transparent', font: { color: css('--fg') },
    margin: { l: 50, r: 20, t: 40, b: 45 }, xaxis: {}, yaxis: {} }, f.layout);
  for (const k of Object.keys(f.layout).filter(k => /^[xy]axis/.test(k))) f.layout[k] = Object.assign({}, axis, f.layout[k]);
  el.dataset.drawn = 1;
  Plotly.newPlot(el, f.data, f.layout, { displayModeBar: false, responsive: true });
};
const shown = el => !el.dataset.drawn && !el.closest('details:not([open])');
const all = root => [...root.querySelectorAll('.figure')].filter(shown).forEach(draw);
all(document);
for (const fold of document.querySelectorAll('details')) fold.addEventListener('toggle', () => fold.open && all(fold));
addEventListener('beforeprint', () => all(document));
"""


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
    """An HTML table; numbers are right-aligned, every cell is escaped."""
    numeric = [
        bool(rows) and all(isinstance(row[i], (int, float)) or _looks_numeric(row[i]) for row in rows) for i in range(len(header))
    ]
    cls = [' class="n"' if n else "" for n in numeric]
    head = "".join(f"<th{c} scope='col'>{html.escape(h)}</th>" for h, c in zip(header, cls, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{html.escape(str(v))}</td>" for v, c in zip(row, cls, strict=True)) + "</tr>" for row in rows
    )
    note = f"<p class='dim'>{html.escape(caption)}</p>" if caption else ""
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"


def figure(data: list[dict[str, Any]], layout: dict[str, Any], caption: str) -> str:
    """A chart: its specification travels beside it as JSON and is drawn when the page opens."""
    spec = json.dumps({"data": data, "layout": layout}).replace("</", "<\\/")
    label = html.escape(caption, quote=True)
    return (
        f"<figure><div class='figure' role='img' aria-label='{label}'></div><script type='application/json'>{spec}</script>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def page(title: str, lead: str, sections: list[Section]) -> str:
    """The whole report as one HTML document."""
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
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f"<p>{html.escape(lead)}</p><nav>{links}</nav>{body}</main><script>{get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>"
    )


def _looks_numeric(value: Any) -> bool:
    text = str(value).strip().lstrip("+-−±")
    return bool(text) and text[0].isdigit()
