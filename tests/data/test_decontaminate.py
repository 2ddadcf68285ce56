"""Decontamination: planted overlaps are all found, clean text is not, shares equal direct counting, files and masks."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puna.core.errors import InputError
from puna.data.decontaminate import DecontaminationSettings, build_index, evaluation_digests, load_index, mask, overlap, verdicts
from puna.data.words import scan, words_of

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the real sample files are not at ../shared/data")
QUESTION = "A farmer keeps forty geese and nine of them walk off while two more hatch; how many geese has the farmer now?"


def index_of(tmp_path: Path, rows: list, **settings):
    path = tmp_path / "eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = DecontaminationSettings(files=str(path), **settings)
    return build_index(chosen), chosen


def reasons(found, index, settings) -> list[str]:
    over = found.contaminated(settings).tolist()
    return [f"contaminated:{index.items[item]}" if bad else "" for bad, item in zip(over, found.item.tolist(), strict=True)]


def slow_share(text: str, items: list[str], n: int) -> float:
    words, known = (
        words_of(text),
        {tuple(words_of(item)[i : i + n]) for item in items for i in range(len(words_of(item)) - n + 1)},
    )
    covered = {i + k for i in range(len(words) - n + 1) if tuple(words[i : i + n]) in known for k in range(n)}
    return len(covered) / max(len(words), 1)


def test_shares_equal_direct_counting(tmp_path):
    rng = random.Random(7)
    vocabulary = [f"w{i}" for i in range(6)]
    items = [" ".join(rng.choices(vocabulary, k=12)) for _ in range(20)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 60))) for _ in range(40)] + items[:5] + [""]
    index, _ = index_of(tmp_path, items, ngrams=(3, 5), max_shares=(1, 1), common_items=99)
    found = overlap(scan(texts), index)
    for row, n in enumerate((3, 5)):
        assert found.shares[row].tolist() == pytest.approx([slow_share(text, items, n) for text in texts])
    assert found.item_share[40:45].tolist() == pytest.approx([1.0] * 5) and found.item[45] == -1


@needs_data
def test_every_planted_question_is_found_and_clean_text_is_not(tmp_path):
    rows = [json.loads(line) for line in (DATA / "gsm8k" / "train.jsonl").open()]
    index, settings = index_of(tmp_path, rows[:500])
    prose = (DATA / "text_en" / "tinyshakespeare.txt").read_text()
    plays = [prose[start : start + 3000] for start in range(0, 600_000, 3000)]
    planted = [f"{plays[i % 200]}\n{rows[i]['question']}\n{plays[(i + 1) % 200]}" for i in range(500)]
    found = reasons(overlap(scan(planted), index), index, settings)
    assert found == [f"contaminated:eval.jsonl#{i + 1}" for i in range(500)]
    others = [row["question"] + "\n" + row["answer"] for row in rows[500:2500]]
    clean = reasons(overlap(scan([*plays, *others]), index), index, settings)
    assert not any(clean[:200])
    assert sum(map(bool, clean[200:])) <= 0.02 * len(others)  # the set repeats some of its own wording


def test_a_short_item_in_a_long_document_is_found_by_its_own_share(tmp_path):
    item = "which of the seven bridges crosses the cold river twice"
    index, settings = index_of(tmp_path, [{"q": item}])
    long = "word after word goes on and nothing is asked here at all. " * 60
    found = overlap(scan([long + item, long]), index)
    assert reasons(found, index, settings) == ["contaminated:eval.jsonl#1", ""]
    assert found.shares[0, 0] < 0.2 and found.shares[1, 0] == 0 and found.item_share[0] == 1


def test_wording_shared_by_many_items_accuses_nobody(tmp_path):
    opening = "Answer the following question in one word and say nothing else before it"
    rows = [{"q": f"{opening}: what is the name of thing number {i} of that long list of {i * 7} things?"} for i in range(30)]
    index, settings = index_of(tmp_path, rows)
    text = f"{opening}. This page tells how teachers put it, with other words on both sides of the sentence."
    assert reasons(overlap(scan([text]), index), index, settings) == [""]
    keep_all, settings = index_of(tmp_path, rows, common_items=30)
    assert reasons(overlap(scan([text]), keep_all), keep_all, settings) != [""]


def test_scripts_without_spaces_need_longer_ngrams(tmp_path):
    thai = "ชาวนาคนหนึ่งมีห่านสี่สิบตัวและมีเก้าตัวเดินหนีไปในขณะที่อีกสองตัวฟักออกมา"
    index, settings = index_of(tmp_path, [{"q": thai}])
    found = overlap(scan([f"เรื่องเล่า {thai} จบ", thai[:20] + "เรื่องอื่น" * 5]), index)
    assert reasons(found, index, settings) == ["contaminated:eval.jsonl#1", ""]


def test_masking_cuts_the_shared_words_and_nothing_else(tmp_path):
    index, settings = index_of(tmp_path, [{"question": QUESTION, "answer": 33}], mode="mask")
    texts = pa.array([f"Überschrift: ja. {QUESTION} Und ein Ende.", "clean", QUESTION])[0:3]
    words = scan(texts)
    found = overlap(words, index)
    over = found.contaminated(settings)
    assert over.tolist() == [True, False, True]
    assert mask(texts, words, found, over) == ["Überschrift: ja. Und ein Ende.", None, ""]
    after = pa.array([mask(texts, words, found, over)[0]])
    assert not overlap(scan(after), index).covered.any()


def test_verdicts_come_from_the_columns_alone(tmp_path):
    index, settings = index_of(tmp_path, [QUESTION], mode="mask")
    prose = "The valley lies north of the town and its farms are old; " * 4
    found = overlap(scan([QUESTION, prose + QUESTION, prose]), index)
    table = pa.table(found.columns(index))
    assert table["contaminated_by"].to_pylist() == ["eval.jsonl#1", "eval.jsonl#1", None]
    assert [column.tolist() for column in verdicts(table, settings)] == [[True, False, False], [False, True, False]]
    dropping = settings.model_copy(update={"mode": "drop"})
    assert [column.tolist() for column in verdicts(table, dropping)] == [[True, True, False], [False] * 3]


def test_every_kind_of_file_gives_the_same_items(tmp_path):
    rows = [{"id": i, "parts": [QUESTION.replace("forty", word), {"hint": "none"}]} for i, word in enumerate(("ten", "six"))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.table({"q": [row["parts"][0] for row in rows]}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("\n\n".join(row["parts"][0] for row in rows))
    indexes = {
        name: build_index(DecontaminationSettings(files=(str(tmp_path / name),)))
        for name in ("a.jsonl", "a.json", "a.jsonl.gz", "a.parquet", "a.txt")
    }
    for name, index in indexes.items():
        assert index.items == [f"{name}#1", f"{name}#2"]
        assert all(np.array_equal(a.keys, b.keys) for a, b in zip(index.grams, indexes["a.txt"].grams, strict=True))


def test_an_index_is_read_back_equal_and_names_short_items(tmp_path):
    index, settings = index_of(tmp_path, [{"q": QUESTION}, {"q": "too short"}])
    assert index.short == (1, ["eval.jsonl#2"])
    index.save(tmp_path / "index.npz")
    again = load_index(tmp_path / "index.npz")
    words = scan([QUESTION, "clean"])
    assert again.items == index.items and again.short == index.short and again.ngrams == index.ngrams
    assert reasons(overlap(words, again), again, settings) == reasons(overlap(words, index), index, settings)
    assert list(evaluation_digests(settings)) == ["evaluation 0: eval.jsonl"]


def test_bad_files_and_settings_are_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    for name, told in (("x.jsonl", "holds no text"), ("none.jsonl", "cannot be read")):
        with pytest.raises(InputError, match=told):
            build_index(DecontaminationSettings(files=(str(tmp_path / name),)))
    (tmp_path / "y.jsonl").write_text("{broken\n")
    with pytest.raises(InputError, match="cannot be read"):
        build_index(DecontaminationSettings(files=(str(tmp_path / "y.jsonl"),)))
    with pytest.raises(ValueError, match="max_shares"):
        DecontaminationSettings(ngrams=(8,))
