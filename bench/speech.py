"""Sound to encoder states on a CPU, beside transformers: real-time factors of the front end, of the encoder, and of both.

    python bench/speech.py [--quick] [--check]

Front end: 80 log-mel channels every 10 ms, here and by `transformers.audio_utils.spectrogram`, which its feature extractors of
speech call; the numbers must agree to 1e-4. Encoder: a batch of recordings of 2 to 20 s, padded, through a random Conformer here
and through two of the same shape in transformers: LASR's (rotary queries and keys, as here) and Wav2Vec2-Conformer's (which turns
its states before they are projected). LASR's, given the same weights and our norm in its convolution, must give the same states
to 1e-3; it is timed with its own. One torch thread, rounds interleaved in turning order, medians and best of CPU seconds.
The limit is the arithmetic of the encoder at the speed of a measured product of matrices.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GOAL = {"both_vs_lasr": 1.3, "both_vs_wav2vec2": 1.3}
WIDE = {"dim": 384, "layers": 4, "heads": 6, "ffn_dim": 1024}
SECONDS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
RATE = 16_000
MOST_ERROR = {"front_end": 1e-4, "encoder": 1e-3}
Side = Callable[[], Any]


def shape_of(quick: bool) -> Any:
    """The encoder's shape: the published one, narrower and with fewer layers."""
    from puna.speech.encoder import SpeechConfig

    return SpeechConfig(**({"dim": 256, "layers": 2, "heads": 4, "ffn_dim": 688} if quick else WIDE))


def recordings() -> list[Tensor]:
    """Noise with the power of speech, of many lengths."""
    generator = torch.Generator().manual_seed(0)
    return [0.05 * torch.randn(seconds * RATE, generator=generator) for seconds in SECONDS]


def front_ends(waves: list[Tensor]) -> dict[str, Side]:
    """How each side makes frames; it ends the run if their numbers differ."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    from puna.speech.features import log_mel

    filters = mel_filter_bank(257, 80, 20, 8000, RATE, norm=None, mel_scale="htk")
    window = window_function(400, "hann", periodic=True)

    def theirs(wave: np.ndarray) -> np.ndarray:
        found = spectrogram(wave, window, 400, 160, fft_length=512, power=2.0, center=False, mel_filters=filters,
                            mel_floor=1e-10, log_mel="log")  # fmt: skip
        return found.T

    arrays = [wave.numpy() for wave in waves]
    error = max(float(np.abs(log_mel(w).numpy() - theirs(a)).max()) for w, a in zip(waves, arrays, strict=True))
    if error > MOST_ERROR["front_end"]:
        sys.exit(f"the frames differ from transformers' by {error:.2g}")
    return {"transformers": lambda: [theirs(wave) for wave in arrays], "puna": lambda: [log_mel(wave) for wave in waves]}


class ChannelNorm(nn.Module):
    """Our norm inside the convolution, for [B, D, S]."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x_BDS: Tensor) -> Tensor:
        return self.norm(x_BDS.transpose(1, 2)).transpose(1, 2)


