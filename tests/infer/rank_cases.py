"""What the processes of the tests of several ranks do: one session of gloo processes for all layouts of one size."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from puna.core.errors import PunaError
from puna.infer.engine import Completion, Engine, Request
from puna.infer.parallel import shared_engine
from puna.infer.shards import Layout
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
CONFIG = ModelConfig(TOKENIZER.vocab_size, 32, 5, 8, 4, 96, max_seq_len=128, rope_theta=10000.0)
SIZES = {"page_size": 4, "prefill_tokens": 24, "max_running": 9}

CASES: dict[int, dict[str, tuple[str, Layout]]] = {
    2: {
        "tensor": ("plain", Layout(tensor=2)),
        "tensor, tied": ("tied", Layout(tensor=2)),
        "tensor, fp8": ("fp8", Layout(tensor=2)),
        "tensor, adapter": ("plain+adapter", Layout(tensor=2)),
        "pipeline, one piece": ("plain", Layout(pipeline=2, micro_batches=1)),
        "pipeline, two pieces": ("plain", Layout(pipeline=2, micro_batches=2)),
        "pipeline, tied": ("tied", Layout(pipeline=2, micro_batches=3)),
    },
    4: {
        "tensor x pipeline": ("plain", Layout(tensor=2, pipeline=2)),
        "tensor x pipeline, fp8": ("fp8", Layout(tensor=2, pipeline=2, micro_batches=1)),
        "tensor of four": ("plain", Layout(tensor=4)),
        "pipeline of four": ("plain", Layout(pipeline=4)),
    },
}


def lively(config: ModelConfig = CONFIG) -> Llama:
    """A model that is far from sure, so that a wrong sum changes its text."""
    model = Llama(config, seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(8.0 if "lm_head" in name else 3.0)
    return model.eval()


def requests() -> list[Request]:
    rng = np.random.default_rng(5)
    return [
        Request(rng.integers(0, 256, int(rng.integers(1, 40))).tolist(), n=1 + index % 3, temperature=0.8 * (index % 2),
                top_p=0.9, max_tokens=int(rng.integers(2, 20)), seed=index)
        for index in range(10)
    ]  # fmt: skip


def answers(engine: Engine) -> list[list[Completion]]:
    return engine.generate(requests())


def held_bytes(engine: Engine) -> int:
    """Memory of the weights and the cache of this process."""
    return sum(weight.nbytes for weight in engine.model.parameters()) + engine.cache.storage.nbytes


def session(process: int, processes: int, folder: str) -> None:
    """All cases of one number of processes; rank 0 leaves the answers in `folder`, every rank the bytes of its weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{processes}", rank=process, world_size=processes)
    for name, (model, layout) in CASES[processes].items():
        directory, lora = directories(Path(folder), model)
        with shared_engine(directory, layout, lora=lora, **SIZES) as found:
            if found is not None:
                engine = found[0]
                answer = {"answers": [[vars(c) for c in samples] for samples in answers(engine)], "bytes": held_bytes(engine)}
                torch.save(answer | {"pages": engine.pool.pages - 1 - engine.pool.free}, Path(folder) / f"{name}.pt")
    dist.destroy_process_group()


def dying(process: int, folder: str, how: str) -> None:
    """Two stages; the second ends in the middle of an answer. Rank 0 leaves what its engine says, and how long it took."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{how}", rank=process, world_size=2)
    if process and how != "deserted":
        from puna.infer.shards import Stage

        def fail(*args: object, **kwargs: object) -> None:
            if how == "killed":
                os._exit(9)
            if how == "hangs":
                time.sleep(60)
            raise RuntimeError("out of memory, say")

        Stage.hidden = fail
    if how == "deserted":
        try:
            with shared_engine(Path(folder) / "plain", Layout(pipeline=2, seconds=30.0)):
                os._exit(0)  # rank 0, without a word
        except PunaError as error:
            torch.save(str(error), Path(folder) / f"{how}.pt")
        return
    start, said = time.monotonic(), []
    try:
        with shared_engine(Path(folder) / "plain", Layout(pipeline=2, seconds=3.0 if how == "hangs" else 60.0)) as found:
            assert found is not None
            found[0].add(requests()[0])
            for _ in range(2):
                try:
                    found[0].step()
                except PunaError as error:
                    said.append(str(error))
    finally:
        if process == 0:
            torch.save({"said": said, "seconds": time.monotonic() - start}, Path(folder) / f"{how}.pt")
            os._exit(0)
        os._exit(1)


def directories(folder: Path, model: str) -> tuple[Path, list[tuple[Path, float]]]:
    """The directory of a case's model and its adapters; `plain+adapter` has one."""
    name, *adapters = model.split("+")
    return folder / name, [(folder / adapter, 1.0) for adapter in adapters]


def write_adapter(model: Llama, directory: Path) -> None:
    """A PEFT adapter of matrices cut by columns, by rows and by vocabulary."""
    directory.mkdir()
    draw, tensors = torch.Generator().manual_seed(2), {}
    for module in ("model.layers.0.self_attn.k_proj", "model.layers.3.mlp.down_proj", "lm_head"):
        rows, columns = model.get_submodule(module).weight.shape
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(2, columns, generator=draw)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, 2, generator=draw)
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1}))


def write_models(folder: Path) -> dict[str, Llama]:
    """The models of the cases in directories of `folder`."""
    from dataclasses import replace

    from puna.infer.fp8 import quantize_model

    models = {"plain": lively(), "tied": lively(replace(CONFIG, tied=True)), "fp8": lively()}
    quantize_model(models["fp8"], linears="all")
    for name, model in models.items():
        save_model(model, folder / name, tokenizer=TOKENIZER)
    write_adapter(models["plain"], folder / "adapter")
    return models
