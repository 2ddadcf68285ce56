"""Training on speech: what a step holds, that text stays as it was, and that runs repeat and go on to the bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from speech_toys import (
    ENCODER,
    LISTEN,
    PLAIN,
    dialog,
    finished,
    listening,
    run_stage,
    sounds,
    text_model,
    toy_tokenizer,
)

from puna.core.errors import InputError, Preempted, RunError
from puna.core.modules import load_stage
from puna.core.rng import numpy_stream
from puna.core.stage import Artifact, local_context
from puna.model.checkpoint import load_model
from puna.post.checkpoints import weights_digest
from puna.speech import fit
from puna.speech.augment import Augmentation
from puna.speech.buckets import DurationBuckets, share_of
from puna.speech.collate import respaced, with_sounds
from puna.speech.features import MelConfig
from puna.speech.files import load_encoder, load_speech
from puna.speech.frames import SoundShape
from puna.speech.pretrain import masked_batch
from puna.speech.recordings import Recordings
from puna.speech.sound_rows import SoundBatches, SoundStore, form_for
from puna.tokenizer.dialog import MessageRow, write_rows
from puna.train.objectives import states_of
from puna.train.packing import Batch, stacked

TOKENIZER = toy_tokenizer()
UNCHANGED = Augmentation(speed=0, noisy=0, gain_db=0, time_masks=0, channel_masks=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return text_model(tmp_path_factory.mktemp("text") / "base")


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return sounds(tmp_path_factory.mktemp("heard") / "sounds")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, heard: Artifact) -> Artifact:
    settings = {**PLAIN, "encoder": ENCODER, "steps": 60, "books": 2, "codes": 16}
    return run_stage(tmp_path_factory.mktemp("encoder"), "speech.pretrain", "encoder", [heard], **settings)


def store(artifact: Artifact, scratch: Path, augment: Augmentation | None = None, limit: int = 64) -> SoundStore:
    recordings = Recordings(MelConfig(), 1 << 20, form_for(augment))
    files = [artifact.path / "train.jsonl"]
    return SoundStore(TOKENIZER, files, limit, scratch, recordings=recordings, tokens_of=listening().tokens_of)


def batches(artifact: Artifact, scratch: Path, augment: Augmentation | None = None, **share: int) -> SoundBatches:
    rows = store(artifact, scratch, augment)
    buckets = DurationBuckets(rows.seconds, len(rows), 3, rows=4, most_seconds=10.0, window=2)
    return SoundBatches(rows, buckets, SoundShape(), augment, 3, **share)


SECONDS = [0.5, 3.0, 1.0, 0.0, 2.0, 99.0, 0.7, 1.2, 2.5, 0.9]


def buckets(seed: int = 1, **more: float) -> DurationBuckets:
    settings = {"rows": 3, "most_seconds": 8.0, "window": 4, **more}
    return DurationBuckets(SECONDS.__getitem__, len(SECONDS), seed, **settings)


def test_steps_are_of_like_duration_and_a_function_of_the_seed() -> None:
    plans = [buckets()(step) for step in (7, 3, 0)]
    assert plans == [(again := buckets())(7), again(3), again(0)] and plans != [buckets(2)(step) for step in (7, 3, 0)]
    steps = [buckets()(step) for step in range(24)]
    drawn = Counter(i for step in steps for i in step)
    assert set(drawn) == set(range(10)) - {3, 5}  # without sound, and longer than a step
    assert max(drawn.values()) - min(drawn.values()) <= 3
    assert all(len(step) <= 3 and len(step) * max(SECONDS[i] for i in step) <= 8.0 for step in steps)
    assert all(SECONDS[i] <= SECONDS[j] for step in steps for i, j in pairwise(step))

    def padding(window: int) -> float:
        found = buckets(window=window)
        steps = [found(step) for step in range(24)]
        read = sum(len(step) * max(SECONDS[i] for i in step) for step in steps)
        return 1 - sum(SECONDS[i] for step in steps for i in step) / read

    assert padding(8) < 0.6 * padding(1)


def test_nothing_to_draw_is_told() -> None:
    with pytest.raises(InputError, match="none of 10 rows"):
        buckets(most_seconds=0.1)(0)
    with pytest.raises(InputError, match="none of 0 rows"):
        DurationBuckets(lambda i: 1.0, 0, 1, rows=2, most_seconds=1.0, window=1)


@pytest.mark.parametrize(("world", "micro"), [(1, None), (2, None), (2, 2), (3, 1), (5, 2)])
def test_processes_share_a_step_in_as_many_parts(world: int, micro: int | None) -> None:
    parts = [share_of([4, 2, 9, 7], rank, world, micro) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    found = sorted(one for part in parts for batch in part for one in batch)
    assert found == [(0, 4), (1, 2), (2, 9), (3, 7)]
    assert all(len(batch) <= (micro or 4) for part in parts for batch in part)


def test_placeholders_follow_the_length_of_their_sound() -> None:
    ids, mask = respaced(([1, 9, 9, 9, 2, 9, 3], [0, 0, 0, 0, 0, 0, 1]), 9, [1, 3])
    assert ids.tolist() == [1, 9, 2, 9, 9, 9, 3] and mask.tolist() == [0, 0, 0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="longer"):
        respaced(([1, 9, 2], [0, 0, 1]), 9, [1, 2])


def clips_of(batch: Batch) -> list[torch.Tensor]:
    frames, counts = batch.extra["frames_CFM"], batch.extra["frames_C"].tolist()
    return [clip[:count] for clip, count in zip(frames, counts, strict=True)]


def test_a_row_does_not_depend_on_its_batch(heard: Artifact, tmp_path: Path) -> None:
    model, (batch,) = listening(), batches(heard, tmp_path)(0)
    assert int((batch.ids_BT == TOKENIZER.speech_id).sum()) == sum(model.tokens_of(len(clip)) for clip in clips_of(batch))
    assert len(batch.ids_BT) == 4 and batch.plain()
    states = states_of(model, batch)
    for row, clip in enumerate(clips_of(batch)):
        real = batch.documents_BT[row] == row
        alone = stacked([(batch.ids_BT[row][real].tolist(), [1] * int(real.sum()))], int(real.sum()))
        assert (states_of(model, with_sounds(alone, [clip]))[0] - states[row][real]).abs().max() < 1e-5
    other = with_sounds(batch, [clips_of(batch)[0] + 1.0, *clips_of(batch)[1:]])
    difference = (states_of(model, other) - states).abs().amax(-1)
    assert difference[0].max() > 1e-4 and difference[1:].max() == 0


def test_batches_are_a_function_of_the_step_and_the_rank(heard: Artifact, tmp_path: Path) -> None:
    def at(step: int, **share: int) -> Batch:
        found = batches(heard, tmp_path / f"{step}{share}", Augmentation(), **share)
        if step:
            found(0)
        return found(step)[0]

    whole, again = at(2), at(2)
    assert torch.equal(whole.ids_BT, again.ids_BT) and torch.equal(whole.extra["frames_CFM"], again.extra["frames_CFM"])
    for rank in (0, 1):
        part = at(2, rank=rank, world=2)
        for mine, theirs in zip(clips_of(part), clips_of(whole)[rank::2], strict=True):
            assert torch.equal(mine, theirs)
        assert part.tokens() == sum(int((whole.documents_BT[row] == row).sum()) for row in range(rank, 4, 2))


def test_sounds_are_changed_anew_at_every_draw(heard: Artifact, tmp_path: Path) -> None:
    model = listening()
    same = batches(heard, tmp_path / "same", UNCHANGED)(0)[0]
    assert torch.equal(same.extra["frames_CFM"], batches(heard, tmp_path / "none")(0)[0].extra["frames_CFM"])
    faster = Augmentation(speed=0.5, changed=1.0, noisy=0, gain_db=0, time_masks=0, channel_masks=0)
    (batch,) = batches(heard, tmp_path / "faster", faster)(0)
    assert batch.extra["frames_C"].tolist() != same.extra["frames_C"].tolist()
    for row, clip in enumerate(clips_of(batch)):
        assert int((batch.ids_BT[row] == TOKENIZER.speech_id).sum()) == model.tokens_of(len(clip))
    tight = store(heard, tmp_path / "tight", faster, limit=26)
    buckets = DurationBuckets(tight.seconds, len(tight), 3, rows=4, most_seconds=10.0, window=2)
    drawn = [SoundBatches(tight, buckets, SoundShape(), faster, 3)(step)[0].ids_BT.shape[1] for step in range(6)]
    assert max(drawn) == max(tight.tokens(i) for i in range(len(tight)))  # slowed down they would be longer
    masked = Augmentation(speed=0, noisy=0, gain_db=0, time_masks=0)
    found = batches(heard, tmp_path / "masked", masked)
    first = numpy_stream(3, "augment", 0, 0).random()
    assert first != numpy_stream(3, "augment", 1, 0).random() and found.rows.recordings.form == "frames"
    assert any((clip == 0).all(0).any() for clip in clips_of(found(0)[0]))


def test_recordings_are_decoded_once_within_the_limit(heard: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    from puna.speech import recordings as module

    asked: list[str] = []
    read = module.read_url
    monkeypatch.setattr(module, "read_url", lambda url, *others: asked.append(url) or read(url, *others))
    media = fit.heard_in([heard], "train", fit.Dialog)[:2]
    most = len(Recordings(MelConfig(), 0)(*media[0])) * 80 * 4
    asked.clear()
    kept = Recordings(MelConfig(), most)
    assert all(torch.equal(a, b) for a, b in zip([kept(*one) for one in media], [kept(*one) for one in media], strict=True))
    assert asked == ["media/0.flac", "media/1.flac", "media/1.flac"] and kept.bytes == most
    waves = Recordings(MelConfig(), 0, "samples")
    assert torch.equal(waves.frames(*media[1]), kept(*media[1])) and waves.count(*media[1]) == kept.count(*media[1])


def test_rows_are_left_out_whole_and_counted(tmp_path: Path) -> None:
    artifact = sounds(tmp_path / "sounds", train=3)
    rows = [dialog(artifact.path, i) for i in range(3)]
    long, longer = dialog(artifact.path, 4, 0.4), dialog(artifact.path, 5, 1.6)
    long.messages[0].content += "?" * 60
    silent = rows[0].model_copy(
        update={"id": "text", "messages": [MessageRow(role="user", content="Say low"), rows[0].messages[1]]}
    )
    write_rows(artifact.path / "train.jsonl", [*rows, long, longer, silent])
    found = store(artifact, tmp_path / "scratch")
    assert [bool(found.seconds(i)) for i in range(6)] == [True] * 3 + [False, True, False]
    assert [round(found.seconds(i), 2) for i in (0, 1, 2, 4)] == [0.24, 0.32, 0.4, 1.6]
    assert vars(found.left_out(1.0)) == {"overlong": 1, "empty": 1, "long": 1}
    assert vars(store(artifact, tmp_path / "scratch").left_out(1.0)) == {"overlong": 1, "empty": 1, "long": 1}


def test_the_text_model_comes_out_as_it_went_in(base: Artifact, heard: Artifact, encoder: Artifact, tmp_path: Path) -> None:
    made = run_stage(tmp_path, "speech.listen", "listens", [base, heard, encoder], **LISTEN)
    summary, model, text = made.summary(), load_speech(made.path), load_model(base.path)
    assert summary["frozen_text"]["digest"] == weights_digest(text) == weights_digest(model.text)
    assert summary["frozen_text"]["prompts"] == 12 and summary["dev"]["n"] == 6 and summary["rows"] == 12
    assert (made.path / "model.safetensors").read_bytes() == (base.path / "model.safetensors").read_bytes()
    assert model.sound == load_encoder(encoder.path).sound
    kept = run_stage(tmp_path, "speech.listen", "kept", [base, heard, encoder], **LISTEN, encoder_lr=0)
    trained, stays = load_encoder(encoder.path).encoder.state_dict(), load_speech(kept.path).encoder.state_dict()
    assert all(torch.equal(weight, stays[name]) for name, weight in trained.items())
    assert not torch.equal(model.encoder.state_dict()["input.weight"], trained["input.weight"])
    assert not torch.equal(load_speech(kept.path).adapter.conv, model.adapter.conv)
    with pytest.raises(InputError, match="another shape"):
        run_stage(tmp_path, "speech.listen", "other", [base, heard, encoder], **{**LISTEN, "encoder": {**ENCODER, "layers": 2}})


def test_a_changed_text_weight_is_not_written(
    base: Artifact, heard: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = fit.optimise

    def spoiling(model: torch.nn.Module, *others: object) -> object:
        result = train(model, *others)
        model.text.model.norm.weight.data[0] += 1e-3
        return result

    monkeypatch.setattr(fit, "optimise", spoiling)
    with pytest.raises(RunError, match="a weight of the frozen text model"):
        run_stage(tmp_path, "speech.listen", "listens", [base, heard], **LISTEN)
    assert not (tmp_path / "listens" / "speech.json").exists()


@pytest.mark.parametrize("uses", ["speech.listen", "speech.pretrain"])
def test_a_stopped_run_goes_on_to_the_bit(uses: str, base: Artifact, heard: Artifact, tmp_path: Path) -> None:
    own = {**LISTEN, "dev": 2} if uses == "speech.listen" else {**PLAIN, "encoder": ENCODER, "books": 2, "codes": 8}
    settings, inputs, stage = {**own, "steps": 5}, [base, heard], load_stage(uses)
    whole = run_stage(tmp_path, uses, "whole", inputs, **settings)
    calls = iter(range(100))
    ctx = replace(local_context(tmp_path / "again", name="whole", inputs=inputs, seed=7))
    with pytest.raises(Preempted):
        stage.run(stage.Settings(**settings), replace(ctx, stopping=lambda: next(calls) >= 2))
    (ctx.out / "metrics.jsonl").unlink(missing_ok=True)
    stage.run(stage.Settings(**settings), ctx)
    again = finished(ctx.out, stage.KIND, "again")
    weights = "speech_adapter.safetensors" if uses == "speech.listen" else "speech_encoder.safetensors"
    for name in ("metrics.jsonl", weights):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_pre_training_tells_labels_of_sounds_it_never_heard(encoder: Artifact) -> None:
    dev = encoder.summary()["dev"]
    assert dev["sounds"] == 6 and dev["guess"] == 1 / 16
    assert dev["after"]["label_accuracy"] > max(0.15, 2 * dev["before"]["label_accuracy"])
    assert dev["after"]["loss"] < dev["before"]["loss"]


def test_masks_and_noise_are_of_a_recording_alone() -> None:
    from puna.speech.bestrq import NOISE, QuantizerConfig
    from puna.speech.encoder import SpeechConfig

    clips = [torch.randn(frames, 80, generator=torch.Generator().manual_seed(frames)) for frames in (130, 61)]
    config, rules = SpeechConfig(**ENCODER), QuantizerConfig(books=2, codes=8)
    batch = masked_batch([(clip, np.random.default_rng(i)) for i, clip in enumerate(clips)], config, rules)
    alone = masked_batch([(clips[1], np.random.default_rng(1))], config, rules)
    assert batch.extra["masked_BS"].shape == (2, 33) and batch.tokens() == 33 + 16
    assert torch.equal(batch.extra["masked_BS"][1, :16], alone.extra["masked_BS"][0])
    assert not batch.extra["masked_BS"][1, 16:].any() and alone.extra["masked_BS"].any()
    assert torch.equal(batch.extra["noise_BSF"][1, :16], alone.extra["noise_BSF"][0])
    assert float(batch.extra["noise_BSF"][0].std()) == pytest.approx(NOISE, rel=0.05)
    assert not masked_batch([], config, rules).extra["masked_BS"].any()


def test_without_sounds_a_stage_says_so(base: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sounds to learn from"):
        run_stage(tmp_path, "speech.listen", "listens", [base], **LISTEN)
