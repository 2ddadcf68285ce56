"""What the report says of a selection: the expression, the funnel, rows beside each limit, reward beside judge."""

import json

from puna.core.stage import Artifact
from puna.report.quality_sections import quality_section

FOUND = {
    "keep": "topic and unique",
    "funnel": [{"step": "rows", "left": 100}, {"step": "topic", "left": 90}, {"step": "unique", "left": 60}],
    "predicates": {
        "topic": {
            "side": "least", "passed": 90, "failed": 10, "unknown": 0, "limit": 0.5, "limits": 1,
            "histogram": {"edges": [0, 0.5, 1], "kept": [0, 60], "failed": [10, 0], "dropped": [0, 30]},
            "examples": [
                {"passes": True, "kept": True, "value": 0.51, "limit": 0.5, "detail": "maths", "id": "a",
                 "opening": "<b>sum</b>"},
                {"passes": False, "kept": False, "value": 0.4, "limit": 0.5, "detail": "other", "id": "b", "opening": "pills"},
            ],
        }
    },
    "disagreement": {"both_high": 3, "reward_only": 20, "judge_only": 30, "neither": 40},
    "semantic": {"compared": 90, "clusters": 2, "sampled": 50, "missed": 1},
    "planted": {
        "off_topic": {"recall": 0.9, "recall_interval": [0.8, 0.95], "planted": 10, "precision": 1.0,
                      "precision_interval": [0.7, 1.0], "found": 9},
    },
}  # fmt: skip


def artifact(path, found):
    path.mkdir()
    (path / "selection.json").write_text(json.dumps(found))
    return Artifact("picked", "samples", path, "d", {"stage": "post.quality.select"})


def test_a_selection_is_told_with_its_limits_and_their_neighbours(tmp_path):
    section = quality_section([artifact(tmp_path / "picked", FOUND)])
    text = "".join(section.blocks)
    assert "Kept is what satisfies: topic and unique." in text
    assert "10 fail, 90 pass, 0 unknown" in text and "&lt;b&gt;sum&lt;/b&gt;" in text and "<b>sum" not in text
    assert "at least 0.5" in text and "fails, left out" in text and "passes, kept" in text
    assert '<td>off topic</td><td class="n">90.0 <small>80.0 to 95.0</small></td><td class="n">10</td>' in text
    assert "93 rows that reward model and judge both say something of" in text
    assert '<td>reward high</td><td class="n">3</td><td class="n">20</td>' in text
    assert "of a sample of 50 kept rows 1 are still like another kept row" in text
    assert section.data["picked"]["keep"] == "topic and unique" and "predicates" not in section.data["picked"]


def test_without_a_judge_there_is_no_table_of_disagreement_and_without_a_selection_no_section(tmp_path):
    silent = FOUND | {"disagreement": dict.fromkeys(FOUND["disagreement"], 0), "planted": {}}
    text = "".join(quality_section([artifact(tmp_path / "picked", silent)]).blocks)
    assert "judge high" not in text and "recall" not in text
    assert quality_section([]) is None
