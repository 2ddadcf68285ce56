"""Teachers and judges of rows: where their terms come from, and what they make the artifact owe."""

from __future__ import annotations

import json

import pytest

from puna.core.lineage import combine, obligations
from puna.core.lineage_rows import FILE, groups
from puna.core.stage import local_context
from puna.post import collect
from puna.tokenizer.dialog import Dialog, read_rows

PLAIN = {"prompt": "who?", "chosen": "you", "rejected": "me"}
SAID = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}]


def collected(tmp_path, rows, **settings):
    """The context and the artifact's sources after `post.collect` has read some rows."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "rows.jsonl"), "licence": "CC0-1.0", "name": "rows", **settings.pop("source", {})}
    ctx = local_context(tmp_path / "tasks", name="tasks", seed=7)
    collect.run(collect.Settings(sources=[source], **settings), ctx)
    return ctx, combine(ctx.lineage, [])


@pytest.mark.parametrize(
    ("named", "licence", "owed"),
    [
        ({"judge": "Llama-3.1-70B-Instruct"}, "LicenseRef-llama3.1", ["attribution", "llama-name"]),
        ({"judge": "Llama-3-70B"}, "LicenseRef-llama3", ["no-training"]),
        ({"judge": "mystery"}, "unknown", ["unknown-licence"]),
        ({"judge": "mystery", "judge_licence": "own"}, "unknown", ["unknown-licence"]),
        ({"judge": "gpt-4o", "judge_licence": "own"}, "LicenseRef-openai-terms", ["no-competing-model"]),
        ({"judge": "mystery", "judge_licence": "MIT"}, "MIT", []),
        ({"judge": "ours"}, "LicenseRef-openai-terms", ["no-competing-model"]),
    ],
)
def test_a_judge_binds_as_a_teacher_does(tmp_path, named, licence, owed):
    _, sources = collected(tmp_path, [{"messages": SAID}, PLAIN | named], teachers={"ours": "LicenseRef-openai-terms"})
    judge = next(row for row in sources if row.get("role") == "judge")
    assert judge == {"source": named["judge"], "licence": licence, "rows": 1, "use": "outputs", "role": "judge"}
    assert obligations(sources) == owed


@pytest.mark.parametrize(("judge", "licence"), [("anna", "none-needed"), ("gpt-4o", "LicenseRef-openai-terms")])
def test_a_person_who_ranks_brings_no_terms(tmp_path, judge, licence):
    message = {"role": "assistant", "content": "you"}
    row = {"id": "1", "context": SAID[:1], "ranking": [0, 1], "kind": "human",
           "candidates": [{"messages": [message], "origin": "a"}, {"messages": [message | {"content": "I"}], "origin": "b"}],
           "provenance": {"source": "chats", "licence": "CC0-1.0", "judge": judge}}  # fmt: skip
    _, sources = collected(tmp_path, [{"messages": [SAID[0] | {"content": "bye"}, SAID[1]]}, row])
    found = {row["source"]: row["licence"] for row in sources}
    assert found == {"rows": "CC0-1.0", "chats": "CC0-1.0", judge: licence}


def test_declared_and_concluded_stand_apart_in_row_and_artifact(tmp_path):
    found = {"licence": "CC-BY-SA-4.0", "concluded": "CC-BY-4.0", "evidence": "the page of its authors"}
    ctx, sources = collected(tmp_path, [{"messages": SAID}], source=found)
    assert sources == [{"source": "rows", "licence": "CC-BY-4.0", "declared": "CC-BY-SA-4.0", "rows": 1}]
    provenance = next(read_rows(ctx.out / "train.jsonl", Dialog)).provenance
    assert (provenance.licence, provenance.licence_concluded, provenance.evidence) == tuple(found.values())
    (group,) = groups([ctx.out / FILE])
    assert group.values == {"source": "rows", "licence_declared": "CC-BY-SA-4.0", "licence_concluded": "CC-BY-4.0"}


def test_a_file_may_name_the_teacher_of_all_its_rows(tmp_path):
    rows = [{"messages": SAID}, {"messages": [SAID[0] | {"content": "bye"}, SAID[1]], "teacher": "mistral-7b-instruct"}]
    _, sources = collected(tmp_path, rows, source={"teacher": "text-davinci-003"})
    teachers = {row["source"]: (row["licence"], row["rows"]) for row in sources if row.get("role") == "teacher"}
    assert teachers == {"text-davinci-003": ("LicenseRef-openai-terms", 1), "mistral-7b-instruct": ("Apache-2.0", 1)}


def test_rows_without_terms_are_written_as_before(tmp_path):
    ctx, _ = collected(tmp_path, [{"messages": SAID}])
    row = json.loads((ctx.out / "train.jsonl").read_text().splitlines()[0])
    assert list(row["provenance"]) == ["source", "licence", "teacher", "judge", "round", "parents", "checks"]
