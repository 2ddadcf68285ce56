"""What quality selection finds of planted faults, and what semantic de-duplication of 100,000 dialogs takes.

    python bench/quality.py [--quick] [--check]

`planted`: three mixes of the mini-world (2,000 rows each: copies, reworded copies, other topics, apologies, wrong answers,
held-out tasks), selected as `post.quality.select` does by default, without models; recall and precision per class over the
three. `no verifier` is the same without the tasks' own checks: what is wrong then has to be found by a reward model or a
judge, and there is none here.

`semantic`: generated dialogs on 300 topics, one in five a copy in which two words of forty were changed, in a process of
their own with two threads: hashed vectors, clusters, greedy choice; processor and wall seconds, and how much memory grows
from a fifth of the rows to all. Truth is a sample compared with all rows: the pairs above the limit that there are. The peer
is SemDeDup (Abbas et al. 2023) as published, in NumPy and on the same vectors: k-means by full passes, then all similarities
of a cluster, and a row is left out if it is like any earlier one. The limit is the time that the matrix products of our own
run take by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
from sft_prepare import resident_mb, words  # noqa: E402

ROWS, DIM, SAMPLE, SIMILARITY = 100_000, 256, 1000, 0.82
COPIES, CHANGED, WORDS_A_ROW = 0.2, 0.05, 40
TOPICS, TOPIC_WORDS = 300, 100  # every dialog has half of its words from one topic's
PEER_PASSES = 10  # over all rows, of the peer's k-means
LEAST, SECONDS, GROWTH_MB = (
    0.9,
    120.0,
    128.0,
)  # goals: recall and precision, wall seconds, memory that five times the rows may add
SEEDS = (1, 2, 3)


def planted(rows: int, seed: int, root: Path) -> dict[str, dict[str, Any]]:
    """Select from one mix, with the verifiers and without; scores by class."""
    from puna.core.stage import local_artifact, local_context
    from puna.post import collect
    from puna.post.quality import planted as mixes
    from puna.post.quality import scores, select

    def made(stage: Any, name: str, inputs: list[Any], **settings: Any) -> Any:
        out = root / f"{name}-{seed}"
        stage.run(stage.Settings(**settings), local_context(out, name=name, inputs=inputs, seed=seed))
        return local_artifact(out, stage.KIND, name)

    tasks = made(collect, "tasks", [], sources=["world"], gold=100, prompts=200, dev=300, test=300)
    mix = made(mixes, "mix", [tasks], rows=rows)
    measured = made(scores, "measured", [tasks, mix], parts=["samples"])
    found = {}
    blind = select.KEEP.replace("verified and ", "").replace("(verified or reward or judge) and ", "")
    for name, keep in (("with verifier", select.KEEP), ("no verifier", blind)):
        chosen = made(select, name.replace(" ", "-"), [tasks, mix, measured], parts=["samples"], keep=keep)
        found[name] = json.loads((chosen.path / select.SELECTION).read_text())["planted"]
    return found


def pooled(found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Rates by class over several mixes, from their counts."""
    totals: dict[str, Counter[str]] = {}
    for scores in found:
        for fault, row in scores.items():
            total = totals.setdefault(fault, Counter())
            total.update(planted=row["planted"], found=row["found"])
            total.update(hits=round(row["recall"] * row["planted"]), right=round(row["precision"] * row["found"]))
    return {
        fault: {
            "recall": total["hits"] / total["planted"],
            "precision": total["right"] / total["found"] if total["found"] else 1.0,
            "planted": total["planted"],
            "found": total["found"],
        }
        for fault, total in totals.items()
    }


def dialogs(count: int) -> list[dict[str, Any]]:
    """Rows of made-up words on made-up topics; `of` names the row that a copy was made from."""
    draw = random.Random(1)
    known = words(draw)
    topics = [draw.sample(known, TOPIC_WORDS) for _ in range(TOPICS)]
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        if rows and draw.random() < COPIES:
            of = draw.randrange(len(rows))
            text = list(rows[of]["text"])
            for place in draw.sample(range(len(text)), round(CHANGED * len(text))):
                text[place] = draw.choice(known)
        else:
            topic = draw.choice(topics)
            of, text = -1, [draw.choice(draw.choice((topic, known))) for _ in range(WORDS_A_ROW)]
        rows.append({"text": text, "of": of})
    return rows


