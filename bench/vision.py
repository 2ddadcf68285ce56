"""Pictures to tiles and tiles to features on a CPU, beside transformers: mixed pictures of 1 to 4 tiles.

    python bench/vision.py [--quick] [--check]

Preprocessing: random pictures of many sizes through `puna.vision.tiles` and `MllamaImageProcessorPil`; tiles must be equal to the
bit. Encoding: one random encoder of the released kind (tables of tiles from one table of the canvas) in transformers, here with
the same numbers (`strict`: padding is attended to; features may differ by 1e-5), and here without padding (`ragged`). One torch
thread each, rounds interleaved in turning order, medians and best of CPU seconds. The limit is the arithmetic that a side cannot
avoid, at the speed of a measured product of matrices: with padding, pictures of 3 and 4 tiles leave nothing to save, so `strict`
cannot reach what `ragged` can. The fit is of the seconds of a batch against the tiles in it; attention between the tiles of one
picture bends it a little.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GOAL = {"preprocess": 1.5, "ragged": 1.5, "strict": 1.5, "linear_r2": 0.98}
RATIO = {1: 1, 2: 2, 3: 3, 4: 6}  # an aspect ratio id for each number of tiles
MIX = (1, 2, 3, 4)
MOST_ERROR = 1e-5
Side = Callable[[], Any]


def shape_of(quick: bool) -> Any:
    """The encoder's shape: that of the released one, narrower, and with tiles of 224 pixels."""
    from puna.vision.config import VisionConfig

    small = {"dim": 320, "layers": 3, "global_layers": 1, "heads": 4, "mlp_dim": 1280, "taps": (1, 2)}
    wide = {"dim": 640, "layers": 6, "global_layers": 2, "heads": 8, "mlp_dim": 2560, "taps": (1, 3, 4)}
    return VisionConfig(**(small if quick else wide), tile=224, patch=14, taps_at="after")


def encoders(config: Any) -> tuple[Any, Any, Any]:
    """The same random encoder: strict, ragged, transformers'."""
    from transformers import MllamaVisionConfig
    from transformers.models.mllama.modeling_mllama import MllamaVisionModel

    from puna.vision.config import ratios
    from puna.vision.encoder import ImageEncoder
    from puna.vision.meta_tables import rows_of

    generator = torch.Generator().manual_seed(0)
    strict, ragged = ImageEncoder(config), ImageEncoder(replace(config, attend_padding=False))
    strict.init_weights(generator)
    with torch.no_grad():
        for name, weight in strict.named_parameters():
            if name.endswith("gate"):
                weight.fill_(0.5)
            elif "tile" in name:
                tokens = weight.shape[1] // (config.max_tiles * config.dim)
                table = torch.randn(config.max_tiles, config.max_tiles, tokens, config.dim, generator=generator)
                weight.copy_(rows_of(table * config.dim**-0.5))
    ragged.load_state_dict(strict.state_dict())
    described = MllamaVisionConfig(
        hidden_size=config.dim, attention_heads=config.heads, num_hidden_layers=config.layers,
        num_global_layers=config.global_layers, intermediate_size=config.mlp_dim, image_size=config.tile,
        patch_size=config.patch, max_num_tiles=config.max_tiles, intermediate_layers_indices=list(config.taps),
        vision_output_dim=config.features, norm_eps=config.norm_eps,
        supported_aspect_ratios=[list(pair) for pair in ratios(config.max_tiles)],
    )  # fmt: skip
    described._attn_implementation = "sdpa"
    theirs = MllamaVisionModel(described)
    theirs.load_state_dict(strict.state_dict())
    return strict.eval(), ragged.eval(), theirs.eval()


def encoding(config: Any, tiles: tuple[int, ...], models: tuple[Any, Any, Any]) -> dict[str, Side]:
    """How each side encodes one batch of pictures with these numbers of tiles; features [N, P, F] of the real tiles."""
    strict, ragged, theirs = models
    tiles_I, ratio_I = torch.tensor(tiles), torch.tensor([RATIO[count] for count in tiles])
    pixels = torch.randn(sum(tiles), 3, config.tile, config.tile, generator=torch.Generator().manual_seed(1))
    padded = torch.zeros(len(tiles), 1, config.max_tiles, 3, config.tile, config.tile)
    real = torch.arange(config.max_tiles) < tiles_I[:, None]
    padded[:, 0][real] = pixels

    def transformers() -> Any:
        return theirs(padded, ratio_I[:, None], real[:, None].long()).last_hidden_state[:, 0][real]

    return {
        "transformers": transformers, "strict": lambda: strict(pixels, tiles_I, ratio_I),
        "ragged": lambda: ragged(pixels, tiles_I, ratio_I),
    }  # fmt: skip


def preprocessing(count: int) -> dict[str, Side]:
    """How each side cuts pictures of many sizes, at the released size of tiles; it ends the run if their tiles differ."""
    from PIL import Image
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    from puna.vision.tiles import ImageShape, tiles_of

    shape, random = ImageShape(), np.random.default_rng(0)
    sizes = random.integers(100, 1600, (count, 2))
    pictures = [Image.fromarray(random.integers(0, 256, (high, wide, 3), dtype=np.uint8)) for high, wide in sizes]
    size = {"height": shape.tile, "width": shape.tile}
    theirs = MllamaImageProcessorPil(
        size=size, max_image_tiles=shape.max_tiles, image_mean=list(shape.mean), image_std=list(shape.std)
    )
    for picture in pictures:
        ours, found = tiles_of(picture, shape), theirs(images=[[picture]], return_tensors="np")
        tiles = found["pixel_values"][0, 0, : len(ours.pixels)]
        if ours.ratio != found["aspect_ratio_ids"][0, 0] or not np.array_equal(tiles, ours.pixels):
            sys.exit(f"a picture of {picture.size} pixels has other tiles than in transformers")
    return {
        "transformers": lambda: [theirs(images=[[picture]], return_tensors="np") for picture in pictures],
        "puna": lambda: [tiles_of(picture, shape) for picture in pictures],
    }


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


