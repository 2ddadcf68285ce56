"""What a dialog is about: coarse and fine buckets from a classifier that learns from labelled dialogs (paper 4.2.3).

The paper fine-tunes an 8B model; here the linear classifier of `puna.data.linear` learns which capability a dialog is labelled
with, `maths/geometry` being the fine topic `geometry` of the coarse one `maths`. What is not wanted has to be shown too: a
class `other` of labelled dialogs. Without one, a row counts as off-topic where no topic is likely, which is a weaker test: a
classifier is often sure of what it has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.core.errors import InputError
from puna.data.linear import Linear, LinearSettings, train_linear
from puna.post.quality.rows import asked_in
from puna.tokenizer.dialog import Dialog

if TYPE_CHECKING:
    from collections.abc import Iterable

OTHER = "other"
HELD_EVERY = 5  # of the labelled rows, one in so many is held out to measure the classifier


@dataclass(frozen=True)
class TopicModel:
    """The classifier, and how many of the held-out labels it met."""

    linear: Linear
    held: dict[str, Any]

    def chances(self, dialogs: Sequence[Dialog]) -> np.ndarray:
        """Probability of every class. Returns float32 [dialogs, classes]."""
        import pyarrow as pa

        return self.linear.score_batch(pa.array([asked_in(dialog) for dialog in dialogs], pa.large_string()))


def learn_topics(labelled: Iterable[Dialog], seed: int) -> TopicModel | None:
    """Learn from dialogs whose `capability` is their topic; None where they all have the same one."""
    import pyarrow as pa

    texts, topics = [], []
    for dialog in labelled:
        texts.append(asked_in(dialog))
        topics.append(dialog.capability)
    classes = sorted(set(topics))
    if len(classes) < 2:
        return None
    labels = np.array([classes.index(topic) for topic in topics], dtype=np.int32)
    held = _held(labels, len(classes))
    settings = LinearSettings(buckets_log2=16, epochs=10)
    linear = train_linear(pa.array(texts, pa.large_string()).filter(pa.array(~held)), labels[~held], classes, settings, seed=seed)
    guessed = linear.score_batch(pa.array(texts, pa.large_string()).filter(pa.array(held))).argmax(axis=1)
    coarse = np.unique([coarse_of(name) for name in classes], return_inverse=True)[1]
    right = {
        "n": int(held.sum()),
        "fine": int((guessed == labels[held]).sum()),
        "coarse": int((coarse[guessed] == coarse[labels[held]]).sum()),
    }
    return TopicModel(linear, right)


def _held(labels: np.ndarray, classes: int) -> np.ndarray:
    """Every fifth row of a class, from the second on: a class of one row is learnt from."""
    held = np.zeros(len(labels), dtype=bool)
    for label in range(classes):
        held[np.flatnonzero(labels == label)[HELD_EVERY - 1 :: HELD_EVERY]] = True
    return held


def coarse_of(topic: str) -> str:
    """`maths` of `maths/geometry`."""
    return topic.partition("/")[0]


def wanted_chances(chances: np.ndarray, classes: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """How likely a row is about what is wanted.

    Args:
        chances: float32 [N, classes].
        wanted: topics, coarse or fine; empty for all but `other`.

    Returns float32 [N]: the probability of the wanted topics together; where every topic is wanted, that of the likeliest one.
    Raises InputError for a topic that no labelled dialog has.
    """
    known = {*classes, *map(coarse_of, classes)}
    for topic in wanted:
        if topic not in known:
            raise InputError(
                f"no labelled dialog is about '{topic}'", where="topics.wanted", fix=f"known: {', '.join(sorted(known))}"
            )
    names = wanted or [name for name in classes if coarse_of(name) != OTHER]
    chosen = [i for i, name in enumerate(classes) if name in names or coarse_of(name) in names]
    return chances.max(axis=1) if len(chosen) == len(classes) else chances[:, chosen].sum(axis=1)