class Memory(threading.Thread):
    """The most memory seen, not counting what is mapped from files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = resident_mb()
        self.start()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, resident_mb())
            time.sleep(0.02)


def child(folder: Path) -> dict[str, float]:
    """Embed and de-duplicate the rows of a folder."""
    import torch

    from puna.post.quality import embed, rows
    from puna.post.quality.semantic import SemanticSettings, deduplicate
    from puna.tokenizer.dialog import Dialog, read_rows

    torch.set_num_threads(2)

    def parts() -> Any:
        return rows.batches(read_rows(folder / "rows.jsonl", Dialog))

    embedder = embed.HashedEmbedder(DIM, 0)
    embedder.vectors(next(parts())[:2])  # compiles
    memory, start, cpu = Memory(), time.perf_counter(), time.process_time()
    count = 0
    for part in parts():
        embedder.learn(part)
        count += len(part)
    embed.write_embeddings(folder / "vectors.npy", embedder, parts(), count)
    embedded = time.perf_counter() - start, time.process_time() - cpu
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    settings = SemanticSettings(similarity=SIMILARITY, sample=SAMPLE)
    found = deduplicate(vectors, np.ones(count), settings, 0)
    whole = time.perf_counter() - start, time.process_time() - cpu
    np.save(folder / "of.npy", found.of)
    return {
        "rows": count, "embed_s": embedded[0], "embed_cpu_s": embedded[1], "s": whole[0], "cpu_s": whole[1],
        "left_out": int((found.of >= 0).sum()), "clusters": found.clusters, "missed_of_sample": found.missed["missed"],
        "sampled": found.missed["sampled"], "before_mb": memory.before, "peak_mb": memory.peak,
    }  # fmt: skip


def measure(root: Path, count: int) -> dict[str, float]:
    """`child` over `count` rows, in a process of its own, and how it did against a sample compared with all."""
    folder = root / str(count)
    folder.mkdir()
    rows = dialogs(count)
    provenance = {"source": "bench", "licence": "CC0-1.0"}
    with (folder / "rows.jsonl").open("w") as file:
        for number, row in enumerate(rows):
            half = len(row["text"]) // 2
            said = [("user", row["text"][:half]), ("assistant", row["text"][half:])]
            messages = [{"role": role, "content": " ".join(text)} for role, text in said]
            file.write(json.dumps({"id": str(number), "messages": messages, "provenance": provenance}) + "\n")
    command = [sys.executable, str(HERE), "--child", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    found = json.loads(done.stdout.splitlines()[-1])
    vectors, of = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "of.npy")
    return found | against_truth(vectors, of, [row["of"] for row in rows])


def against_truth(vectors: np.ndarray, of: np.ndarray, planted_of: list[int]) -> dict[str, float]:
    """Recall of the pairs that a sample has with all rows, precision of what was left out of it, recall of planted copies."""
    sample = np.sort(np.random.default_rng(0).choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
    similar = vectors[sample].astype(np.float32) @ vectors.astype(np.float32).T
    similar[np.arange(len(sample)), sample] = 0
    row, other = np.nonzero(similar >= SIMILARITY)
    parted = (of[sample[row]] >= 0) | (of[other] >= 0)
    left = of[sample] >= 0
    copies = [(i, source) for i, source in enumerate(planted_of) if source >= 0]
    met = [of[i] >= 0 or of[source] >= 0 for i, source in copies]
    return {
        "pairs": len(row),
        "recall": float(parted.mean()) if len(row) else 1.0,
        "precision": float((similar[left].max(1) >= SIMILARITY).mean()) if left.any() else 1.0,
        "planted_recall": float(np.mean(met)),
    }


def peer(path: Path, clusters: int) -> dict[str, float]:
    """SemDeDup in NumPy, single precision: Lloyd's k-means on the sphere, then every similarity of a cluster."""
    start, cpu = time.perf_counter(), time.process_time()
    vectors = np.load(path).astype(np.float32)
    rng = np.random.default_rng(0)
    centres = vectors[rng.choice(len(vectors), clusters, replace=False)]
    for _ in range(PEER_PASSES):
        nearest = (vectors @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    left = np.zeros(len(vectors), dtype=bool)
    for cluster in range(clusters):
        members = np.flatnonzero(nearest == cluster)
        similar = np.triu(vectors[members] @ vectors[members].T, 1)
        left[members] = similar.max(0, initial=0) >= SIMILARITY if len(members) else False
    return {"s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "left_out": int(left.sum())}


def product_seconds(rows: int, clusters: int, rows_per_cluster: int) -> float:
    """Seconds that the products of one run of ours take: centres, assignment and pairs, at the rate measured here."""
    import torch

    from puna.post.quality.semantic import SemanticSettings

    settings = SemanticSettings()
    torch.set_num_threads(2)
    a, b = torch.randn(4096, DIM), torch.randn(DIM, 512)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        rates.append(2 * a.shape[0] * a.shape[1] * b.shape[1] / (time.perf_counter() - start))
    multiplications = (
        settings.rounds * settings.batch * clusters + rows * clusters + rows * settings.nearest**2 * rows_per_cluster
    )
    return 2 * multiplications * DIM / max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small mix, a tenth of the dialogs")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child)))
        return
    rows = ROWS // 10 if args.quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        mixes = [planted(500 if args.quick else 2000, seed, root) for seed in (SEEDS[:1] if args.quick else SEEDS)]
        faults = {name: pooled([mix[name] for mix in mixes]) for name in mixes[0]}
        for name, scores in faults.items():
            for fault, row in scores.items():
                print(
                    f"{name:<14} {fault:<16} recall {row['recall']:.3f} of {row['planted']:>4}, "
                    + (f"precision {row['precision']:.3f} of {row['found']:>4}" if row["found"] else "nothing found"),
                    flush=True,
                )
        small, large = measure(root, rows // 5), measure(root, rows)
        theirs = peer(root / str(rows) / "vectors.npy", int(large["clusters"]))
    limit = product_seconds(rows, int(large["clusters"]), rows // int(large["clusters"]))
    growth = (large["peak_mb"] - large["before_mb"]) - (small["peak_mb"] - small["before_mb"])
    print(
        f"semantic: {rows:,} dialogs in {large['s']:.1f} s ({large['cpu_s']:.1f} of processor, {large['embed_cpu_s']:.1f} of it "
        f"vectors); products alone {limit:.1f} s; memory {large['peak_mb'] - large['before_mb']:.0f} MB, {growth:+.0f} by five "
        "times the rows"
    )
    print(
        f"  recall {large['recall']:.3f} of {large['pairs']} pairs, precision {large['precision']:.3f}, "
        f"planted copies {large['planted_recall']:.3f}; peer {theirs['s']:.1f} s ({theirs['cpu_s']:.1f} of processor)"
    )
    rates = ("recall", "precision")
    least = {f"{name} {rate}": row[rate] for name, row in faults["with verifier"].items() for rate in rates}
    least |= {f"semantic {rate}": large[rate] for rate in rates}
    ratios = {
        "least_rate": min(least.values()),
        "seconds": large["s"],
        "growth_mb": growth,
        "peer_over_ours_cpu": theirs["cpu_s"] / (large["cpu_s"] - large["embed_cpu_s"]),
    }
    print(json.dumps({
        "bench": "quality", "planted": faults, "semantic": {"small": small, "large": large, "peer": theirs, "products_s": limit},
        "ratios": ratios, "limits": {"least_rate": LEAST, "seconds": SECONDS, "growth_mb": GROWTH_MB},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "numpy")},
    }))  # fmt: skip
    missed = [name for name, rate in least.items() if rate < LEAST]
    missed += [name for name, most in (("seconds", SECONDS), ("growth_mb", GROWTH_MB)) if ratios[name] > most]
    if args.check and missed:
        sys.exit("missed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
