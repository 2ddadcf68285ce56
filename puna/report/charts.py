"""Chart specifications as plain dictionaries (plotly's JSON): the report embeds them, nothing here draws.

Each function returns `(data, layout)`. Intervals are drawn wherever a number has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Chart = tuple[list[dict[str, Any]], dict[str, Any]]

PALETTE = ["#a8741a", "#3c7a9e", "#2f7d5b", "#8a5a9e", "#b03a2e", "#6b7480", "#c9a227", "#4f6d3a"]


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> Chart:
    """One line per named curve of (x values, y values)."""
    data = [
        {"type": "scatter", "mode": "lines", "name": name, "x": list(xs), "y": list(ys), "line": {"color": _colour(i)}}
        for i, (name, (xs, ys)) in enumerate(curves.items())
    ]
    return data, {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "legend": {"orientation": "h", "y": 1.15}}


def bars(labels: Sequence[str], values: Sequence[float], lows: Sequence[float], highs: Sequence[float], y: str) -> Chart:
    """One bar per label with its 95 % interval; everything in the unit of `y`."""
    error = {
        "type": "data",
        "symmetric": False,
        "array": [round(h - v, 6) for v, h in zip(values, highs, strict=True)],
        "arrayminus": [round(v - w, 6) for v, w in zip(values, lows, strict=True)],
    }
    data = [{"type": "bar", "x": list(labels), "y": list(values), "error_y": error, "marker": {"color": PALETTE[1]}}]
    return data, {"yaxis": {"title": {"text": y}, "rangemode": "tozero"}, "xaxis": {"tickangle": -30}}


def grouped_bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], y: str) -> Chart:
    """Bars side by side, one colour per series."""
    data = [
        {"type": "bar", "name": name, "x": list(labels), "y": list(values), "marker": {"color": _colour(i)}}
        for i, (name, values) in enumerate(series.items())
    ]
    return data, {
        "barmode": "group",
        "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.15},
    }


def funnel(steps: Sequence[str], counts: Sequence[int]) -> Chart:
    """How many documents are left after each step, widest first."""
    data = [
        {
            "type": "funnel",
            "y": list(steps),
            "x": list(counts),
            "textinfo": "value+percent initial",
            "marker": {"color": PALETTE[0]},
        }
    ]
    return data, {"yaxis": {"automargin": True}, "height": 60 + 42 * len(steps)}


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], title: str) -> Chart:
    """Shares between 0 and 1 as a map, with the percentage written in each cell."""
    text = [["" if v is None else f"{100 * v:.0f}" for v in row] for row in values]
    data = [
        {
            "type": "heatmap", "x": list(columns), "y": list(rows), "z": [list(row) for row in values], "zmin": 0, "zmax": 1,
            "colorscale": [[0, "#b03a2e"], [0.5, "#d9a441"], [1, "#2f7d5b"]], "showscale": False,
            "text": text, "texttemplate": "%{text}",
        }
    ]  # fmt: skip
    return data, {
        "title": {"text": title},
        "xaxis": {"title": {"text": "context length (tokens)"}, "type": "category"},
        "yaxis": {"title": {"text": "depth of the needle"}, "type": "category"},
    }


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]
