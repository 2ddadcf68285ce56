"""Chart specifications as plain dictionaries (plotly's JSON): the report embeds them, nothing here draws.

Each function returns `(data, layout)`. Intervals are drawn wherever a number has one. The page writes the legend as text above
a chart, where it can wrap and covers nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

Chart = tuple[list[dict[str, Any]], dict[str, Any]]

PALETTE = ["#a8741a", "#3c7a9e", "#2f7d5b", "#8a5a9e", "#b03a2e", "#6b7480", "#c9a227", "#4f6d3a"]
DASHES = ["solid", "dash", "dot"]


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> Chart:
    """One line per named curve of (x values, y values)."""
    data = [
        {"type": "scatter", "mode": "lines", "name": name, "x": list(xs), "y": list(ys), "line": _stroke(i)}
        for i, (name, (xs, ys)) in enumerate(curves.items())
    ]
    return data, {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}


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
    return data, {"barmode": "group", "yaxis": {"title": {"text": y}, "rangemode": "tozero"}}


def grouped_rates(labels: Sequence[str], series: Mapping[str, Sequence[Mapping[str, Any]]], y: str) -> Chart:
    """Bars side by side for rates as `puna.evals.stats.rate` gives them, in percent with intervals; none for an absent one."""
    data, layout = grouped_bars(
        labels, {name: [_percent(rate, "accuracy") for rate in rates] for name, rates in series.items()}, y
    )
    for trace, rates in zip(data, series.values(), strict=True):
        value = trace["y"]
        trace["error_y"] = {
            "type": "data", "symmetric": False, "thickness": 1, "width": 2,
            "array": [_percent(rate, "high") - at if at is not None else 0 for rate, at in zip(rates, value, strict=True)],
            "arrayminus": [at - _percent(rate, "low") if at is not None else 0 for rate, at in zip(rates, value, strict=True)],
        }  # fmt: skip
    return data, layout


def _percent(rate: Mapping[str, Any], key: str) -> Any:
    return round(100 * rate[key], 3) if rate.get("n") else None


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
        {"type": "bar", "orientation": "h", "name": name, "y": list(labels), "x": list(values), "marker": {"color": _colour(i)}}
        for i, (name, values) in enumerate(series.items(), start=1)
    ]
    return data, {
        "barmode": "stack", "xaxis": {"title": {"text": x}}, "yaxis": {"autorange": "reversed", "type": "category"},
        "height": 90 + 24 * len(labels),
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
    first, last = _used(edges, rows, limits)
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "barmode": "overlay", "bargap": 0.05, "height": 90 + 105 * len(rows), "shapes": [], "annotations": [],
        "xaxis": _bin_axis(edges, first, last, x) | {"anchor": f"y{len(rows) if len(rows) > 1 else ''}"},
    }  # fmt: skip
    for number, (row, series) in enumerate(rows.items()):
        axis, top = f"y{number + 1 if number else ''}", 1 - number / len(rows)
        most = max((max(counts, default=0) for counts in series.values()), default=0)
        layout[axis.replace("y", "yaxis")] = {
            "title": {"text": row}, "type": "log", "dtick": 1, "range": [-0.3, round(log10(max(most, 1)) + 0.3, 3)],
            "domain": [round(max(top - 0.88 / len(rows), 0), 4), round(top, 4)],
        }  # fmt: skip
        data += _bin_bars(edges, series, axis, {trace["name"] for trace in data})
        for limit in limits.get(row, ()):
            at, place = _place(edges, limit), {"xref": "x", "yref": f"{axis} domain"}
            stroke = {"color": PALETTE[0], "width": 2, "dash": "dash"}
            line = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": stroke}
            label = {"x": at, "y": 1, "text": f"{limit:,g}", "showarrow": False, "xanchor": "left", "yanchor": "top"}
            layout["shapes"].append(line | place)
            layout["annotations"].append(label | place | {"font": {"color": PALETTE[0], "size": 11}})
    return data, layout


def _used(
    edges: Sequence[float], rows: Mapping[str, Mapping[str, Sequence[int]]], limits: Mapping[str, Sequence[float]]
) -> tuple[int, int]:
    """First and last bin that hold anything or have a limit in or at them."""
    full = [i for series in rows.values() for counts in series.values() for i, count in enumerate(counts) if count]
    full += [min(int(_place(edges, limit)), len(edges) - 2) for row in limits.values() for limit in row]
    return min(full, default=0), max(full, default=len(edges) - 2)


def _bin_bars(edges: Sequence[float], series: Mapping[str, Sequence[int]], axis: str, named: set[str]) -> list[dict[str, Any]]:
    """A trace for every series that has anything; one not `named` yet goes into the legend."""
    found = []
    for place, (name, counts) in enumerate(series.items()):
        full = [i for i, count in enumerate(counts) if count]
        if full:
            found.append({
                "type": "bar", "name": name, "legendgroup": name, "showlegend": name not in named, "xaxis": "x", "yaxis": axis,
                "x": [i + 0.5 for i in full], "y": [counts[i] for i in full], "marker": {"color": _FATES[place % len(_FATES)]},
                "width": 0.95, "opacity": 1 if place else 0.75, "legendrank": place + 1,
                "hovertext": [f"{edges[i]:.4g} to {edges[i + 1]:.4g}" for i in full],
            })  # fmt: skip
    return found


_FATES = (PALETTE[1], "#9aa2ad", PALETTE[4])  # kept, dropped for another reason, dropped by this limit
TICKS = 8  # labels under a histogram


def _bin_axis(edges: Sequence[float], first: int, last: int, title: str) -> dict[str, Any]:
    ticks = list(range(first, last + 2, max(1, round((last - first + 1) / TICKS))))
    return {
        "title": {"text": title}, "range": [first - 0.5, last + 1.5], "tickvals": ticks,
        "ticktext": [f"{edges[i]:.3g}" if edges[i] < 1000 else f"{edges[i]:,.0f}" for i in ticks],
    }  # fmt: skip


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value stands on an axis whose unit is the bin; values beyond the ends stand at the ends."""
    at = min(max(bisect_right(edges, value) - 1, 0), len(edges) - 2)
    share = (value - edges[at]) / (edges[at + 1] - edges[at])
    return round(at + min(max(share, 0.0), 1.0), 3)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]) -> Chart:
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
        "xaxis": {"title": {"text": "context length (tokens)"}, "type": "category"},
        "yaxis": {"title": {"text": "depth of the needle"}, "type": "category"},
    }


def _stroke(index: int) -> dict[str, str]:
    """Colour and dash of a line; no two lines of a chart look alike."""
    return {"color": _colour(index), "dash": DASHES[index // len(PALETTE) % len(DASHES)]}


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]
