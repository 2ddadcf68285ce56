"""What `posttrain_vs_trl` compares: one job of post-training on each side, each in a process of its own.

Puna's jobs are its stages `post.sft`, `post.dpo` and `post.reject` as a run executes them; the clock is read where the training
loop says that a step begins. TRL's are its trainers as its documentation sets them up, gradient checkpointing off, and the clock
is read in a callback. What a side does before its first step (rendering, encoding, packing ahead) and after its last (judging,
saving) is in neither figure; the reference pass of DPO is in both. Sampling is counted whole but for reading the model: rendering
of prompts, drawing, decoding, and on Puna's side the verifier and the files too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

WARM = 2  # steps before the clock counts
DIALOG = 256  # tokens of a dialog, about: so many are together where nothing is packed
LENGTH = 1024  # tokens of a packed row, and the longest dialog
BETA, NLL, LR = 0.1, 0.2, 1e-5  # of DPO: the paper's


def clock() -> tuple[float, float]:
    """Seconds of this process on a processor, and by the wall."""
    return time.process_time(), time.perf_counter()


@dataclass
class Marks:
    """When each step began, and the tokens that were read before it."""

    times: list[tuple[float, float]] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def per_token(self, warm: int = WARM) -> tuple[float, float]:
        """Seconds a token from the beginning of step `warm` to that of the last step: processor, wall."""
        tokens = self.tokens[-1] - self.tokens[warm]
        first, last = self.times[warm], self.times[-1]
        return (last[0] - first[0]) / tokens, (last[1] - first[1]) / tokens


@dataclass(frozen=True)
class Job:
    """Sizes of one comparison.

    Attributes:
        steps: of SFT, the warm ones and a last one that is not timed included. batch_tokens: of a step of SFT.
        pairs_per_step: of DPO, at least three steps; every pair is trained on once.
        pairs, prompts: how many there are of them. k, max_tokens: answers of each prompt and their length.
    """

    steps: int = 5
    batch_tokens: int = 4096
    pairs: int = 32
    pairs_per_step: int = 8
    prompts: int = 24
    k: int = 16
    max_tokens: int = 64


# ---- Puna


def context(root: Path, name: str, marks: Marks | None = None) -> Any:
    """A stage's context over the prepared model and tasks."""
    from puna.core.stage import local_artifact, local_context

    model = replace(local_artifact(root / "base", "model"), digest="base")
    ctx = local_context(root / "out" / name, name=name, inputs=[model, local_artifact(root / "tasks", "tasks")], seed=1)

    def alive(step: int, doing: str) -> None:
        if marks is not None and doing == "reading":
            marks.times.append(clock())

    return replace(ctx, alive=alive)


def tokens_before(ctx: Any) -> list[float]:
    """Tokens read before each step, from the rows that the loop wrote after each."""
    rows = [json.loads(line) for line in (ctx.out / "metrics.jsonl").read_text().splitlines()]
    return [0.0, *(float(row["tokens"]) for row in rows if "tokens" in row)][:-1]


def puna_sft(root: Path, job: Job, way: str) -> dict[str, Any]:
    """`way`: precision of the products."""
    from puna.post import sft

    marks = Marks()
    ctx = context(root, "sft", marks)
    settings = sft.Settings(
        steps=job.steps, batch_tokens=job.batch_tokens, length=LENGTH, dev=1, max_tokens=1, log_every=1, checkpoint_seconds=1e9,
        precision=way,
    )  # fmt: skip
    sft.run(settings, ctx)
    marks.tokens = tokens_before(ctx)
    return {"seconds": marks.per_token()}


def puna_dpo(root: Path, job: Job, way: str) -> dict[str, Any]:
    from puna.post import dpo

    marks = Marks()
    ctx = context(root, "dpo", marks)
    reference = timed(dpo, "cached_reference")
    laid = kept(dpo, "_batches")
    settings = dpo.Settings(
        beta=BETA, nll=NLL, lr=LR, pairs_per_step=job.pairs_per_step, least_pairs=1, length=LENGTH, evaluate_every=0, dev=1,
        max_tokens=1, log_every=1, checkpoint_seconds=1e9,
    )  # fmt: skip
    dpo.run(settings, ctx)
    sizes = [
        sum(len(answer.ids) for i in laid[0].drawn(step) for answer in laid[0].rows[i].answers)
        for step in range(len(marks.times))
    ]
    marks.tokens = list(accumulate(sizes[:-1], initial=0.0))
    return {"seconds": marks.per_token(1), "reference": reference[0]}


