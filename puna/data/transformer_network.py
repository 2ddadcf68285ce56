"""The network of the Transformer classifier: our Llama trunk, the mean over tokens, a linear layer; its training and its files.

Attention goes both ways: a mask that lets every token see every real token of its row is all that takes. Everything runs on one
thread in float32, because the order in which threads add up is no part of the settings and would be part of the weights.

Shape legend: B rows, T tokens, D width, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from puna.core.rng import numpy_stream
from puna.data.transformer import TransformerSettings
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

SCORE_ROWS = 32  # windows scored together
SAVE_EVERY = 200  # steps
CLIP = 1.0  # norm of the gradient
BETAS = (0.9, 0.99)


class Network(nn.Module):
    """Probabilities of classes from tokens.

    Args:
        config: shape of the trunk.
        classes: how many.
        seed: of the trunk's weights; None leaves them unset, for loading. The last layer starts at 0.
    """

    def __init__(self, config: ModelConfig, classes: int, *, seed: int | None):
        super().__init__()
        self.model = Llama(config, seed=seed).model
        self.head = nn.Linear(config.dim, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits float32 [B,C].

        Args:
            ids_BT: token ids, int64; what lies behind a row's length does not count.
            lengths_B: int64, at least 1.
        """
        real_BT = torch.arange(ids_BT.shape[1])[None] < lengths_B[:, None]
        mask = real_BT[:, None, None]  # given also where no row is padded: no mask would mean causal
        hidden_BTD = self.model(ids_BT, None, mask, None)
        return self.head((hidden_BTD * real_BT[..., None]).sum(1) / lengths_B[:, None])


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def window_chances(network: Network, windows: Sequence[Sequence[int]]) -> np.ndarray:
    """Probabilities of every window, in batches of similar length. Returns float32 [windows, classes]."""
    order = sorted(range(len(windows)), key=lambda index: len(windows[index]))
    found = np.zeros((len(windows), network.head.out_features), dtype=np.float32)
    with one_thread(), torch.inference_mode():
        for start in range(0, len(order), SCORE_ROWS):
            chosen = order[start : start + SCORE_ROWS]
            found[chosen] = network(*padded([windows[index] for index in chosen])).softmax(-1).numpy()
    return found


def chances_of_nothing(network: Network) -> np.ndarray:
    """Probabilities where there is no token to look at. Returns float32 [classes]."""
    with torch.inference_mode():
        return network.head.bias.softmax(-1).numpy()


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids int64 [B, T of the longest row], zeros behind the shorter ones, and the lengths int64 [B]."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return torch.from_numpy(ids), torch.from_numpy(lengths)


def fit(
    rows: list[list[int]],
    labels: np.ndarray,
    log_shares: np.ndarray,
    settings: TransformerSettings,
    tokenizer: Tokenizer,
    *,
    seed: int,
    state: Path | None,
    after_step: Callable[[int, int, Callable[[], None]], None],
) -> tuple[Network, list[float]]:
    """Train a network on token rows; the last layer's bias starts at the logarithm of the classes' shares.

    Returns the network and the loss of every step in nats. Rows without a token are not learned from.
    """
    network = Network(settings.shape(tokenizer.base_size), len(log_shares), seed=seed)
    with torch.no_grad():
        network.head.bias.copy_(torch.from_numpy(log_shares))
    training = _Training(network, settings, _key(rows, labels, settings, tokenizer, seed), state)
    full = np.array([index for index, row in enumerate(rows) if row], dtype=np.int64)
    with one_thread():
        for step in range(training.resume(), settings.steps):
            chosen = full[_turn(seed, len(full), step * settings.batch, settings.batch)]
            draws = numpy_stream(seed, "window", step)
            windows = [_window(rows[index], settings, draws) for index in chosen]
            training.step(step, *padded(windows), torch.from_numpy(labels[chosen]))
            if (step + 1) % SAVE_EVERY == 0:
                training.save()
            after_step(step + 1, settings.steps, training.save)
    if state is not None:
        state.unlink(missing_ok=True)
    return network, training.losses


class _Training:
    """Optimiser, losses so far, and the file that a stopped training goes on from."""

    def __init__(self, network: Network, settings: TransformerSettings, key: str, state: Path | None):
        self.network, self.settings, self.key, self.state = network, settings, key, state
        self.losses: list[float] = []
        matrices = [weight for weight in network.parameters() if weight.dim() > 1]
        vectors = [weight for weight in network.parameters() if weight.dim() == 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS)

    def step(self, step: int, ids_BT: Tensor, lengths_B: Tensor, labels_B: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * _rate(step, self.settings)
        loss = F.cross_entropy(self.network(ids_BT, lengths_B), labels_B)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.losses.append(loss.item())

    def save(self) -> None:
        if self.state is None:
            return
        tensors = {f"weight.{name}": weight.detach() for name, weight in self.network.named_parameters()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"moment.{index}.{name}": value for name, value in moments.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        partial = self.state.with_name(self.state.name + ".part")
        save_file(tensors, partial, metadata={"key": self.key})
        partial.replace(self.state)

    def resume(self) -> int:
        """Take up what was saved of the same training; returns the steps done."""
        if self.state is None or not self.state.exists():
            return 0
        with safe_open(self.state, "pt") as file:
            if file.metadata().get("key") != self.key:
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                weight.copy_(tensors[f"weight.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("moment."):
                _, index, kind = name.split(".")
                moments.setdefault(int(index), {})[kind] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.losses = tensors["losses"].tolist()
        return len(self.losses)


def _key(rows: list[list[int]], labels: np.ndarray, settings: TransformerSettings, tokenizer: Tokenizer, seed: int) -> str:
    digest = hashlib.sha256(f"{settings.model_dump_json()} {tokenizer.digest} {seed}".encode())
    digest.update(np.array([token for row in rows for token in (*row, -1)], dtype=np.int64).tobytes())
    digest.update(labels.tobytes())
    return digest.hexdigest()


def _turn(seed: int, count: int, first: int, wanted: int) -> np.ndarray:
    """Which texts have their turn at positions `first`.. of an endless row of shuffled passes. Returns int64 [wanted]."""
    passes = range(first // count, (first + wanted - 1) // count + 1)
    order = np.concatenate([numpy_stream(seed, "order", each).permutation(count) for each in passes])
    return order[first - passes[0] * count :][:wanted]


def _window(row: list[int], settings: TransformerSettings, draws: np.random.Generator) -> list[int]:
    """A window of a row, wherever it can begin, less the tokens that are dropped; at least one is left."""
    begin = int(draws.integers(max(len(row) - settings.seq_len, 0) + 1))
    window = np.array(row[begin : begin + settings.seq_len])
    kept = draws.random(len(window)) >= settings.drop
    return (window[kept] if kept.any() else window[:1]).tolist()


def _rate(step: int, settings: TransformerSettings) -> float:
    """Share of the learning rate: up over the warm-up, then down to 0 on a line."""
    warm = settings.warmup * settings.steps
    return min((step + 1) / max(warm, 1), (settings.steps - step) / max(settings.steps - warm, 1))


def write_weights(network: Network, path: Path) -> None:
    """All weights as one safetensors file, float32."""
    save_file({name: weight.detach().contiguous() for name, weight in network.state_dict().items()}, path)


def read_weights(path: Path, config: ModelConfig, classes: int) -> Network:
    """The network of a file that `write_weights` wrote; an error of safetensors or torch where shapes or names differ."""
    network = Network(config, classes, seed=None)
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)
