"""Chart specifications as plain dictionaries (plotly's JSON): the report embeds them, nothing here draws.

Each function returns `(data, layout)`. Intervals are drawn wherever a number has one.
"""

from __future__ import annotations

from bisect import bisect_right
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


def stacked_bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], x: str) -> Chart:
    """One horizontal bar per label, made of parts that add up; the first label is on top."""
    data = [
        {"type": "bar", "orientation": "h", "name": name, "y": list(labels), "x": list(values), "marker": {"color": _colour(i + 1)}}
        for i, (name, values) in enumerate(series.items())
    ]
    return data, {
        "barmode": "stack", "xaxis": {"title": {"text": x}}, "yaxis": {"autorange": "reversed", "type": "category"},
        "legend": {"orientation": "h", "y": 1.15}, "height": 130 + 24 * len(labels),
    }  # fmt: skip


def histograms(
    edges: Sequence[float], rows: Mapping[str, Mapping[str, Sequence[int]]], limits: Mapping[str, Sequence[float]], x: str
) -> Chart:
    """One histogram above the other, with limits drawn as lines.

    Bins stand at equal distances whatever their width, and counts are on a logarithmic axis: what a limit cuts off is often a
    thousandth of the documents.

    Args:
        edges: of the bins, ascending.
        rows: by row, then by series (kept, dropped, ...), documents in each bin.
        limits: by row, where its lines stand, in the unit of the edges.
    """
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "barmode": "overlay", "bargap": 0.05, "height": 110 + 105 * len(rows), "shapes": [], "annotations": [],
        "legend": {"orientation": "h", "y": 1.0 + 0.25 / max(len(rows), 1)},
        "xaxis": _bin_axis(edges, x) | {"anchor": f"y{len(rows) if len(rows) > 1 else ''}"},
    }  # fmt: skip
    for number, (row, series) in enumerate(rows.items()):
        axis = f"y{number + 1 if number else ''}"
        top = 1 - number / len(rows)
        layout[axis.replace("y", "yaxis")] = {
            "title": {"text": row}, "type": "log", "domain": [top - 0.88 / len(rows), top], "nticks": 4, "dtick": 1, "rangemode": "nonnegative"
        }  # fmt: skip
        for place, (name, counts) in enumerate(series.items()):
            full = [i for i, count in enumerate(counts) if count]
            data.append({
                "type": "bar", "name": name, "legendgroup": name, "showlegend": number == 0, "xaxis": "x", "yaxis": axis,
                "x": [i + 0.5 for i in full], "y": [counts[i] for i in full], "marker": {"color": _FATES[place % len(_FATES)]},
                "opacity": 1 if place else 0.75, "hovertext": [f"{edges[i]:.4g} to {edges[i + 1]:.4g}" for i in full],
            })  # fmt: skip
        for limit in limits.get(row, ()):
            at = _place(edges, limit)
            line = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"color": PALETTE[0], "width": 2, "dash": "dash"}}
            label = {"x": at, "y": 1, "text": f"{limit:,g}", "showarrow": False, "xanchor": "left", "yanchor": "top"}
            layout["shapes"].append(line | {"xref": "x", "yref": f"{axis} domain"})
            layout["annotations"].append(label | {"xref": "x", "yref": f"{axis} domain", "font": {"color": PALETTE[0], "size": 11}})
    return data, layout


_FATES = (PALETTE[1], "#9aa2ad", PALETTE[4])  # kept, dropped for another reason, dropped by this limit
TICKS = 8  # labels under a histogram


def _bin_axis(edges: Sequence[float], title: str) -> dict[str, Any]:
    every = max(1, round((len(edges) - 1) / TICKS))
    ticks = list(range(0, len(edges), every))
    return {
        "title": {"text": title}, "range": [-0.5, len(edges) - 0.5], "tickvals": ticks,
        "ticktext": [f"{edges[i]:.3g}" if edges[i] < 1000 else f"{edges[i]:,.0f}" for i in ticks],
    }  # fmt: skip


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value stands on an axis whose unit is the bin; values beyond the ends stand at the ends."""
    at = min(max(bisect_right(edges, value) - 1, 0), len(edges) - 2)
    share = (value - edges[at]) / (edges[at + 1] - edges[at])
    return round(at + min(max(share, 0.0), 1.0), 3)


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
