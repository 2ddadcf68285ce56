"""Models as post-training stages take them in and hand them on, with the record of what each one descends from.

Every stage of section 4 starts from a checkpoint and leaves one. What travels with it besides the Hugging Face files is
`dev.json` (how it did on the dev tasks, so nobody measures twice) and `ancestors.json` (digests of the models it came from, so
that a model's unverified text can be kept out of its own training; section 4.3.1 reports that it does not help and can hurt).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable

import torch

from puna.core.errors import InputError
from puna.core.stage import Artifact, StageContext
from puna.model.checkpoint import load_model, save_model
from puna.model.fp8_linear import Fp8Linear
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.train.world import World

ANCESTORS, POLICY = "ancestors.json", "policy.json"
TO_BF16 = "turn it into BF16: puna convert SRC DST --to bf16"
CARRIED = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "dev.json",
)  # the model itself, and how it did


def load(artifact: Artifact) -> tuple[Llama, Tokenizer]:
    """The model (fp32, evaluation mode) and its tokenizer."""
    return load_model(artifact.path).eval(), Tokenizer.load(artifact.path)


def load_to_train(artifact: Artifact, fix: str) -> tuple[Llama, Tokenizer]:
    """The same, of a model all of whose weights can learn; InputError with `fix` for one in FP8, whose weights lie fixed."""
    model, tokenizer = load(artifact)
    if any(isinstance(module, Fp8Linear) for module in model.modules()):
        raise InputError("the weights of an FP8 model cannot be trained", where=f"{artifact.name} ({artifact.path})", fix=fix)
    return model, tokenizer


def save(model: Llama, tokenizer: Tokenizer, ctx: StageContext, parents: Iterable[Artifact]) -> None:
    """Write `model`, from process 0, as this stage's Hugging Face directory, descending from `parents`."""
    if World.current().process == 0:
        save_model(model.cpu(), ctx.out, tokenizer=tokenizer)
        write_ancestors(ctx, parents)


def carry(artifact: Artifact, ctx: StageContext, parents: Iterable[Artifact] = ()) -> None:
    """Hand a model on unchanged, from process 0: its files become this stage's, what described the other stage stays behind."""
    if World.current().process:
        return
    for path in sorted(artifact.path.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in CARRIED):
            shutil.copyfile(path, ctx.out / path.name)
    write_ancestors(ctx, [artifact, *parents])


def write_ancestors(ctx: StageContext, parents: Iterable[Artifact]) -> None:
    """Record the digests of `parents` and of everything they descend from."""
    digests = sorted(set().union(*(ancestors(parent) for parent in parents)))
    (ctx.out / ANCESTORS).write_text(json.dumps(digests, indent=1) + "\n")


def weights_digest(model: torch.nn.Module) -> str:
    """32 hex digits that name a model's weights and their names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        digest.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def ancestors(artifact: Artifact) -> set[str]:
    """Digests of a model, of the models it is known to descend from, and of what the stage that made it read."""
    path = artifact.path / ANCESTORS
    known = set(json.loads(path.read_text())) if path.exists() else set()
    inputs = artifact.record.get("inputs", [])
    read = {entry["digest"] for entry in inputs if isinstance(entry, dict) and entry.get("digest")}
    return known | read | ({artifact.digest} if artifact.digest else set())


def refuse_own_text(student: Artifact, teacher_ancestors: Iterable[str], where: str) -> None:
    """InputError when `student` is the teacher or one of its ancestors: unverified text must come from another model."""
    if student.digest and student.digest in set(teacher_ancestors):
        raise InputError(
            "a model may not learn from its own unverified text",
            where=where,
            fix="use the verified answers (`samples: accepted`), or take another model as the teacher",
        )


def policy_ancestors(samples: Artifact) -> set[str]:
    """Digests of the policy that wrote these samples and of what it descends from."""
    return set(json.loads((samples.path / POLICY).read_text())["ancestors"])
