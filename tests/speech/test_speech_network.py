"""Encoder, BEST-RQ and adapter: the paper's sizes, and what may not depend on neighbours, padding or pieces."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.speech.adapter import SpeechAdapter, SpeechAdapterConfig
from puna.speech.bestrq import NOISE, BestRQ, MultiSoftmax, Quantizer, QuantizerConfig, masked_positions
from puna.speech.encoder import SpeechConfig, SpeechEncoder
from puna.speech.model import SpeechLlama, SpeechTokens
from puna.train.packing import batch_from

SMALL = SpeechConfig(dim=32, layers=2, heads=4, ffn_dim=48)
CHUNKED = SpeechConfig(dim=32, layers=2, heads=4, ffn_dim=48, chunk=4, left=2)
TEXT = ModelConfig(vocab_size=64, dim=24, layers=2, heads=4, kv_heads=2, ffn_dim=48, max_seq_len=128)
TOKENS = SpeechTokens(start=60, end=61, placeholder=62)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder_of(config: SpeechConfig) -> SpeechEncoder:
    encoder = SpeechEncoder(config)
    encoder.init_weights(generator())
    return encoder.eval()


def parameters(module: torch.nn.Module) -> float:
    return sum(weight.numel() for weight in module.parameters()) / 1e6


def test_sizes_of_the_paper():
    with torch.device("meta"):
        assert parameters(SpeechEncoder(SpeechConfig())) == pytest.approx(1001.9, abs=0.1)
        assert parameters(SpeechAdapter(SpeechAdapterConfig(), SpeechConfig(), 4096)) == pytest.approx(102.3, abs=0.1)
    assert SpeechConfig().positions(6000) == 1500 and SpeechAdapterConfig().tokens(1500) == 750  # 60 s: 40 ms, then 80 ms


@pytest.mark.parametrize("config", [SMALL, CHUNKED], ids=["whole", "chunked"])
def test_a_recording_does_not_depend_on_its_neighbours_or_on_padding(config):
    clips = [torch.randn(frames, 80, generator=generator(frames)) for frames in (61, 40, 7)]
    frames_B = torch.tensor([len(clip) for clip in clips])
    padded = pad_sequence(clips, batch_first=True, padding_value=9.0)  # whatever lies behind the end
    encoder, adapter = encoder_of(config), SpeechAdapter(SpeechAdapterConfig(32, 4, 48), config, 24)
    adapter.init_weights(generator(1))
    together, lengths = adapter(*encoder(padded, frames_B))
    for i, clip in enumerate(clips):
        alone, length = adapter(*encoder(clip[None], frames_B[i : i + 1]))
        assert int(length) == int(lengths[i]) == alone.shape[1] == SpeechAdapterConfig().tokens(SMALL.positions(len(clip)))
        assert (together[i, : int(length)] - alone[0]).abs().max() <= 1e-5
        assert not together[i, int(length) :].any()


def test_chunks_make_a_stream_equal_to_the_whole():
    encoder = encoder_of(CHUNKED)
    frames = torch.randn(1, 96, 80, generator=generator(2))  # 24 positions, 6 chunks
    whole, _ = encoder(frames, torch.tensor([96]))
    for chunks in range(1, 7):
        part, _ = encoder(frames[:, : 16 * chunks], torch.tensor([16 * chunks]))
        assert (part - whole[:, : 4 * chunks]).abs().max() <= 1e-5
    assert (
        encoder_of(SMALL)(frames[:, :48], torch.tensor([48]))[0] - encoder_of(SMALL)(frames, torch.tensor([96]))[0][:, :12]
    ).abs().max() > 1e-3


def rq_batch(seed: int = 0):
    frames_BTM = torch.randn(2, 120, 80, generator=generator(seed))
    batch = batch_from(*(np.zeros((2, 1), np.int64) for _ in range(4)))
    rng = np.random.default_rng(seed)
    masked = torch.from_numpy(np.stack([masked_positions(30, QuantizerConfig(), SMALL, rng) for _ in range(2)]))
    noise = torch.randn(2, 30, 320, generator=generator(seed + 1)) * NOISE
    batch.extra = {"frames_BTM": frames_BTM, "frames_B": torch.tensor([120, 120]), "masked_BS": masked, "noise_BSF": noise}
    return batch


def test_labels_are_frozen_deterministic_and_spread():
    first, again, other = (Quantizer(QuantizerConfig(books=4, codes=64), 320, seed) for seed in (5, 5, 6))
    frames = torch.randn(2000, 320, generator=generator(3))
    labels = first(frames)
    assert torch.equal(labels, again(frames)) and not torch.equal(labels, other(frames))
    assert torch.equal(labels, first(3.0 * frames))  # a cosine knows no scale
    assert not list(first.parameters()) and labels.shape == (2000, 4)
    assert all(len(labels[:, book].unique()) > 32 for book in range(4))


def test_the_nearest_code_by_cosine_is_the_label():
    quantizer = Quantizer(QuantizerConfig(books=2, codes=32), 320, 1)
    frame = torch.randn(1, 320, generator=generator(4))
    for book in range(2):
        projected = frame @ quantizer.projection_FQ[:, 16 * book : 16 * book + 16]
        cosines = torch.cosine_similarity(projected, quantizer.codes_QCE[book])
        assert int(quantizer(frame)[0, book]) == int(cosines.argmax())


def test_the_loss_reads_masked_frames_alone():
    config = QuantizerConfig(books=2, codes=16)
    model, batch = BestRQ(encoder_of(SMALL), config), rq_batch()
    objective = MultiSoftmax()
    loss, _ = objective.sums(model, batch)
    assert objective.counts(batch)["bestrq"] == float(batch.extra["masked_BS"].sum()) > 0
    masked = batch.extra["masked_BS"]
    frames = batch.extra["frames_BTM"].clone()
    frames.view(2, 30, 320)[masked] *= 2.0  # what is masked is not seen, and its labels know no scale
    batch.extra["frames_BTM"] = frames
    assert torch.equal(objective.sums(model, batch)[0]["bestrq"], loss["bestrq"])
    loss["bestrq"].backward()
    assert model.heads.weight.grad is not None and model.encoder.input.weight.grad.abs().sum() > 0


def test_spans_cover_what_the_paper_masks():
    rng = np.random.default_rng(0)
    shares = [masked_positions(1500, QuantizerConfig(), SpeechConfig(), rng).mean() for _ in range(50)]
    assert np.mean(shares) == pytest.approx(1 - (1 - 0.025) ** 32, abs=0.02)  # a frame is free if no span of 32 began before it
    assert masked_positions(3, QuantizerConfig(), SpeechConfig(), rng).any()


def test_speech_stands_in_for_placeholders_and_text_stays():
    text = Llama(TEXT, seed=1)
    before = {name: weight.clone() for name, weight in text.state_dict().items()}
    model = SpeechLlama(text, SMALL, SpeechAdapterConfig(32, 4, 48), TOKENS)
    frames = torch.randn(1, 40, 80, generator=generator(7))
    assert model.tokens_of(40) == 5
    ids = torch.tensor([[1, 60, *[62] * 5, 61, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    batch = batch_from(*(ids.numpy() for _ in range(4)))
    batch.extra = {"frames_CFM": frames, "frames_C": torch.tensor([40])}
    heard = model.attach(batch)
    assert heard is not None
    x_BTD = heard.embed(ids, text.model.embed_tokens)
    assert torch.equal(x_BTD[0, 2:7], model.listen(frames, torch.tensor([40])))
    assert torch.equal(x_BTD[0, 1], model.marks[0]) and torch.equal(x_BTD[0, 7], model.marks[1])
    assert torch.equal(x_BTD[1], text.model.embed_tokens(ids[1]))
    states = model.hidden(ids, attached=heard)
    assert torch.equal(states[1], text.hidden(ids)[1])
    states.sum().backward()
    assert all(weight.grad is None for weight in text.parameters())
    assert all(weight.grad is not None for weight in (*model.encoder.parameters(), *model.adapter.parameters(), model.marks))
    assert all(torch.equal(weight, before[name]) for name, weight in text.state_dict().items())
