"""Short greedy continuations while training runs: the sample everybody wants to look at beside the loss curve.

No cache and no batching, on purpose: this must stay right when everything else changes. Real generation is `puna.infer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def continue_greedily(model: Any, ids: Sequence[int], tokens: int, stop_ids: Sequence[int] = ()) -> list[int]:
    """Up to `tokens` most likely next ids after `ids`, ended before a stop id."""
    device = next(model.parameters()).device
    written = list(ids)
    for _ in range(tokens):
        states = model.hidden(torch.tensor([written], device=device))
        token = int(model.lm_head(states[:, -1]).argmax())
        if token in stop_ids:
            break
        written.append(token)
    return written[len(ids) :]


def previews(model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int = 24) -> list[dict[str, str]]:
    """One row {"prompt", "sample"} per prompt, for metrics.jsonl."""
    return [
        {
            "prompt": prompt,
            "sample": tokenizer.decode(
                continue_greedily(model, [tokenizer.bos_id, *tokenizer.encode(prompt)], tokens, tokenizer.stop_ids)
            ),
        }
        for prompt in prompts
    ]
