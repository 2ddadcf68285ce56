"""One random 0.43B Llama for the benches of inference on a CPU, and llama.cpp with the same weights."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHAPE = {"vocab_size": 32000, "dim": 1024, "layers": 24, "heads": 16, "kv_heads": 4, "ffn_dim": 4096, "max_seq_len": 4096}


class LlamaCpp:
    """One GGUF file through the low-level interface of llama-cpp-python."""

    def __init__(self, file: Path, threads: int, *, tokens: int, sequences: int = 1):
        self.api = api = importlib.import_module("llama_cpp")
        self.silent = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self.silent, ctypes.c_void_p(0))
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(str(file).encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = tokens, threads, threads
        params.n_seq_max, params.kv_unified = sequences, True
        self.context = api.llama_init_from_model(self.model, params)
        self.memory = api.llama_get_memory(self.context)

    def clear(self) -> None:
        """Forget every sequence."""
        self.api.llama_memory_clear(self.memory, True)

    def share(self, source: int, target: int) -> None:
        """Let a sequence begin with the whole of another, without a copy."""
        self.api.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def decode(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[int]) -> Any:
        """Logits [len(wanted), V] after some of the tokens."""
        import numpy as np

        api, count = self.api, len(tokens)
        batch = api.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i, (token, position, sequence) in enumerate(zip(tokens, positions, sequences, strict=True)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position, 1, sequence
            batch.logits[i] = 0
        for i in wanted:
            batch.logits[i] = 1
        assert api.llama_decode(self.context, batch) == 0
        logits = [np.ctypeslib.as_array(api.llama_get_logits_ith(self.context, i), (SHAPE["vocab_size"],)) for i in wanted]
        api.llama_batch_free(batch)
        return np.stack(logits)


def random_model() -> Any:
    """The model in BF16."""
    import torch

    from puna.model.config import ModelConfig
    from puna.model.llama import Llama

    return Llama(ModelConfig(**SHAPE), seed=0).eval().to(torch.bfloat16)


def write_gguf(model: Any, file: Path, kind: str) -> None:
    """The model without a tokenizer."""
    import gguf

    from puna.model.gguf_file import WEIGHTS, gguf_metadata
    from puna.model.layouts import gguf_names, interleave_rows, turned_heads

    writer = gguf.GGUFWriter(str(file), "llama")
    for key, value in gguf_metadata(model.config, WEIGHTS[kind], "random").items():
        {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)](key, value)
    writer.add_tokenizer_model("no_vocab")
    state = model.state_dict()
    for ours, theirs in gguf_names(model.config.layers).items():
        tensor, heads = state[ours], turned_heads(ours, model.config)
        numbers = (interleave_rows(tensor, heads) if heads else tensor).float().contiguous().numpy()
        quantization = gguf.GGMLQuantizationType["F32" if numbers.ndim == 1 else kind.upper()]
        writer.add_tensor(theirs, gguf.quants.quantize(numbers, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def all_fp8(model: Any) -> Any:
    """Every matrix but the embedding in FP8, as llama.cpp's Q8_0 has them in 8 bits."""
    import torch

    from puna.model.fp8_linear import Fp8Linear

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Fp8Linear.from_weight(module.weight))
    return model
