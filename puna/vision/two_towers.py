"""Pictures and captions in one space (section 7.1.1; Radford et al. 2021, CLIP): two towers, a cosine, a learnt temperature.

The image tower is the encoder that an adapter will read; the mean of its last states is projected. The text tower is a small
Llama over our own tokenizer, read at the caption's end. It is of no use afterwards but to tell pictures and captions that do
not belong together, and lies beside the encoder for that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.model.config import ModelConfig
from puna.model.llama import Linear, Llama
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.train.packing import Batch, pack
from puna.vision.encoder import ImageEncoder
from puna.vision.encoder_files import load_encoder, save_encoder
from puna.vision.tile_store import OWN_FILES, Shown, TileStore, normalised
from puna.vision.tiles import ImageShape

TOWER_CONFIG, TOWER = "text_tower.json", "text_tower.safetensors"
FIRST_SCALE, MOST_SCALE = 1 / 0.07, 100.0  # of cosines (CLIP, section 2.5)
SCORED_TOGETHER = 64  # pairs of a forward pass


class TwoTowers(nn.Module):
    """Image encoder and text tower.

    Args:
        width: of the common space. seed: of the weights; None leaves the image tower as it is.
    """

    def __init__(self, encoder: ImageEncoder, text: ModelConfig, width: int, *, seed: int | None):
        super().__init__()
        self.encoder, self.text = encoder, Llama(text, seed=None if seed is None else derive_seed(seed, "text"))
        self.of_image, self.of_text = Linear(encoder.config.dim, width), Linear(text.dim, width)
        self.log_scale = nn.Parameter(torch.tensor([math.log(FIRST_SCALE)]))
        if seed is not None:
            generator = torch.Generator().manual_seed(derive_seed(seed, "image"))
            encoder.init_weights(generator)
            for head in (self.of_image, self.of_text):
                nn.init.normal_(head.weight, 0.0, head.in_features**-0.5, generator=generator)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with, [1]."""
        return self.log_scale.exp().clamp(max=MOST_SCALE)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit vectors [pairs, width] of the pictures and of the captions of `pair_batch`."""
        extra, dim = batch.extra, self.encoder.config.dim
        states_NPD = self.encoder(extra["tiles_N3SS"], extra["tiles_I"], extra["ratio_I"])[..., :dim]
        image_N = torch.arange(len(extra["tiles_I"]), device=states_NPD.device).repeat_interleave(extra["tiles_I"])
        sums_ID = states_NPD.new_zeros(len(extra["tiles_I"]), dim).index_add(0, image_N, states_NPD.mean(1))
        words_BTD = self.text.hidden(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask())
        ends_ID = words_BTD.flatten(0, 1)[extra["ends_N"]]
        images, texts = self.of_image(sums_ID / extra["tiles_I"][:, None]), self.of_text(ends_ID)
        return F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)


def pair_batch(captions: Sequence[Sequence[int]], shown: Sequence[Shown], length: int, shape: ImageShape) -> Batch:
    """Captions (ids) packed into rows of `length`, and their pictures.

    `extra`: `tiles_N3SS`, `tiles_I`, `ratio_I` as in `puna.vision.sight.Media`, `ends_N`, the flat position of the end of each
    caption, and `caption_P`, a number that equal captions share.
    """
    batch = pack([(ids, [0] * len(ids)) for ids in captions], None, length)
    flat, ends = batch.documents_BT.reshape(-1), torch.empty(len(captions), dtype=torch.int64)
    places = (flat >= 0).nonzero()[:, 0]
    ends[flat[places]] = places  # the last one stays
    batch.extra = {
        "tiles_N3SS": normalised(torch.cat([one.tiles_N3SS for one in shown]), shape),
        "tiles_I": torch.tensor([one.tiles_I[0] for one in shown]),
        "ratio_I": torch.tensor([one.ratio_I[0] for one in shown]),
        "ends_N": ends,
        "caption_P": torch.tensor([derive_seed(0, *ids) for ids in captions]),
    }
    return batch


def caption_ids(tokenizer: Tokenizer, caption: str) -> list[int]:
    """A caption between the marks of a text's beginning and end."""
    return [tokenizer.bos_id, *tokenizer.encode(caption), tokenizer.eos_id]


def save_towers(model: TwoTowers, directory: Path, tokenizer: Tokenizer) -> None:
    """Write the encoder (kind `image_encoder`) and the text tower beside it."""
    save_encoder(model.encoder, directory)
    about = {"text": model.text.config.to_hf(), "width": model.of_image.out_features}
    (directory / TOWER_CONFIG).write_text(json.dumps(about, indent=1) + "\n")
    state = {name: w.cpu().contiguous().clone() for name, w in model.state_dict().items() if not name.startswith("encoder.")}
    state.pop("text.lm_head.weight")  # the embedding again
    save_file(state, directory / TOWER)
    tokenizer.save(directory)


def load_towers(directory: Path) -> tuple[TwoTowers, Tokenizer]:
    """Both towers, in evaluation mode, and the tokenizer; InputError where the encoder stands alone."""
    if not (directory / TOWER).exists():
        raise InputError("this image encoder has no text tower", where=str(directory), fix="give a vision.contrast stage")
    about = json.loads((directory / TOWER_CONFIG).read_text())
    model = TwoTowers(load_encoder(directory), ModelConfig.from_hf(about["text"]), about["width"], seed=None)
    model.load_state_dict(load_file(directory / TOWER), strict=False)
    return model.eval(), Tokenizer.load(directory)


def load_scorer(directory: Path) -> Callable[[Sequence[Path], Sequence[str]], np.ndarray]:
    """A function from picture files and captions to their cosines, float32 [pairs] (section 7.1.1 drops pairs of low score).

    A caption that is longer than the tower reads is judged by its beginning.
    """
    model, tokenizer = load_towers(directory)
    config, most = model.encoder.config, model.text.config.max_seq_len
    shape = ImageShape(tile=config.tile, max_tiles=config.max_tiles)
    tiles = TileStore(shape, OWN_FILES, frames=1, limit=0)

    @torch.no_grad()
    def scores(files: Sequence[Path], captions: Sequence[str]) -> np.ndarray:
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(files), SCORED_TOGETHER):
            part = slice(start, start + SCORED_TOGETHER)
            shown = [tiles(Medium(at=0, kind="image", url=file.name), file.parent) for file in files[part]]
            ids = [caption_ids(tokenizer, caption)[:most] for caption in captions[part]]
            images, texts = model(pair_batch(ids, shown, max(map(len, ids)), shape))
            found.append((images * texts).sum(-1).numpy())
        return np.concatenate(found)

    return scores
