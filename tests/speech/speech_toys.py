"""A toy world for tests of training on speech: tones of four pitches that mean words, and a tiny text model."""

from __future__ import annotations

from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.speech.adapter import SpeechAdapterConfig
from puna.speech.encoder import SpeechConfig
from puna.speech.files import speech_tokens
from puna.speech.frames import SoundShape
from puna.speech.model import SpeechLlama
from puna.tokenizer.bpe import Tokenizer

ENCODER = {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 32}
ADAPTER = {"dim": 16, "heads": 2, "ffn_dim": 32}
SIZES = {"dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "max_seq_len": 128}


def toy_tokenizer() -> Tokenizer:
    """The 256 bytes, and the words of the chat format and of the answers as single tokens."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    words = [
        "us",
        "er",
        "user",
        "as",
        "si",
        "st",
        "an",
        "ant",
        "\n\n",
        "lo",
        "low",
        "hi",
        "gh",
        "high",
        "up",
        "ha",
        "hal",
        "half",
    ]
    for word in words:
        ranks[word.encode()] = len(ranks)
    return Tokenizer.from_ranks(ranks)


def text_of(seed: int = 3, **sizes: int) -> Llama:
    return Llama(ModelConfig(vocab_size=toy_tokenizer().vocab_size, **{**SIZES, **sizes}), seed=seed)


def listening(sound: SoundShape = SoundShape(), seed: int = 5) -> SpeechLlama:
    """A model that listens, drawn at random."""
    tokens = speech_tokens(toy_tokenizer())
    adapter = SpeechAdapterConfig(**ADAPTER)
    return SpeechLlama(text_of(), SpeechConfig(**ENCODER), adapter, tokens, sound=sound, seed=seed).eval()