def lasr(config: Any, encoder: Any) -> Any:
    """Transformers' layers with our weights; their own norm in the convolution."""
    from transformers import LasrEncoderConfig
    from transformers.models.lasr.modeling_lasr import LasrEncoder

    described = LasrEncoderConfig(
        hidden_size=config.dim, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        intermediate_size=config.ffn_dim,
        attention_bias=True, convolution_bias=True, conv_kernel_size=config.kernel, feed_forward_residual_weights=(1.0, 0.5),
        conv_residual_weights=(1.0, 1.0), layer_norm_eps=config.norm_eps, dropout=0.0, layerdrop=0.0, activation_dropout=0.0,
        attention_dropout=0.0, num_mel_bins=config.channels,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )  # fmt: skip
    described._attn_implementation = "sdpa"
    model = LasrEncoder(described).eval()
    for theirs, ours in zip(model.layers, encoder.layers, strict=True):
        pairs = {
            theirs.feed_forward1.linear1: ours.ffn_before.up, theirs.feed_forward1.linear2: ours.ffn_before.down,
            theirs.feed_forward2.linear1: ours.ffn_after.up, theirs.feed_forward2.linear2: ours.ffn_after.down,
            theirs.norm_feed_forward1: ours.ffn_before.norm, theirs.norm_feed_forward2: ours.ffn_after.norm,
            theirs.norm_self_att: ours.norm_attn, theirs.norm_conv: ours.conv.norm_in, theirs.norm_out: ours.norm,
            theirs.conv.pointwise_conv1: ours.conv.expand, theirs.conv.pointwise_conv2: ours.conv.out,
            theirs.self_attn.q_proj: ours.self_attn.q_proj, theirs.self_attn.k_proj: ours.self_attn.k_proj,
            theirs.self_attn.v_proj: ours.self_attn.v_proj, theirs.self_attn.o_proj: ours.self_attn.o_proj,
        }  # fmt: skip
        with torch.no_grad():
            for part, source in pairs.items():
                part.weight.copy_(source.weight.reshape(part.weight.shape))
                if part.bias is not None:
                    part.bias.copy_(getattr(source, "bias", None) if getattr(source, "bias", None) is not None else 0.0)
            theirs.conv.depthwise_conv.weight.copy_(ours.conv.depthwise)
            theirs.conv.depthwise_conv.bias.zero_()
    return model


def by_lasr(model: Any, x_BSD: Tensor, positions_B: Tensor) -> Tensor:
    """States [B, S, D] by its layers, as its encoder calls them."""
    from transformers.masking_utils import create_bidirectional_mask

    real_BS = torch.arange(x_BSD.shape[1]) < positions_B[:, None]
    turned = model.rotary_emb(x_BSD, torch.arange(x_BSD.shape[1])[None])
    mask = create_bidirectional_mask(config=model.config, inputs_embeds=x_BSD, attention_mask=real_BS)
    for layer in model.layers:
        x_BSD = layer(x_BSD, attention_mask=mask, position_embeddings=turned)
    return x_BSD


def wav2vec2(config: Any) -> Any:
    """Transformers' Wav2Vec2-Conformer layers of the same shape, random, without its convolutions before them."""
    from transformers import Wav2Vec2ConformerConfig
    from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

    described = Wav2Vec2ConformerConfig(
        hidden_size=config.dim, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        intermediate_size=config.ffn_dim,
        conv_depthwise_kernel_size=config.kernel, position_embeddings_type="rotary", hidden_act="swish",
    )  # fmt: skip
    described._attn_implementation = "sdpa"
    return Wav2Vec2ConformerEncoder(described).eval()


