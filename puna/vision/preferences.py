"""Ranked answers about pictures as batches: the answers of `puna.post.answer_rows` in blocks behind one prompt, with its media.

All answers to a question see the same picture, which is encoded once for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from puna.core.stage import Artifact
from puna.post.answer_rows import in_blocks
from puna.post.examples import Left, Ranked, encode_preferences, read_preferences
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Preference, media_of
from puna.train.packing import Batch
from puna.vision.collate import with_media
from puna.vision.rows import LeftOut, Sees, suits
from puna.vision.tile_store import TileStore

FILE = "preferences.jsonl"

Lay = Callable[[Sequence[Ranked], int], Batch]


@dataclass
class Shows(Ranked):
    """Ranked answers, the media of their prompt, and the folder that these lie in; `key` names what is shown."""

    media: list[Medium] = field(default_factory=list)
    root: Path = Path()


@dataclass
class ShownRows:
    """Rows ready to train on, what was left out, and how many were of a strength that says little."""

    rows: list[Shows] = field(default_factory=list)
    left: LeftOut = field(default_factory=LeftOut)
    weak: int = 0


def shown_rows(pictures: Sequence[Artifact], tokenizer: Tokenizer, limit: int, sees: Sees, ranks: int = 3) -> ShownRows:
    """The preferences of all artifacts that have some, each row once; `ranks` as of `encode_preferences`.

    Rows whose media are of another kind, or stand in an answer, are left out and counted as `other`.
    """
    found, known = ShownRows(), set[str]()
    for artifact in pictures:
        fresh = [row for row in read_preferences([artifact.path / FILE]) if row.id not in known]
        known |= {row.id for row in fresh}
        suiting = {row.id: row for row in fresh if _suits(row, sees)}
        encoded = encode_preferences(tokenizer, suiting.values(), limit, ranks)
        for row in encoded.rows:
            media = media_of(suiting[row.identity].context)
            found.rows.append(Shows(row.identity, shown_key(media) or row.key, row.answers, media, artifact.path))
        left = Left(found.left.overlong + encoded.left.overlong, found.left.empty + encoded.left.empty)
        found.left = LeftOut(**vars(left), other=found.left.other + len(fresh) - len(suiting))
        found.weak += encoded.weak
    return found


def shown_key(media: Sequence[Medium]) -> str:
    """What names a prompt by its media, whatever is asked: rows about one picture are held out together. Empty without any."""
    return " ".join(medium.url for medium in media)


def _suits(row: Preference, sees: Sees) -> bool:
    return suits(media_of(row.context), sees) and not any(media_of(candidate.messages) for candidate in row.candidates)


def laid(tokenizer: Tokenizer, tiles: TileStore) -> Lay:
    """What packs such rows into a batch of rows of so many tokens (`lay` of `puna.post.pairs.RankedBatches`)."""

    def lay(rows: Sequence[Ranked], length: int) -> Batch:
        shown = [[tiles(medium, row.root) for medium in row.media] for row in rows if isinstance(row, Shows)]
        return with_media(in_blocks(rows, length), shown, tokenizer.image_id, tiles.shape)

    return lay
