"""Which steps read a document: the answer from the record alone equals what the loop was really given."""

import pytest
from study_corpus import SHAPE, make_tokens, run_stage, tokens_artifact

from puna.core.errors import InputError
from puna.core.stage import Artifact, local_artifact
from puna.data.shards import open_shard
from puna.train import anneal, long_context, loop, pretrain
from puna.train.reads import steps_that_read


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("reads") / "tokens")


@pytest.fixture
def batches(monkeypatch):
    """Input rows of every step that the loop was given, in order."""
    rows = []

    def train(model, objective, given, schedule, *args, **kwargs):
        for step in range(schedule.steps):
            rows.append([row for batch in given(step) for row in batch.ids_BT.tolist()])
        return loop.train(model, objective, given, schedule, *args, **kwargs)

    for module in (pretrain, anneal, long_context):
        monkeypatch.setattr(module, "train", train)
    return rows


def check(trained, tokens, batches, ordinary=lambda rows: range(len(rows)), pieces=False):
    """The stretches of all documents are where they are said to be, and cover every position of the ordinary rows once."""
    found, covered = [], set()
    for group in ("general", "code"):
        shard = open_shard(tokens / f"train-{group}")
        for index in range(shard.documents):
            document = shard.document(index).tolist()
            for r in steps_that_read(trained, tokens, f"train-{group}-{index}"):
                assert (r["group"], r["index"]) == (group, index)
                if pieces:
                    document = [256, *bytes(shard.document(index)[1:-1].tolist()).split(b"\n")[r["piece"]], 257]
                row = batches[r["step"]][r["row"]]
                assert row[r["column"] : r["column"] + r["tokens"]] == document[r["start"] : r["start"] + r["tokens"]]
                covered |= {(r["step"], r["row"], r["column"] + i) for i in range(r["tokens"])}
                found.append(r)
    wanted = {(step, row, i) for step, rows in enumerate(batches) for row in ordinary(rows) for i in range(len(rows[row]))}
    assert covered == wanted and sum(r["tokens"] for r in found) == len(wanted)
    return found


def test_pretraining_and_annealing_answer_from_their_records(tmp_path, tokens, batches):
    given = [tokens_artifact(tokens)]
    phases = [{"after_tokens": 2000, "batch_tokens": 256, "mix": {"general/a": 1, "code": 1}}]
    base = run_stage(pretrain, tmp_path / "m", given, model=SHAPE, steps=30, batch_tokens=128, seq_len=32, phases=phases)
    assert {r["stream"] for r in check(base, tokens, batches)} == {"general", "general/a", "code"}
    batches.clear()
    annealed = run_stage(anneal, tmp_path / "a", [*given, base], steps=20, batch_tokens=128, average=False)
    assert {r["stream"] for r in check(annealed, tokens, batches)} == {"general"}
    assert steps_that_read(annealed, tokens, "train-code-1") == [] == steps_that_read(annealed, tokens, "held-general-1")


def test_pieces_of_a_document_are_found(tmp_path, tokens, batches):
    base = run_stage(pretrain, tmp_path / "m", [tokens_artifact(tokens)], model=SHAPE, steps=30, batch_tokens=128, seq_len=32,
                     piece_tokens=1)  # fmt: skip
    check(base, tokens, batches, pieces=True)


def test_long_context_answers_for_its_ordinary_rows(tmp_path, tokens, batches):
    base = run_stage(pretrain, tmp_path / "m", [tokens_artifact(tokens)], model=SHAPE, steps=3, batch_tokens=128, seq_len=32)
    batches.clear()
    settings = {"stages": [64, 128], "steps": [6, 5], "batch_tokens": 256, "gate": {"patience": 1, "round_steps": 3},
                "needles": {"pairs": 2, "queries": 1, "test_pairs": 2, "test_rows": 2, "share": 0.5}}  # fmt: skip
    long = run_stage(long_context, tmp_path / "l", [base, tokens_artifact(tokens)], **settings)
    assert len(batches) == 17
    check(long, tokens, batches, ordinary=lambda rows: range(len(rows) // 2, len(rows)))


def test_what_cannot_be_answered_is_an_input_error(tmp_path, tokens):
    other = Artifact("x", "tokens", tmp_path, "", {"stage": "data.shards"})
    with pytest.raises(InputError, match="'data\\.shards' does not say"):
        steps_that_read(other, tokens, "train-general-1")
    with pytest.raises(InputError, match="'no stage' does not say"):
        steps_that_read(local_artifact(tmp_path, "model"), tokens, "train-general-1")
    with pytest.raises(InputError, match="no document 'absent'"):
        steps_that_read(Artifact("x", "model", tmp_path, "", {"stage": "train.pretrain"}), tokens, "absent")
