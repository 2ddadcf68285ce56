"""Search over local documents by BM25 (Robertson and Zaragoza 2009), the offline stand-in of the paper's web search (4.3.5).

An index is a few dictionaries in memory: right for thousands of documents, not for millions. Words are runs of letters and
digits, case folded; scripts without spaces are indexed by pairs of letters, so Thai and Chinese are found as well.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from puna.post.tools.failure import ToolFailed

K1, B = 1.2, 0.75  # the usual values of BM25
MAX_QUERY = 1000  # characters read of a query
PASSAGE = 400  # characters of a document that a hit shows

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]")


@dataclass(frozen=True)
class Hit:
    """One document found: its number in the index, its title, a passage around the words asked for, and its score."""

    document: int
    title: str
    passage: str
    score: float


class Search:
    """An index over (title, text) pairs."""

    def __init__(self, documents: Iterable[tuple[str, str]]):
        self.titles: list[str] = []
        self.texts: list[str] = []
        self._lengths: list[int] = []
        self._found: dict[str, dict[int, int]] = defaultdict(dict)  # word: {document: how often}
        for title, text in documents:
            words = Counter(words_of(f"{title} {text}"))
            for word, count in words.items():
                self._found[word][len(self.texts)] = count
            self.titles.append(title)
            self.texts.append(text)
            self._lengths.append(words.total())

    def find(self, query: str, limit: int = 3) -> list[Hit]:
        """The best `limit` documents for a query, best first; equal scores in the order of the documents."""
        wanted = list(dict.fromkeys(words_of(query[:MAX_QUERY])))
        scores: dict[int, float] = defaultdict(float)
        mean = sum(self._lengths) / max(1, len(self._lengths)) or 1.0
        for word in wanted:
            holders = self._found.get(word, {})
            rarity = math.log(1 + (len(self.texts) - len(holders) + 0.5) / (len(holders) + 0.5))
            for document, count in holders.items():
                scores[document] += rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * self._lengths[document] / mean))
        best = sorted(scores, key=lambda document: (-scores[document], document))[:limit]
        return [Hit(d, self.titles[d], self._passage(d, wanted), round(scores[d], 6)) for d in best]

    def answer(self, query: str, limit: int = 3) -> str:
        """What the tool says: one line for each hit. Raises ToolFailed for a query without words."""
        if not words_of(query[:MAX_QUERY]):
            raise ToolFailed("a query needs at least one word")
        hits = self.find(query, limit)
        return "\n".join(f"[{i}] {hit.title}: {hit.passage}" for i, hit in enumerate(hits, 1)) or "nothing found"

    def _passage(self, document: int, wanted: list[str]) -> str:
        """The stretch of a document from its first line that holds most of the words asked for."""
        lines = [line.strip() for line in self.texts[document].splitlines() if line.strip()]
        if not lines:
            return ""
        held = [len(set(words_of(line)) & set(wanted)) for line in lines]
        first = held.index(max(held))
        return " ".join(lines[first:])[:PASSAGE]


def words_of(text: str) -> list[str]:
    """The words of a text as they are indexed."""
    found = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [piece for word in found for piece in (_pairs(word) if _UNSPACED.search(word) else [word])]


def _pairs(word: str) -> list[str]:
    return [word[i : i + 2] for i in range(len(word) - 1)] or [word]
