"""Real speech: a recogniser of spoken digits that learns from two people and is scored on the third, each in turn.

    python bench/spoken_digits.py [--quick] [--data ../shared/data] [--model DIR]

Recordings are the test part of the Free Spoken Digit Dataset (three people, ten digits, five takes). A small text model is taught
from text to repeat what it is told (or `--model` is taken), then `speech.listen` puts encoder and adapter around it, the text
model frozen, and trains them on two people and on generated sounds that are no speech. The digit is the likeliest of eleven
answers, "no speech" among them. Controls: chance (1 in 10), and the same people with each recording's sound swapped for that of
another digit. Bird and trumpet, never trained on, are answered by the model and told by `puna.speech.voice`. Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOTHING = "no speech"
ANSWERS = (*DIGITS, NOTHING)
WORDS = (*DIGITS, "no", " speech", "Repeat", " after", " me", " in", " English", "system", "user", "assistant", "\n\n")
PEOPLE = ("george", "jackson", "lucas")
ASKED = "Repeat after me in English:"
RATE = 8_000  # of the recordings, and of the generated sounds, so that bandwidth does not tell them apart
OTHERS = 20  # generated sounds that are no speech
TEXT = {"dim": 96, "layers": 3, "heads": 4, "kv_heads": 4, "ffn_dim": 256, "max_seq_len": 256}
TEXT_STEPS, TEXT_ROWS, TEXT_LR = 400, 16, 3e-3
FILLER, MOST_FILLER = "#*~^|_=+", 25  # what stands around a word in text, as parts of a sound that say nothing do


def dialog(name: str, answer: str, user: Any) -> Any:
    """One row: what is asked, what is heard or read, and what is right."""
    from puna.tokenizer.dialog import Dialog, MessageRow, Provenance

    heard = MessageRow(role="user", **user)
    asked = MessageRow(role="system", content=ASKED)
    return Dialog(id=name, messages=[asked, heard, MessageRow(role="assistant", content=answer)],
                  provenance=Provenance(source="fsdd", licence="CC-BY-SA-4.0"))  # fmt: skip


def among_filler(answer: str, rng: np.random.Generator) -> str:
    """The word at a random place among 1 to 25 tokens that say nothing; those alone where the answer is "no speech"."""
    filler = "".join(rng.choice(list(FILLER), rng.integers(1, MOST_FILLER + 1)))
    place = int(rng.integers(len(filler) + 1))
    return filler if answer == NOTHING else filler[:place] + answer + filler[place:]


def repeating_model(directory: Path) -> None:
    """A small text model that repeats a digit it reads, wherever it stands among tokens that say nothing."""
    from puna.model.checkpoint import save_model
    from puna.model.config import ModelConfig
    from puna.model.llama import Llama
    from puna.post.examples import encode_dialog
    from puna.tokenizer.bpe import Tokenizer
    from puna.train.objectives import CrossEntropy
    from puna.train.packing import stacked

    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in WORDS:  # each is one token, and so are its beginnings, from which it is merged
        for length in range(2, len(word) + 1):
            ranks.setdefault(word[:length].encode(), len(ranks))
    tokenizer = Tokenizer.from_ranks(ranks)
    model = Llama(ModelConfig(vocab_size=tokenizer.vocab_size, **TEXT), seed=0)
    rng, optimizer = np.random.default_rng(0), torch.optim.AdamW(model.parameters(), TEXT_LR)
    objective = CrossEntropy()
    for step in range(TEXT_STEPS):
        optimizer.param_groups[0]["lr"] = TEXT_LR * min(1.0, (step + 1) / 20) * (1 - step / TEXT_STEPS)
        said = rng.choice(ANSWERS, TEXT_ROWS)
        rows = [encode_dialog(tokenizer, dialog(a, a, {"content": among_filler(a, rng)})) for a in said.tolist()]
        batch = stacked([(row.ids, row.loss_mask) for row in rows], max(len(row.ids) for row in rows))
        sums, counts = objective.sums(model, batch)[0], objective.counts(batch)
        loss = sum(sums[term] / counts[term] for term in sums)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"text model: loss {float(loss.detach()):.4f} after {TEXT_STEPS} steps on text")
    save_model(model, directory, tokenizer=tokenizer)


def other_sound(seed: int) -> np.ndarray:
    """Notes, sweeps, hiss, clicks, hum or silence, 0.3 to 2 s."""
    rng = np.random.default_rng([9, seed])
    at = np.arange(round(RATE * rng.uniform(0.3, 2))) / RATE
    kind, pitch = seed % 6, 2 ** rng.uniform(7, 12)
    if kind == 0:  # notes with overtones
        steps = pitch * 2 ** (np.floor(at / rng.uniform(0.15, 0.5)) * rng.integers(-3, 4) / 12)
        wave = sum(np.sin(2 * np.pi * np.cumsum(steps) * k / RATE) / k for k in range(1, 6))
    elif kind == 1:
        wave = np.sin(2 * np.pi * (pitch * at + rng.uniform(-800, 800) * at**2))
    elif kind == 2:
        wave = rng.standard_normal(len(at))
    elif kind == 3:
        wave = (rng.random(len(at)) < 0.001).astype(float)
    elif kind == 4:
        wave = sum(np.sin(2 * np.pi * rng.uniform(45, 65) * k * at) / k for k in range(1, 8))
    else:
        wave = np.zeros(len(at))
    wave = wave * rng.uniform(0.05, 0.4) + 10 ** rng.uniform(-5, -2.5) * rng.standard_normal(len(at))
    return np.clip(wave, -1, 1).astype(np.float32)


def sounds(directory: Path, data: Path, people: list[str]) -> None:
    """A `sounds` artifact: the digits of these people, and sounds that are no speech."""
    import shutil

    import soundfile

    from puna.tokenizer.chat import Medium
    from puna.tokenizer.dialog import write_rows

    (directory / "media").mkdir(parents=True)
    rows = []
    for person in people:
        for file in sorted((data / "speech_fsdd").glob(f"*_{person}_*.wav")):
            shutil.copyfile(file, directory / "media" / file.name)
            rows.append((file.name, DIGITS[int(file.name[0])]))
    for i in range(OTHERS):
        soundfile.write(directory / "media" / f"other_{i}.flac", other_sound(i), RATE)
        rows.append((f"other_{i}.flac", NOTHING))
    write_rows(
        directory / "train.jsonl",
        [dialog(name, answer, {"media": (Medium(0, "audio", f"media/{name}"),)}) for name, answer in rows],
    )
    write_rows(directory / "dev.jsonl", [])


def listen(root: Path, text: Path, heard: Path, steps: int) -> dict[str, Any]:
    """Train `speech.listen` under `root / "model"`; its summary."""
    from dataclasses import replace

    from puna.core.modules import load_stage
    from puna.core.stage import local_artifact, local_context
    from puna.core.store import digest_files

    inputs = [
        replace(local_artifact(path, kind, kind), digest=digest_files(path)[0], record={"inputs": []})
        for path, kind in ((text, "model"), (heard, "sounds"))
    ]
    stage = load_stage("speech.listen")
    augment = {"speed": 0.0, "noisy": 0.0, "gain_db": 0.0, "time_masks": 0.0, "channel_masks": 1, "channel_width": 10}
    settings = stage.Settings(steps=steps, dev=0, batch_rows=12, window=2, log_every=50, adapter={"dim": 96, "ffn_dim": 192},
                              augment=augment, optimizer="muon", lr=5e-3, curve="wsd", warmup=20, decay=0.5)  # fmt: skip
    return stage.run(settings, local_context(root / "model", name="digits", inputs=inputs, seed=1))


@torch.no_grad()
def likeliest(model: Any, tokenizer: Any, wave_N: Tensor) -> str:
    """The likeliest of the answers to a sound, by the sum over its tokens."""
    from puna.post.examples import encode_dialog
    from puna.speech.collate import with_sounds
    from puna.speech.frames import frames_of
    from puna.tokenizer.chat import Medium
    from puna.train.objectives import beside, hidden_at_targets
    from puna.train.packing import stacked

    frames_FM = frames_of(wave_N, model.sound)
    heard = {"media": (Medium(0, "audio", "sound"),)}
    rows = [encode_dialog(tokenizer, dialog(a, a, heard), [model.tokens_of(len(frames_FM))]) for a in ANSWERS]
    batch = stacked([(row.ids, row.loss_mask) for row in rows], max(len(row.ids) for row in rows))
    batch = beside(model, with_sounds(batch, [frames_FM] * len(rows)))
    states_ND, targets_N = hidden_at_targets(model, batch)
    loss_N = torch.nn.functional.cross_entropy(model.lm_head(states_ND).float(), targets_N, reduction="none")
    losses_BT = torch.zeros(batch.targets_BT.numel())
    losses_BT[batch.supervised()] = loss_N
    return ANSWERS[int(losses_BT.view_as(batch.targets_BT).sum(1).argmin())]


def clips(data: Path, pattern: str) -> dict[str, Tensor]:
    """Recordings at 16 kHz by the names of their files."""
    from puna.speech.sound import at_rate, read_sound

    return {file.name: at_rate(read_sound(file)) for file in sorted(data.glob(pattern))}


def scored(model: Any, tokenizer: Any, data: Path, person: str) -> dict[str, Any]:
    """What the model hears of somebody it never heard, and of bird and trumpet; voice activity beside."""
    from puna.speech.voice import segments

    found = clips(data, f"speech_fsdd/*_{person}_*.wav")
    said = {name: likeliest(model, tokenizer, wave) for name, wave in found.items()}
    right = [answer == DIGITS[int(name[0])] for name, answer in said.items()]
    learnt = [
        likeliest(model, tokenizer, wave) == DIGITS[int(name[0])]
        for other in PEOPLE
        if other != person
        for name, wave in clips(data, f"speech_fsdd/*_{other}_0.wav").items()
    ]
    names = list(found)
    order = np.random.default_rng(0).permutation(len(names))
    swapped = [said[names[j]] == DIGITS[int(names[i][0])] for i, j in enumerate(order) if names[i][0] != names[j][0]]
    others = clips(data, "speech_libri/[bt]*.ogg")
    return {
        "right": right, "swapped": swapped, "learnt": learnt, "silent": sum(answer == NOTHING for answer in said.values()),
        "others": {name: likeliest(model, tokenizer, wave) for name, wave in others.items()},
        "voice": {"digits": sum(bool(segments(wave)) for wave in found.values()),
                  "others": sum(bool(segments(wave)) for wave in others.values())},
    }  # fmt: skip


def share(passed: list[bool]) -> str:
    """A pass rate with its interval."""
    from puna.core.intervals import wilson

    low, high = wilson(sum(passed), len(passed))
    return f"{100 * sum(passed) / len(passed):5.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {len(passed)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one person, fewer steps")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", type=Path, help="a text model that can repeat, in place of the small one")
    parser.add_argument("--steps", type=int, help="of speech.listen for each person (200; quick: 100)")
    args = parser.parse_args()
    if not (args.data / "speech_fsdd").is_dir():
        sys.exit(f"no recordings under {args.data}: name the folder with --data")
    from puna.speech.files import load_speech
    from puna.tokenizer.bpe import Tokenizer

    torch.set_num_threads(1)
    steps = args.steps or (100 if args.quick else 200)
    results, began = {}, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        text = args.model or root / "text"
        if args.model is None:
            repeating_model(text)
        for person in PEOPLE[: 1 if args.quick else None]:
            place = root / person
            sounds(place / "sounds", args.data, [other for other in PEOPLE if other != person])
            summary = listen(place, text, place / "sounds", steps)
            model = load_speech(place / "model").eval()
            results[person] = scored(model, Tokenizer.load(place / "model"), args.data, person)
            one = results[person]
            print(
                f"{person}: {share(one['right'])}; swapped {share(one['swapped'])}; loss {summary['loss']:.3f}; {one['others']}"
                f"; of those it learnt from {share(one['learnt'])}"
            )
    right, swapped = ([passed for one in results.values() for passed in one[key]] for key in ("right", "swapped"))
    print(f"all: {share(right)}; swapped {share(swapped)}; chance 10 %")
    others = [answer == NOTHING for one in results.values() for answer in one["others"].values()]
    shares = {"right": sum(right) / len(right), "swapped": sum(swapped) / len(swapped), "chance": 0.1}
    print(json.dumps({
        "bench": "spoken_digits", "ratios": shares, "n": len(right),
        "by_person": {person: sum(one["right"]) / len(one["right"]) for person, one in results.items()},
        "other_sounds_told": f"{sum(others)} of {len(others)}",
        "digits_taken_for_no_speech": sum(one["silent"] for one in results.values()),
        "voice_activity": {key: sum(one["voice"][key] for one in results.values()) for key in ("digits", "others")},
        "steps": steps, "cpu_seconds": round(time.process_time() - began, 1), "quick": args.quick,
        "machine": platform.machine(), "versions": {"torch": torch.__version__},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
