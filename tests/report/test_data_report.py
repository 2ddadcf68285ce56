"""The data section: histograms keep every count and put limits where they belong, texts of pages are escaped, times stay out."""

import json

import pytest

from puna.core.stage import Artifact
from puna.report import charts, data_origins, data_sections, data_signals
from puna.report.page import Section

EDGES = [0.0, 0.5, 1.0, 10.0, 100.0]


def made(path, name, stage, record=None, **files):
    path.mkdir()
    for file, value in files.items():
        (path / f"{file}.json").write_text(json.dumps(value))
    return Artifact(name, "documents", path, name * 8, {"stage": stage} | (record or {}))


@pytest.mark.parametrize(("limit", "place"), [(0.25, 0.5), (0.5, 1.0), (55.0, 3.5), (-3.0, 0.0), (1000.0, 4.0)])
def test_a_limit_stands_within_its_bin(limit, place):
    _, layout = charts.histograms(EDGES, {"code": {"kept": [1, 0, 0, 2]}}, {"code": [limit]}, "words")
    assert layout["shapes"][0]["x0"] == layout["shapes"][0]["x1"] == layout["annotations"][0]["x"] == place


def test_histograms_hold_what_is_there_and_no_more():
    rows = {"code": {"kept": [0, 3, 0, 0], "dropped": [0, 0, 0, 0]}, "maths": {"kept": [0, 1, 0, 0], "dropped": [0, 0, 7, 0]}}
    data, layout = charts.histograms(EDGES, rows, {}, "words")
    bars = {(trace["yaxis"], trace["name"]): dict(zip(trace["x"], trace["y"], strict=True)) for trace in data}
    assert bars == {("y", "kept"): {1.5: 3}, ("y2", "kept"): {1.5: 1}, ("y2", "dropped"): {2.5: 7}}
    assert [trace["showlegend"] for trace in data] == [True, False, True]
    assert layout["xaxis"]["range"] == [0.5, 3.5] and layout["xaxis"]["anchor"] == "y2"
    assert data[0]["hovertext"] == ["0.5 to 1"] and layout["yaxis2"]["domain"][1] < layout["yaxis"]["domain"][0]


def test_the_funnel_names_what_is_left_and_hides_idle_steps():
    steps = [("collected", 100), ("blocked", 100), ("url_duplicate", 90), ("rank", 90), ("quality", 80)]
    names, counts, idle = data_sections.funnel_steps([{"step": step, "documents": count} for step, count in steps])
    assert names == ["collected", "left after url duplicate", "left after quality"] and counts == [100, 90, 80]
    assert idle == ["blocked", "rank"]


def test_examples_are_escaped_and_limits_are_told_by_group(tmp_path):
    def limit(group, value):
        return {"rule": "quality:words", "side": "least", "value": value, "group": group, "langs": None}

    example = {"rule": "quality:words", "side": "least", "limit": 20.0, "fate": "failed", "value": 3.0, "id": "x",
               "url": "http://x/<b>", "opening": "<script>"}  # fmt: skip
    fates = {"kept": [0, 0, 0, 5], "failed": [0, 0, 1, 0], "dropped": [0, 0, 0, 0]}
    found = {"edges": EDGES, "groups": {"code": fates}, "thresholds": [limit("code", 8.0), limit("general", 20.0)],
             "examples": [example]}  # fmt: skip
    section = Section("Data", "3.1")
    free = {"edges": EDGES, "groups": {}, "thresholds": [], "examples": []}
    data_signals.signal_histograms(
        section, made(tmp_path / "d", "docs", "data.curate", histograms={"signals": {"words": found, "free": free}})
    )
    text = "".join(section.blocks)
    assert "1 dropped; at least 8 (code); at least 20 (general)" in text
    assert "http://x/&lt;b&gt;" in text and "&lt;script&gt;" in text and "<script>" not in text.replace("<script type", "")
    assert section.data["docs.signals"] == {"words": {"dropped": 1, "thresholds": found["thresholds"]}}
    assert text.count("<details open>") == 1


def test_origins_sum_up_to_their_pages(tmp_path):
    section = Section("Data", "3.1")
    funnel = {"steps": [{"step": "collected"}, {"step": "quality"}, {"step": "spam"}],
              "by_language": {"en": {"kept": 6, "quality:words": 1, "quality:symbols": 2, "spam:adult": 1},
                              "de": {"kept": 30}}}  # fmt: skip
    data_origins.by_origin(section, funnel, made(tmp_path / "d", "docs", "data.curate"))
    assert section.data["docs.by_language"] == {"en": {"kept": 6, "quality": 3, "spam": 1}, "de": {"kept": 30}}
    table = section.blocks[-1]
    assert table.index(">de<") < table.index(">en<")  # most pages first
    cells = "".join(f'<td class="n">{value}</td>' for value in (10, 6, 3, 1, "60.0"))
    assert f"<td>en</td>{cells}" in table


def test_rows_that_could_not_be_read_are_counted_and_the_first_shown(tmp_path):
    bad = {"source": "crawl", "reason": "cut short"}
    rows = [bad | {"file": f"part<{i}>.warc.gz", "position": f"offset {i}"} for i in range(23)]
    pages = Artifact("pages", "pages", tmp_path / "p", "d" * 8, {"stage": "data.collect"})
    pages.path.mkdir()
    (pages.path / "bad_rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curated = made(tmp_path / "d", "docs", "data.curate", {"inputs": [{"digest": pages.digest}]})
    section = data_sections.data_section([pages, curated])
    text = "".join(section.blocks)
    assert section.data["pages.bad_rows"] == 23 and "23 rows or files of the sources could not be read" in text
    assert "<td>crawl</td><td>part&lt;19&gt;.warc.gz</td><td>offset 19</td><td>cut short</td>" in text
    assert "part&lt;20&gt;" not in text and "3 more are in bad_rows.jsonl of pages." in text


def test_nothing_is_said_where_every_row_was_read(tmp_path):
    section = Section("Data", "3.1")
    pages = made(tmp_path / "p", "pages", "data.collect")
    (pages.path / "bad_rows.jsonl").write_text("")
    data_origins.unreadable(section, pages)
    assert section.blocks == [] and section.data == {"pages.bad_rows": 0}


def test_cost_is_shown_and_not_kept(tmp_path):
    section = Section("Data", "3.1")
    stage = made(tmp_path / "d", "docs", "data.curate", {"wall_s": 4.0, "cpu_s": 8.0, "peak_rss_mb": 300})
    data_origins.cost(section, [stage, made(tmp_path / "e", "x", "data.curate")], pages=1000)
    assert (
        '<td>docs</td><td class="n">4.0</td><td class="n">8.0</td><td class="n">300</td><td class="n">250</td>'
        in section.blocks[-1]
    )
    assert section.data == {} and ">x<" not in section.blocks[-1]


def test_classifiers_are_told_with_intervals(tmp_path):
    def rate(value):
        return {"value": value, "interval": [0.4, 0.6], "n": 100}

    row = {"threshold": 0.5, "kept": rate(0.5), "precision": rate(0.55), "recall": {"value": None, "interval": [0, 1], "n": 0}}
    held = {"n": 100, "accuracy": rate(0.5), "thresholds": {"good": [row]}}
    section = Section("Data", "3.1")
    data_signals.classifiers(section, [made(tmp_path / "c", "judge", "data.classify", report={"held_out": held})])
    text = "".join(section.blocks)
    assert (
        "100 held-out labels: 50.0 (40.0 to 60.0) percent met." in text
        and "55.0 <small>40.0 to 60.0</small>" in text
        and ">–<" in text
    )
