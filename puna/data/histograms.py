"""`histograms.json`: how each signal is distributed over what was kept and dropped, its limits, and what lies nearest to them.

A limit can only be judged by what stands on its two sides, so beside the bins the two documents next to each limit are kept
on either side. Bins are fixed beforehand and counted while a shard is decided on, when all its signals are in memory: a whole
corpus adds up from small tables, and the report reads one file whatever the size of the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.core.store import write_json
from puna.data.columns import numpy_column, read_table
from puna.data.signals import PROSE_GROUPS, Limits, limits_for, strings_of
from puna.data.thresholds import Threshold, outside, quality_thresholds

if TYPE_CHECKING:
    import pyarrow as pa

FATES = ("kept", "failed", "dropped")  # failed: dropped by a rule on this signal; dropped: for another reason
NEAREST = 2  # documents kept on each side of a limit
OPENING_CHARS = 160
DIGITS = 6  # of the values shown
NOT_SIGNALS = ("id", "keep", "reason", "lang", "duplicate_of", "lorem_ipsum", "url", "source", "group", "opening")

SHARES = np.linspace(0, 1, 51)
SMALL_SHARES = np.concatenate([[0], np.logspace(-4, 0, 41)])
COUNTS = np.concatenate([[0], np.logspace(0, 6, 49)])
LENGTHS = np.linspace(0, 20, 41)
NARROW = ("unreadable", "braces", "line_breaks", "symbols")  # limits of a hundredth lie in the first bin of fiftieths

Near = dict[str, list[list[Any]]]  # by fate: distance, value, id, url, shard


def edges_of(signal: str, *, whole: bool) -> np.ndarray:
    """Edges of a signal's bins; values beyond the ends count in the end bins.

    Args:
        whole: whether the signal is a whole number.
    Returns:
        float64 [bins + 1].
    """
    if signal in NARROW:
        return SMALL_SHARES
    if signal == "mean_word_chars" or signal.startswith("kl"):
        return LENGTHS
    return COUNTS if whole or signal == "stop_words" else SHARES


def shard_histograms(name: str, out: Path, limits: Mapping[str, Limits], others: Sequence[Threshold]) -> dict[str, Any]:
    """What one decided shard adds to the histograms, as JSON values; see `write_histograms`.

    Args:
        name: of the shard.
        out: directory whose `annotations/`, `documents/` and `dropped/` have it.
        limits: quality limits of every group.
        others: thresholds that hold for every group.
    """
    notes = _decided(name, out)
    reasons, groups, langs = (np.array(strings_of(notes[column]), dtype=object) for column in ("reason", "group", "lang"))
    values = {signal: numpy_column(notes, signal).astype(np.float64) for signal in _signals(notes)}
    whole = {signal for signal in values if str(notes.schema.field(signal).type).startswith(("int", "uint"))}
    rows = list(_thresholds(groups, langs, values, limits, others))
    rules: dict[str, set[str]] = {}
    for row in rows:
        rules.setdefault(row["signal"], set()).add(row["rule"])
    return {
        "counts": {
            signal: _counts(column, edges_of(signal, whole=signal in whole), groups, reasons, rules.get(signal, set()))
            for signal, column in values.items()
        },
        "whole": sorted(whole),
        "thresholds": [{key: value for key, value in row.items() if key != "among"} for row in rows],
        "near": _near(name, rows, values, reasons, notes["id"], notes["url"]),
    }


def _decided(name: str, out: Path) -> pa.Table:
    """Signals, reason, group and address of all documents of a shard, kept ones first."""
    import pyarrow as pa

    dropped = read_table(out / "dropped" / name).drop_columns(["opening", "source"])
    kept = read_table(out / "annotations" / name)
    for column, values in zip(("url", "group"), read_table(out / "documents" / name, ["url", "group"]).columns, strict=True):
        kept = kept.append_column(column, values)
    return pa.concat_tables([kept, dropped.select(kept.column_names)])


def _signals(notes: pa.Table) -> list[str]:
    import pyarrow as pa

    numeric = (pa.types.is_floating, pa.types.is_integer)
    numbers = [f.name for f in notes.schema if any(test(f.type) for test in numeric)]
    return [name for name in numbers if name not in NOT_SIGNALS and not name.startswith("pii_")]


def _counts(
    values: np.ndarray, edges: np.ndarray, groups: np.ndarray, reasons: np.ndarray, rules: set[str]
) -> dict[str, dict[str, dict[str, int]]]:
    """Documents by group, fate and bin; empty bins are left out."""
    names, codes = np.unique(groups.astype(str), return_inverse=True)
    fates = np.where(reasons == "", 0, np.where(np.isin(reasons, sorted(rules)), 1, 2))
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    cells = ((codes * len(FATES) + fates) * len(edges) + bins)[~np.isnan(values)]
    found: dict[str, dict[str, dict[str, int]]] = {}
    for cell, count in zip(*(part.tolist() for part in np.unique(cells, return_counts=True)), strict=True):
        row, place = divmod(cell, len(edges))
        group, fate = divmod(row, len(FATES))
        found.setdefault(str(names[group]), {}).setdefault(FATES[fate], {})[str(place)] = count
    return found


def _thresholds(
    groups: np.ndarray,
    langs: np.ndarray,
    values: Mapping[str, np.ndarray],
    limits: Mapping[str, Limits],
    others: Sequence[Threshold],
) -> Iterator[dict[str, Any]]:
    """Every limit that holds in this shard: rule, signal, side, value, group, langs, and the documents it is for (`among`)."""
    for group in sorted(set(groups.tolist())):
        mine = groups == group
        merged: dict[tuple[Any, ...], dict[str, Any]] = {}
        for lang in sorted(set(langs[mine].tolist())):
            own = quality_thresholds(limits_for(limits[group], group, lang))
            here = mine & (langs == lang)
            for threshold in (t for t in (*own, *others) if t.signal in values):
                among = here & (values["words"] >= threshold.from_words) if threshold.from_words else here
                for side, value in threshold.sides:
                    row = {"rule": threshold.rule, "signal": threshold.signal, "side": side, "value": value, "group": group}
                    known = merged.setdefault(tuple(row.values()), row | {"langs": [], "among": np.zeros_like(mine)})
                    known["langs"].append(lang)
                    known["among"] = known["among"] | among
        yield from merged.values()


def _near(
    shard: str,
    rows: Iterable[Mapping[str, Any]],
    values: Mapping[str, np.ndarray],
    reasons: np.ndarray,
    ids: pa.ChunkedArray,
    urls: pa.ChunkedArray,
) -> dict[str, Near]:
    """The nearest documents on both sides of each limit, whatever their group: kept ones, and ones that its rule dropped."""
    merged: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = merged.setdefault(_limit_key(row), {**row, "among": np.zeros(len(reasons), dtype=bool)})
        known["among"] = known["among"] | row["among"]
    found: dict[str, Near] = {}
    for key, row in merged.items():
        column = values[row["signal"]]
        failing = outside(row["side"], row["value"], column)
        sides = {
            "kept": row["among"] & (reasons == "") & ~failing & ~np.isnan(column),
            "failed": row["among"] & (reasons == row["rule"]) & failing,
        }
        places = {fate: np.flatnonzero(there) for fate, there in sides.items()}
        found[key] = {fate: _closest(shard, rows, column, row["value"], ids, urls) for fate, rows in places.items()}
    return found


def _closest(
    shard: str, places: np.ndarray, values: np.ndarray, limit: float, ids: pa.ChunkedArray, urls: pa.ChunkedArray
) -> list[list[Any]]:
    distances = np.abs(values[places] - limit)
    order = np.argsort(distances, kind="stable")[:NEAREST]
    best = places[order].tolist()
    return [
        [distance, round(float(values[row]), DIGITS), ids[row].as_py(), urls[row].as_py(), shard]
        for row, distance in zip(best, distances[order].round(DIGITS).tolist(), strict=True)
    ]


def _limit_key(row: Mapping[str, Any]) -> str:
    return f"{row['rule']}|{row['signal']}|{row['side']}|{row['value']:g}"


def write_histograms(out: Path, shards: Iterable[Mapping[str, Any]]) -> None:
    """Add up what `shard_histograms` gave for every shard, in order and one at a time, and write `histograms.json`.

    The file has by signal: `edges`; `groups` (documents by group, fate of `FATES` and bin); `thresholds` (rule, side, value,
    group, langs; None for all languages of the group); `examples` (rule, side, limit, fate, value, id, url, opening).

    Args:
        out: directory of the artifact, whose `documents/` and `dropped/` are there.
    """
    signals: dict[str, dict[str, Any]] = {}
    limits: dict[tuple[Any, ...], set[str]] = {}
    near: dict[str, Near] = {}
    for part in shards:
        for signal, groups in part["counts"].items():
            edges = edges_of(signal, whole=signal in part["whole"])
            known = signals.setdefault(signal, {"edges": edges.round(8).tolist(), "groups": {}, "thresholds": [], "examples": []})
            _add_counts(known["groups"], groups, len(edges) - 1)
        for row in part["thresholds"]:
            key = row["signal"], row["rule"], row["side"], row["value"], row["group"]
            limits.setdefault(key, set()).update(row["langs"])
        for key, found in part["near"].items():
            _add_near(near.setdefault(key, {}), found)
    for row in _limit_rows(limits):
        signals[row.pop("signal")]["thresholds"].append(row)
    for example in _with_openings(out, list(_examples(near))):
        signals[example.pop("signal")]["examples"].append(example)
    write_json(out / "histograms.json", {"signals": signals})


def _add_counts(total: dict[str, dict[str, list[int]]], part: Mapping[str, Mapping[str, Mapping[str, int]]], bins: int) -> None:
    for group, fates in part.items():
        sums = total.setdefault(group, {fate: [0] * bins for fate in FATES})
        for fate, counts in fates.items():
            for place, number in counts.items():
                sums[fate][int(place)] += number


def _add_near(known: Near, found: Near) -> None:
    for fate, rows in found.items():
        known[fate] = sorted([*known.get(fate, []), *rows], key=lambda row: row[0])[:NEAREST]


def _limit_rows(limits: Mapping[tuple[Any, ...], set[str]]) -> Iterator[dict[str, Any]]:
    spoken: dict[str, set[str]] = {}
    for (*_, group), langs in limits.items():
        spoken.setdefault(group, set()).update(langs)
    for (signal, rule, side, value, group), langs in sorted(limits.items()):
        everywhere = group not in PROSE_GROUPS or langs == spoken[group]
        row = {"signal": signal, "rule": rule, "side": side, "value": value, "group": group}
        yield row | {"langs": None if everywhere else sorted(langs)}


def _examples(near: Mapping[str, Near]) -> Iterator[dict[str, Any]]:
    for key, sides in sorted(near.items()):
        rule, signal, side, limit = key.split("|")
        for fate, rows in sides.items():
            for _, value, document, url, shard in rows:
                yield {
                    "signal": signal, "rule": rule, "side": side, "limit": float(limit), "fate": fate, "value": value,
                    "id": document, "url": url, "shard": shard,
                }  # fmt: skip


def _with_openings(out: Path, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds how each text begins, as it was written: personal data is hidden in both folders."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted: dict[tuple[str, str], set[str]] = {}
    for example in examples:
        place = ("documents", "text") if example["fate"] == "kept" else ("dropped", "opening")
        wanted.setdefault((f"{place[0]}/{example.pop('shard')}", place[1]), set()).add(example["id"])
    openings: dict[str, str] = {}
    for (path, column), ids in sorted(wanted.items()):
        table = read_table(out / path, ["id", column])
        some = table.filter(pc.is_in(table["id"], value_set=pa.array(sorted(ids), pa.string())))
        shown = pc.utf8_slice_codeunits(some[column], 0, OPENING_CHARS).to_pylist()
        openings |= dict(zip(some["id"].to_pylist(), shown, strict=True))
    return [example | {"opening": openings[example["id"]]} for example in examples]