def timed(module: Any, name: str) -> list[tuple[float, float]]:
    """Seconds of each call of a module's function from now on."""
    function, found = getattr(module, name), []

    def watched(*args: Any, **more: Any) -> Any:
        start = clock()
        result = function(*args, **more)
        end = clock()
        found.append((end[0] - start[0], end[1] - start[1]))
        return result

    setattr(module, name, watched)
    return found


def kept(module: Any, name: str) -> list[Any]:
    """What a module's function returns from now on."""
    function, found = getattr(module, name), []

    def watched(*args: Any, **more: Any) -> Any:
        found.append(function(*args, **more))
        return found[-1]

    setattr(module, name, watched)
    return found


def puna_sample(root: Path, job: Job, way: str) -> dict[str, Any]:
    """`way`: precision of the policy. What the stage imports to write is imported before, as the other side's packages are."""
    import pyarrow.parquet  # noqa: F401

    from puna.post import reject

    loading = timed(reject, "open_policy")
    ctx = context(root, "sample")
    start = clock()
    reject.run(reject.Settings(k=job.k, max_tokens=job.max_tokens, temperature=1.0, precision=way), ctx)
    end = clock()
    tokens = sum(len(json.loads(line)["ids"]) for line in (ctx.out / "samples.jsonl").read_text().splitlines())
    return {"seconds": tuple((end[i] - start[i] - loading[0][i]) / tokens for i in (0, 1))}


# ---- TRL and transformers


def trl_arguments(kind: Any, root: Path, rows: int, accumulate: int, **more: Any) -> Any:
    """Arguments of a trainer: nothing saved, nothing recomputed, a log row per step as on our side."""
    return kind(
        output_dir=str(root / "out" / "trl"), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        gradient_checkpointing=False, per_device_train_batch_size=rows, gradient_accumulation_steps=accumulate, logging_steps=1,
        max_length=LENGTH, lr_scheduler_type="constant", max_grad_norm=1.0, dataloader_num_workers=0, **more,
    )  # fmt: skip


def rows_of(root: Path, name: str) -> Any:
    from datasets import Dataset

    return Dataset.from_list([json.loads(line) for line in (root / name).read_text().splitlines()])


def watch(trainer: Any, read: Callable[[], float]) -> Marks:
    """Marks at the beginning of every step of a trainer; `read` tells its tokens so far."""
    from transformers import PrinterCallback, TrainerCallback

    marks = Marks()

    class Clock(TrainerCallback):
        def on_step_begin(self, *others: Any, **more: Any) -> None:
            marks.times.append(clock())
            marks.tokens.append(read())

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    return marks


def loaded(root: Path) -> tuple[Any, Any]:
    """The same weights and tokenizer in transformers."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(root / "base", dtype=torch.float32), AutoTokenizer.from_pretrained(root / "base")


def trl_sft(root: Path, job: Job, way: str) -> dict[str, Any]:
    """`way`: what a forward pass takes, "packed N" rows of LENGTH tokens or "padded N" dialogs of like length; the precision.

    Packed rows go with position ids, from which transformers makes a document mask for torch's attention.
    """
    import trl

    model, tokenizer = loaded(root)
    kind, rows, precision = way.split()
    together = job.batch_tokens // LENGTH if kind == "packed" else job.batch_tokens // DIALOG
    more = {"packing": True} if kind == "packed" else {"train_sampling_strategy": "group_by_length"}
    arguments = trl_arguments(
        trl.SFTConfig, root, int(rows), max(1, together // int(rows)), max_steps=job.steps, learning_rate=2e-3, weight_decay=0.1,
        bf16=precision == "bf16", **more,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model, arguments, train_dataset=rows_of(root, "sft.jsonl"), processing_class=tokenizer)
    marks = watch(trainer, lambda: float(trainer._total_train_tokens))
    trainer.train()
    return {"seconds": marks.per_token(), "peak_mb": peak_mb(), "apart": apart(trainer, root, 1, packed_loss)}


def apart(trainer: Any, root: Path, rows: int, ours: Callable[[Any, list[dict[str, Any]]], float]) -> float:
    """How far the trainer's loss of its first rows, under the weights it began with, is from that of Puna's objective."""
    import torch

    from puna.model.checkpoint import load_model

    trainer.model.load_state_dict(loaded(root)[0].state_dict())
    first = [trainer.train_dataset[i] for i in range(rows)]
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        theirs = trainer.compute_loss(trainer.model, trainer.data_collator(first))
        return abs(float(theirs) - ours(load_model(root / "base"), first))


def packed_loss(model: Any, rows: list[dict[str, Any]]) -> float:
    """Mean cross-entropy of TRL's rows, each a dialog or several with their lengths."""
    from puna.train.objectives import CrossEntropy
    from puna.train.packing import pack

    examples = []
    for row in rows:
        start = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            part = slice(start, start + length)
            examples.append((row["input_ids"][part], [int(label >= 0) for label in row["labels"][part]]))
            start += length
    batch = pack(examples, None, LENGTH)
    return CrossEntropy().sums(model, batch)[0]["ce"].item() / CrossEntropy().counts(batch)["ce"]


