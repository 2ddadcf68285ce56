"""FP8 against BF16 on a random model wider than a demo can train: what row-wise scales do to rows of hundreds of numbers.

Its weights are no trained ones: no features stand out, and first choices win by little. Its predictions know nothing of the
text, so perplexities are those of text that it would write itself. How much of one and the same error shows in predictions
depends on how sharp they are, so there are several sharpnesses: the output matrix stays BF16 (section 6.2), and a factor on
the logits is one on it.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from puna.core.settings import Settings
from puna.infer.fp8 import Comparison, round_weights
from puna.model.config import ModelConfig, ffn_width
from puna.model.llama import Llama

HEAD = 64  # numbers of a head; four heads share one of keys and values, as in the paper's 8B


class RandomModel(Settings):
    """dim, layers: its shape; every other size follows as in Llama 3. tokens: held-out tokens it reads, about.
    logit_stds: standard deviations of the logits at which predictions are compared. continuations, continuation_tokens: as the
    stage's own."""

    dim: Annotated[int, Field(ge=4 * HEAD, multiple_of=4 * HEAD)] = 512
    layers: Annotated[int, Field(ge=3)] = 6
    tokens: PositiveInt = 512
    logit_stds: Annotated[list[PositiveFloat], Field(min_length=1)] = [1.5, 2.5, 4.0]
    continuations: NonNegativeInt = 16
    continuation_tokens: PositiveInt = 16

    def build(self, vocab_size: int, *, max_seq_len: int, seed: int) -> Llama:
        """The model in BF16 that computes in float32, its logits of standard deviation 1.

        Matrices have std 1 / sqrt(dim), twice that of a model about to be trained: at that start the layers add less than a
        hundredth of the last state's variance and FP8 in them would hardly show; so they add a third.
        """
        config = ModelConfig(
            vocab_size=vocab_size, dim=self.dim, layers=self.layers, heads=self.dim // HEAD, kv_heads=self.dim // HEAD // 4,
            ffn_dim=ffn_width(self.dim), max_seq_len=max_seq_len,
        )  # fmt: skip
        model = Llama(config, seed=seed).eval()
        with torch.no_grad():
            for module in model.model.layers.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(2.0)
            model.lm_head.weight.mul_(self.dim**-0.5 / model.lm_head.weight.std())
        round_weights(model, torch.bfloat16)
        return model


@torch.no_grad()
def compare_random(reference: Llama, model: Llama, texts: list[list[int]], logit_stds: list[float]) -> dict[str, Any]:
    """Both models' predictions after every token of the texts, compared at each sharpness.

    Returns `tokens`; `layers_share`, the part of the last state's variance that layers and not the embedding made; `state_error`,
    that of the normed last states (Frobenius norms); and `sharpness`, a summary of `Comparison` for each standard deviation.
    """
    results = [Comparison() for _ in logit_stds]
    added, error = Share(), Share()
    norm_input: list[Tensor] = []
    hook = reference.model.norm.register_forward_pre_hook(lambda module, arguments: norm_input.append(arguments[0]))
    for text in texts:
        ids_BT = torch.tensor([text])
        states = [m.hidden(ids_BT)[0] for m in (reference, model)]
        last = norm_input.pop()
        added.add(last - reference.model.embed_tokens(ids_BT), last)
        error.add(states[1] - states[0], states[0])
        logits = [m.lm_head(x_TD).float() for m, x_TD in zip((reference, model), states, strict=True)]
        for result, std in zip(results, logit_stds, strict=True):
            result.add(std * logits[0], std * logits[1], None)
    hook.remove()
    return {
        "tokens": results[0].tokens,
        "layers_share": added.value,
        "state_error": error.value**0.5,
        "sharpness": [{"logit_std": std, **result.summary()} for std, result in zip(logit_stds, results, strict=True)],
    }


class Share:
    """A ratio of summed squares."""

    def __init__(self) -> None:
        self.part = self.whole = 0.0

    def add(self, part: Tensor, whole: Tensor) -> None:
        self.part += part.double().square().sum().item()
        self.whole += whole.double().square().sum().item()

    @property
    def value(self) -> float:
        return self.part / self.whole


def spread(texts: list[list[int]], tokens: int) -> list[list[int]]:
    """About `tokens` tokens of the texts, from all over their order; texts of one token are left out."""
    texts = [text for text in texts if len(text) > 1]
    step = max(1, sum(map(len, texts)) // tokens)
    kept: list[list[int]] = []
    for text in texts[::step]:
        left = tokens - sum(map(len, kept))
        if left > 1:
            kept.append(text[:left])
    return kept
