"""The small model that conversions are tested on."""

import torch

from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
CONFIG = ModelConfig(512, 32, 4, 4, 2, 96, max_seq_len=128, rope_theta=10000.0)
IDS = torch.arange(40)[None]
SHARD = 40_000  # bytes: several tensors of the small model


def lively(dtype=torch.float32, **changed) -> Llama:
    model = Llama(ModelConfig(**(vars(CONFIG) | changed)), seed=1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3.0)
    return model.to(dtype).eval()
