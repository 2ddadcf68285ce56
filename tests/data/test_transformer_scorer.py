"""The Transformer classifier: learns order, repeats itself to the byte, goes on after a stop, scores alone as in company."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file

from puna.core.errors import InputError, Preempted
from puna.core.stage import local_context
from puna.data import classify, transformer_network
from puna.data.classify_scores import load_classifier, score_columns
from puna.data.linear import LinearSettings, train_linear
from puna.data.transformer import TransformerSettings, evenly_placed, load_transformer, train_transformer
from puna.model.llama import Llama

SMALL = {"layers": 1, "dim": 16, "heads": 2, "vocab": 300, "seq_len": 24, "steps": 60, "batch": 16, "lr": 0.02, "drop": 0.0}
FILES = ["transformer.json", "transformer.safetensors", "tokenizer.model", "report.json", "labels.jsonl"]
WORDS = ("red", "blue", "green", "black", "white", "brown", "grey", "pink")


def toy(count: int) -> list[dict[str, str]]:
    """Warm and cold sentences among words that both have."""
    draws = np.random.default_rng(3)
    rows = []
    for index in range(count):
        words = [*draws.choice(WORDS, 6), ("sun", "fire")[index // 2 % 2] if index % 2 else ("ice", "snow")[index // 2 % 2]]
        rows.append({"text": f"{index} " + " ".join(draws.permutation(words)), "label": "warm" if index % 2 else "cold"})
    return rows


def ordered(count: int) -> tuple[pa.Array, np.ndarray]:
    """Colours around a sun and a moon, words apart: does the sun come first?"""
    draws = np.random.default_rng(4)
    texts, labels = [], []
    for index in range(count):
        words = draws.choice(WORDS, 8).tolist()
        first, second = sorted(draws.choice(8, 2, replace=False).tolist())
        words[first], words[second] = ("sun", "moon") if index % 2 else ("moon", "sun")
        texts.append(" ".join(words))
        labels.append(index % 2)
    return pa.array(texts), np.array(labels)


def run(out: Path, labels: Path, ctx=None, **settings) -> dict:
    given = {"labels": str(labels), "model": "transformer", "transformer": SMALL, "positive": "warm"} | settings
    return classify.run(classify.Settings(**given), ctx or local_context(out))


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "toy.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toy(300)))
    return path


@pytest.fixture(scope="module")
def trained(labels, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "heat"
    run(out, labels)
    return out


def test_a_separable_task_is_learned_and_reported(trained, labels):
    found = json.loads((trained / "report.json").read_text())
    held = found["held_out"]
    assert held["n"] >= 40 and held["accuracy"]["value"] >= 0.9 and held["auc"]["warm"]["value"] >= 0.95
    assert held["n"] + found["trained_on"] == 300 and found["classes"] == {"cold": 150, "warm": 150}
    assert sum(sum(row.values()) for row in held["confusion"].values()) == held["n"]
    assert list(held["thresholds"]) == ["warm"]
    about = json.loads((trained / "transformer.json").read_text())["about"]
    assert about["losses"][0] > 0.5 and about["losses"][-1] < 0.2 and len(about["losses"]) == 10
    times = json.loads((trained / "volatile" / "timing.jsonl").read_text())
    assert times["training_cpu_s"] > 0 and times["scored"] == held["n"]
    assert not list(trained.glob("linear*"))


def test_columns_are_those_of_the_linear_classifier(trained, labels, tmp_path):
    run(tmp_path / "heat", labels, model="linear")
    assert not list((tmp_path / "heat").glob("transformer*"))
    texts = pa.array(["red sun pink grey", "blue ice white", "", None])
    ours, linear = (score_columns(texts, [load_classifier(path, "heat")]) for path in (trained, tmp_path / "heat"))
    assert list(ours) == list(linear) == ["score.heat.cold", "score.heat.warm"]
    for name, column in ours.items():
        assert column.dtype == linear[name].dtype == np.float32 and column.shape == (4,)
        assert (column[:2] > 0.5).tolist() == (linear[name][:2] > 0.5).tolist()
    warm = ours["score.heat.warm"]
    assert warm[0] > 0.8 and warm[1] < 0.2 and warm[2] == warm[3] and 0.3 < warm[2] < 0.7
    assert ours["score.heat.cold"] + warm == pytest.approx(np.ones(4), abs=1e-6)


def test_two_runs_and_a_stopped_one_give_the_same_bytes(trained, labels, tmp_path):
    run(tmp_path / "again", labels, local_context(tmp_path / "again"))
    stopped = local_context(tmp_path / "stopped")
    calls = iter([False] * 25 + [True])
    stopped.stopping = lambda: next(calls, False)
    with pytest.raises(Preempted):
        run(tmp_path / "stopped", labels, stopped)
    assert len(load_file(stopped.scratch / "transformer_state.safetensors")["losses"]) == 26
    steps: list[float] = []
    stopped.report = lambda event: steps.append(event["done"]) if event["event"] == "progress" else None
    run(tmp_path / "stopped", labels, stopped)
    assert steps == list(range(27, 61)) and not (stopped.scratch / "transformer_state.safetensors").exists()
    for file in FILES:
        assert (tmp_path / "again" / file).read_bytes() == (trained / file).read_bytes(), file
        assert (tmp_path / "stopped" / file).read_bytes() == (trained / file).read_bytes(), file


def test_another_training_is_not_taken_up(labels, tmp_path):
    ctx = local_context(tmp_path / "out")
    ctx.stopping = lambda: True
    with pytest.raises(Preempted):
        run(tmp_path / "out", labels, ctx)
    ctx.stopping = lambda: False
    run(tmp_path / "out", labels, ctx, transformer=SMALL | {"steps": 5})
    run(tmp_path / "clean", labels, local_context(tmp_path / "clean"), transformer=SMALL | {"steps": 5})
    assert all((tmp_path / "out" / file).read_bytes() == (tmp_path / "clean" / file).read_bytes() for file in FILES)


def test_texts_score_alone_as_in_company(trained):
    model = load_transformer(trained)
    texts = [row["text"] * size for row, size in zip(toy(8), (1, 9, 2, 1, 40, 3, 1, 5), strict=True)]
    together = model.score_batch(pa.array(texts))
    alone = np.concatenate([model.score_batch(pa.array([text])) for text in texts])
    assert np.abs(together - alone).max() < 1e-5 and np.ptp(alone[:, 0]) > 0.5
    assert np.abs(model.score_batch(pa.array(texts[::-1]))[::-1] - together).max() < 1e-5


def test_a_score_is_the_mean_over_windows_of_a_network_that_looks_both_ways(trained):
    model = load_transformer(trained)
    text = " ".join(row["text"] for row in toy(16))
    ids = model.tokenizer.encode(text)
    starts = evenly_placed(len(ids), 24, 4)
    assert len(ids) > 5 * 24 and len(starts) == 4
    weights = load_file(trained / "transformer.safetensors")
    reference = Llama(model.settings.shape(model.tokenizer.base_size))
    trunk = {name: torch.from_numpy(weight) for name, weight in weights.items() if name.startswith("model.")}
    reference.load_state_dict(trunk | {"lm_head.weight": trunk["model.embed_tokens.weight"]})
    chances = []
    for start in starts:
        everything = torch.ones(1, 1, 24, 24, dtype=torch.bool)
        states = reference.hidden(torch.tensor([ids[start : start + 24]]), mask=everything)[0].mean(0)
        logits = states @ torch.from_numpy(weights["head.weight"]).T + torch.from_numpy(weights["head.bias"])
        chances.append(logits.softmax(-1).detach().numpy())
    assert model.score_batch(pa.array([text]))[0] == pytest.approx(np.mean(chances, axis=0), abs=1e-5)


def test_windows_are_evenly_placed():
    assert [list(evenly_placed(tokens, 10, 4)) for tokens in (0, 1, 10, 11, 25, 1000)] == [
        [],
        [0],
        [0],
        [0, 1],
        [0, 7, 15],
        [0, 330, 660, 990],
    ]
    assert list(evenly_placed(1000, 10, 1)) == [0]


def test_every_text_has_its_turn_once_a_pass():
    turns = np.concatenate([transformer_network._turn(7, 10, start, 4) for start in range(0, 40, 4)])
    assert all(sorted(turns[first : first + 10]) == list(range(10)) for first in range(0, 40, 10))
    assert turns[:10].tolist() != turns[10:20].tolist()


def test_order_is_seen_where_a_bag_of_words_is_blind():
    texts, labels = ordered(1200)
    shape = {"layers": 2, "dim": 32, "steps": 300, "lr": 0.01, "batch": 32}
    settings = TransformerSettings(**(SMALL | shape))
    model = train_transformer(texts[:1000], labels[:1000], ["no", "yes"], settings)
    ours = (model.score_batch(texts[1000:]).argmax(1) == labels[1000:]).mean()
    bag = train_linear(texts[:1000], labels[:1000], ["no", "yes"], LinearSettings(buckets_log2=16, word_pairs=False))
    assert ours >= 0.9 and (bag.score_batch(texts[1000:]).argmax(1) == labels[1000:]).mean() < 0.65


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": "forest"}, "'linear' or 'transformer'"),
        ({"transformer": {"dim": 30, "heads": 4}}, "no multiple of twice `heads` 4"),
        ({"transformer": {"vocab": 255}}, "greater than or equal to 256"),
        ({"transformer": {"steps": 0}}, "greater than or equal to 1"),
        ({"transformer": {"drop": 1.0}}, "less than 1"),
        ({"transformer": {"depth": 3}}, "depth"),
    ],
)
def test_bad_settings_are_told(settings, told):
    with pytest.raises((ValidationError, InputError), match=told):
        classify.Settings(labels="labels.jsonl", **settings)


def test_broken_files_and_single_classes_are_told(trained, tmp_path):
    with pytest.raises(InputError, match="two classes"):
        train_transformer(pa.array(["a", "b"]), np.array([0, 0]), ["x", "y"], TransformerSettings(**SMALL))
    for file in ("transformer.json", "transformer.safetensors", "tokenizer.model"):
        broken = tmp_path / file
        broken.mkdir()
        for name in FILES[:3]:
            (broken / name).write_bytes((trained / name).read_bytes()[: 100 if name == file else None])
        with pytest.raises(InputError, match="this is no classifier"):
            load_transformer(broken)
    meta = json.loads((trained / "transformer.json").read_text())
    (tmp_path / "transformer.json" / "transformer.json").write_text(json.dumps(meta | {"classes": ["a", "b", "c"]}))
    with pytest.raises(InputError, match="size mismatch"):
        load_classifier(tmp_path / "transformer.json", "heat")


def test_torch_is_imported_for_a_transformer_only(trained, labels, tmp_path):
    run(tmp_path / "heat", labels, model="linear")
    script = (
        "import sys; from pathlib import Path; import pyarrow as pa\n"
        "import puna.data.classify, puna.data.measure\n"
        "from puna.data.classify_scores import load_classifier\n"
        "for path in sys.argv[1:]:\n"
        "    load_classifier(Path(path), 'heat').scores(pa.array(['red sun']))\n"
        "    print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "heat"), str(trained)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_empty_texts_alone_are_refused():
    with pytest.raises(InputError, match="anything in it"):
        train_transformer(pa.array(["", ""]), np.array([0, 1]), ["a", "b"], TransformerSettings(steps=1))