def trl_dpo(root: Path, job: Job, way: str) -> dict[str, Any]:
    """`way`: pairs of a forward pass. TRL has no DPO without padding at present: it says so and pads."""
    import trl

    rows, tokens, took = int(way), [0.0], []

    class Trainer(trl.DPOTrainer):
        def _precompute_ref_logps(self, *args: Any, **more: Any) -> Any:
            start = clock()
            found = super()._precompute_ref_logps(*args, **more)
            end = clock()
            took.append((end[0] - start[0], end[1] - start[1]))
            return found

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            tokens[0] += float(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *args, **more)

    model, tokenizer = loaded(root)
    arguments = trl_arguments(
        trl.DPOConfig, root, rows, job.pairs_per_step // rows, beta=BETA, loss_type=["sigmoid", "sft"], loss_weights=[1.0, NLL],
        precompute_ref_log_probs=True, num_train_epochs=1, learning_rate=LR, bf16=False,
    )  # fmt: skip
    trainer = Trainer(model, args=arguments, train_dataset=rows_of(root, "pairs.jsonl"), processing_class=tokenizer)
    marks = watch(trainer, lambda: tokens[0])
    trainer.train()
    return {
        "seconds": marks.per_token(1),
        "reference": took[0],
        "peak_mb": peak_mb(),
        "apart": apart(trainer, root, 4, pair_loss),
    }


def pair_loss(model: Any, rows: list[dict[str, Any]]) -> float:
    """Puna's loss of TRL's rows, terminators in the sums as TRL has them."""
    import torch

    from puna.post.dpo import PairLoss
    from puna.post.examples import Encoded, Ranked
    from puna.post.pairs import ranked_batch

    def encoded(prompt: list[int], answer: list[int]) -> Encoded:
        return Encoded([*prompt, *answer], [0] * len(prompt) + [1] * len(answer), [0] * (len(prompt) + len(answer)))

    sides = ("chosen", "rejected")
    ranked = [Ranked("", "", [encoded(row["prompt_ids"], row[f"{side}_ids"]) for side in sides]) for row in rows]
    batch = ranked_batch(ranked, LENGTH)
    batch.extra["reference_PR"] = torch.tensor([[float(row[f"ref_{side}_logps"]) for side in sides] for row in rows])
    objective = PairLoss(BETA, NLL)
    terms, counts = objective.sums(model, batch)[0], objective.counts(batch)
    return sum(weight * terms[term].item() / counts[term] for term, weight in objective.weights.items())


def trl_sample(root: Path, job: Job, way: str) -> dict[str, Any]:
    """`way`: prompts of a call of transformers' `generate`, and its precision; prompts of like length go together."""
    import torch

    model, tokenizer = loaded(root)
    size, precision = int(way.split()[0]), way.split()[1]
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    prompts = [json.loads(line)["prompt"] for line in (root / "tasks/prompts.jsonl").read_text().splitlines()]
    stops, count = torch.tensor(model.generation_config.eos_token_id), 0
    tokenizer.padding_side = "left"
    start = clock()
    prompts.sort(key=lambda prompt: len(prompt[-1]["content"]))
    for first in range(0, len(prompts), size):
        part = [[{"role": m["role"], "content": m["content"]} for m in prompt] for prompt in prompts[first : first + size]]
        inputs = tokenizer.apply_chat_template(
            part, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids = model.generate(**inputs, do_sample=True, top_k=0, num_return_sequences=job.k, max_new_tokens=job.max_tokens)
        answers = ids[:, inputs["input_ids"].shape[1] :]
        ends = torch.isin(answers, stops).long()
        count += int((ends.cumsum(1) - ends == 0).sum())  # up to the first stop token, which counts
        tokenizer.batch_decode(answers, skip_special_tokens=True)
    end = clock()
    return {"seconds": tuple((end[i] - start[i]) / count for i in (0, 1))}


def peak_mb() -> float:
    """The most memory this process ever had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


SIDES = {"puna sft": puna_sft, "puna dpo": puna_dpo, "puna sample": puna_sample,
         "trl sft": trl_sft, "trl dpo": trl_dpo, "trl sample": trl_sample}  # fmt: skip