def flops(config: Any, tiles: int, side: str) -> float:
    """Operations of one picture: products with weights of every token that is computed, and of queries with keys."""
    width, layers = config.dim, config.layers + config.global_layers
    real, pad = tiles * config.tokens, -config.tokens % 8
    if side == "ragged":
        tokens, pairs = real, real * real
    elif side == "strict":
        more = (min(tiles + 1, config.max_tiles) - tiles) * (config.tokens + 1) + tiles  # one for what fills each tile up
        tokens, pairs = real + more, real * (real + 2 * more)
    else:
        tokens = config.max_tiles * (config.tokens + pad)
        pairs = tokens * tokens
    weights = 2 * tokens * (4 * width * width + 2 * width * config.mlp_dim)
    return layers * (weights + 4 * pairs * width) + 2 * tiles * config.patches * width * 3 * config.patch**2


def product_speed(config: Any) -> float:
    """Operations a second of the best product of a tile's tokens with a matrix of the MLP, by CPU seconds."""
    x, weight = torch.randn(4 * config.tokens, config.dim), torch.randn(config.mlp_dim, config.dim)
    return 2 * x.numel() * config.mlp_dim / best_seconds(lambda: F.linear(x, weight), 30)


def best_seconds(side: Side, rounds: int) -> float:
    """CPU seconds of the best of some runs."""
    return min(run_rounds({"side": side}, rounds)["side"])[0]


def line_fit(tiles: list[int], seconds: list[float]) -> tuple[float, float, float]:
    """(seconds at no tile, seconds a tile, R squared) of the straight line through the points."""
    slope, start = np.polyfit(tiles, seconds, 1)
    left = np.array(seconds) - (start + slope * np.array(tiles))
    return float(start), float(slope), float(1 - (left**2).sum() / np.var(seconds) / len(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    import PIL
    import transformers

    torch.set_num_threads(1)
    rounds, pictures, tiles = (3, 12, MIX) if args.quick else (7, 40, MIX + MIX)
    config = shape_of(args.quick)
    models = encoders(config)
    cutting, mixed = preprocessing(pictures), encoding(config, tiles, models)
    with torch.no_grad():
        error = float((mixed["strict"]() - mixed["transformers"]()).abs().max())
    if error > MOST_ERROR:
        sys.exit(f"the strict features differ from transformers' by {error:.2g}")
    cut, encoded = run_rounds(cutting, rounds), run_rounds(mixed, rounds)
    batches = [MIX[:count] for count in range(1, 1 + len(MIX))]
    growing = [best_seconds(encoding(config, batch, models)["ragged"], rounds) for batch in batches]
    start, slope, straight = line_fit([sum(batch) for batch in batches], growing)
    alone = [best_seconds(encoding(config, (count,), models)["ragged"], rounds) for count in MIX]
    speed = product_speed(config)
    print(table("pictures to tiles of 560 pixels", cut, pictures))
    print(table(f"tiles of {config.tile} pixels to features", encoded, len(tiles)))
    print(f"ragged: {start:.3f} + {slope:.3f} seconds a tile in the batch, R2 {straight:.4f}")
    print(f"strict: features differ from those of transformers by {error:.1e}")
    median = {name: statistics.median(cpu for cpu, _ in runs) for name, runs in encoded.items()}
    least = {name: sum(flops(config, count, name) for count in tiles) / speed for name in encoded}
    ratios = {
        "preprocess": statistics.median(c for c, _ in cut["transformers"]) / statistics.median(c for c, _ in cut["puna"]),
        "ragged": median["transformers"] / median["ragged"], "strict": median["transformers"] / median["strict"],
        "linear_r2": straight,
    }  # fmt: skip
    limits = {f"{name}_share_of_product_speed": least[name] / median[name] for name in encoded}
    limits |= {f"{name}_by_operations": least["transformers"] / least[name] for name in ("ragged", "strict")}
    missed = [name for name, goal in GOAL.items() if ratios[name] < goal]
    print(json.dumps({
        "bench": "vision", "ratios": rounded(ratios), "limits": rounded(limits), "goals": GOAL, "missed": missed,
        "seconds_by_tiles": dict(zip(MIX, (round(value, 4) for value in alone), strict=True)), "error": error,
        "product_gflops": round(speed / 1e9, 1), "threads": 1, "load": round(os.getloadavg()[0], 1), "quick": args.quick,
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "pillow": PIL.__version__},
    }))  # fmt: skip
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


def table(title: str, seconds: dict[str, list[tuple[float, float]]], pictures: int) -> str:
    """Pictures a second of each side, by CPU and by wall seconds."""
    lines = [f"{title}: pictures a second, best and median of CPU seconds, median of wall"]
    for name, runs in seconds.items():
        cpu, wall = ([run[which] for run in runs] for which in (0, 1))
        figures = (pictures / min(cpu), pictures / statistics.median(cpu), pictures / statistics.median(wall))
        lines.append(f"  {name:<14}" + "".join(f"{figure:9.2f}" for figure in figures))
    return "\n".join(lines)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Three digits after the point."""
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    main()