@torch.no_grad()
def encoders(config: Any, waves: list[Tensor]) -> tuple[dict[str, Side], float]:
    """How each side encodes the padded batch from stacked frames on; and how far LASR's states are from ours."""
    from torch.nn.utils.rnn import pad_sequence

    from puna.speech.encoder import SpeechEncoder, stacked
    from puna.speech.features import log_mel

    encoder = SpeechEncoder(config)
    encoder.init_weights(torch.Generator().manual_seed(1))
    encoder.eval()
    clips = [(log_mel(wave) + 9) / 3 for wave in waves]
    frames_B = torch.tensor([len(clip) for clip in clips])
    frames_BTM = pad_sequence(clips, batch_first=True)
    positions_B = -(-frames_B // config.stack)
    theirs, older = lasr(config, encoder), wav2vec2(config)
    mask_BS = torch.arange(int(positions_B.max())) < positions_B[:, None]

    def entered() -> Tensor:
        return encoder.input(stacked(frames_BTM, frames_B, config.stack))

    sides: dict[str, Side] = {
        "lasr": lambda: by_lasr(theirs, entered(), positions_B),
        "wav2vec2": lambda: older(entered(), attention_mask=mask_BS).last_hidden_state,
        "puna": lambda: encoder(frames_BTM, frames_B)[0],
    }
    own = [layer.conv.norm for layer in theirs.layers]
    for layer, ours in zip(theirs.layers, encoder.layers, strict=True):
        layer.conv.norm = ChannelNorm(ours.conv.norm_out)
    error = float((sides["puna"]() - sides["lasr"]())[mask_BS].abs().max())
    for layer, norm in zip(theirs.layers, own, strict=True):
        layer.conv.norm = norm
    if not error <= MOST_ERROR["encoder"]:
        sys.exit(f"the states differ from transformers' by {error:.2g}")
    return sides, error


@torch.no_grad()
def run_rounds(sides: dict[str, Side], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU, wall) seconds of each side's runs; the order turns by one with every round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            cpu, wall = time.process_time(), time.perf_counter()
            sides[name]()
            seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return seconds


def flops(config: Any) -> float:
    """Operations of the batch without its padding: products with weights, and of queries with keys."""
    positions = [-(-(1 + (seconds * RATE - 400) // 160) // config.stack) for seconds in SECONDS]
    d, ffn = config.dim, config.ffn_dim
    weights = 4 * d * ffn + 4 * d * d + 3 * d * d + config.kernel * d
    layer = sum(2 * s * weights + 4 * s * s * d for s in positions)
    return config.layers * layer + 2 * sum(positions) * config.channels * config.stack * d


def product_speed(config: Any) -> float:
    """Operations a second of the best product of the batch's states with a matrix of the feed-forward, by CPU seconds."""
    x, weight = torch.randn(sum(SECONDS) * 25, config.dim), torch.randn(config.ffn_dim, config.dim)
    return 2 * x.numel() * config.ffn_dim / min(cpu for cpu, _ in run_rounds({"side": lambda: F.linear(x, weight)}, 20)["side"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    import transformers

    torch.set_num_threads(1)
    config, waves, rounds = shape_of(args.quick), recordings(), 3 if args.quick else 7
    fronts = front_ends(waves)
    sides, error = encoders(config, waves)
    made, encoded = run_rounds(fronts, rounds), run_rounds(sides, rounds)
    print(table("front end", made))
    print(table(f"encoder of {config.layers} layers, {config.dim} wide", encoded))
    print(f"states differ from LASR's with the same weights and norms by {error:.1e}")
    front, body = ({name: statistics.median(cpu for cpu, _ in runs) for name, runs in found.items()} for found in (made, encoded))
    ours = front["puna"] + body["puna"]
    ratios = {"front_end": front["transformers"] / front["puna"]}
    for name in ("lasr", "wav2vec2"):
        ratios |= {
            f"encoder_vs_{name}": body[name] / body["puna"],
            f"both_vs_{name}": (front["transformers"] + body[name]) / ours,
        }
    least = flops(config) / product_speed(config)
    missed = [name for name, goal in GOAL.items() if ratios[name] < goal]
    print(json.dumps({
        "bench": "speech", "ratios": rounded(ratios), "goals": GOAL, "missed": missed,
        "limits": rounded({"encoder_share_of_product_speed": least / body["puna"]}),
        "real_time_factors": rounded({"front_end": front["puna"] / sum(SECONDS), "encoder": body["puna"] / sum(SECONDS)}, 5),
        "error": error, "threads": 1, "load": round(os.getloadavg()[0], 1), "quick": args.quick, "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
    }))  # fmt: skip
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


def table(title: str, seconds: dict[str, list[tuple[float, float]]]) -> str:
    """Seconds of sound a second of each side, by CPU and by wall seconds."""
    lines = [f"{title}: seconds of sound a second, best and median of CPU seconds, median of wall"]
    for name, runs in seconds.items():
        cpu, wall = ([run[which] for run in runs] for which in (0, 1))
        figures = (sum(SECONDS) / min(cpu), sum(SECONDS) / statistics.median(cpu), sum(SECONDS) / statistics.median(wall))
        lines.append(f"  {name:<14}" + "".join(f"{figure:9.1f}" for figure in figures))
    return "\n".join(lines)


def rounded(values: dict[str, float], digits: int = 3) -> dict[str, float]:
    """So many digits after the point."""
    return {name: round(value, digits) for name, value in values.items()}


if __name__ == "__main__":
    main()
