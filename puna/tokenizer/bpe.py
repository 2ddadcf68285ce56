"""Byte-level BPE with the Llama 3 split pattern (paper 3.2): one class that loads, encodes, decodes and saves.

`tokenizer.model`, one `base64(token) rank` per line, is the only source of truth; every other tokenizer file is generated from
it. Encoding is tiktoken's, which was 7.6 times as fast as the Hugging Face encoder on the same ranks. Its regex engine gives up
on very long white space, so such texts are split by another one, to the same ids. Special tokens never come out of text: a string
such as "<|eot_id|>" in a document is plain text, so no page and no user can forge the end of a turn.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.tokenizer import special

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MODEL_FILE = "tokenizer.model"
DAMAGED = "copy the file again, if it is a tokenizer of Llama 3 or tiktoken (SentencePiece models are of another kind)"
RUN_CHARS = 12_500  # half the longest run, of white space or without any, that Meta's released encoder hands to tiktoken
BULK_CHARS = 16_000_000  # from here on a faster encoder has earned the half second that loading it takes
WINDOW_BYTES = 1 << 14  # a longer piece is encoded in windows of this size: its tables stay in the processor's cache
SEAM_TOKENS = 8  # encoded anew on each side of a seam, at first


class Tokenizer:
    """Text to ids and back.

    Attributes:
        base_size: number of BPE tokens; the special tokens follow them.
        vocab_size: `base_size` + 256.
        digest: sha256 of the content of `tokenizer.model`, the identity that shards and checkpoints record.
        stop_ids: ids that end an assistant's message: end of text, end of message, end of turn.
    """

    def __init__(self, ranks: dict[bytes, int]):
        _check_ranks(ranks)
        self.ranks = dict(sorted(ranks.items(), key=lambda item: item[1]))
        self.base_size = len(self.ranks)
        self.vocab_size = self.base_size + special.SLOTS
        self.digest = hashlib.sha256(model_bytes(self.ranks)).hexdigest()
        self._tokens = [*self.ranks, *(name.encode() for name in special.SPECIAL_TOKENS)]
        self._encoding: Any = None
        self._bulk: Any = None
        self._batched_chars = 0
        self.bos_id = self.special_id(special.BEGIN_OF_TEXT)
        self.eos_id = self.special_id(special.END_OF_TEXT)
        self.pad_id = self.special_id(special.PAD)
        self.start_header_id = self.special_id(special.START_HEADER)
        self.end_header_id = self.special_id(special.END_HEADER)
        self.eom_id = self.special_id(special.EOM)
        self.eot_id = self.special_id(special.EOT)
        self.python_tag_id = self.special_id(special.PYTHON_TAG)
        self.image_id = self.special_id(special.IMAGE)
        self.speech_start_id = self.special_id(special.SPEECH_START)
        self.speech_end_id = self.special_id(special.SPEECH_END)
        self.speech_id = self.special_id(special.SPEECH)
        self.stop_ids: tuple[int, ...] = (self.eos_id, self.eom_id, self.eot_id)

    @classmethod
    def from_ranks(cls, ranks: dict[bytes, int]) -> Tokenizer:
        """A tokenizer from token bytes and their ranks 0..n-1; all 256 single bytes must be among them (InputError)."""
        return cls(ranks)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read ranks from Meta's or tiktoken's file, or from the `tokenizer.json` of a tokenizer of this family.

        A directory gives its `tokenizer.model`, or where another tool left none, its `tokenizer.json`. InputError says which line
        or entry is wrong.
        """
        path = Path(path)
        file = path / MODEL_FILE if path.is_dir() else path
        if path.is_dir() and not file.is_file() and (path / "tokenizer.json").is_file():
            file = path / "tokenizer.json"
        if not file.is_file():
            raise InputError(
                "there is no tokenizer here", where=str(file), fix=f"give a directory that holds {MODEL_FILE}, or the file"
            )
        try:
            if file.suffix == ".json":
                from puna.tokenizer.hf import read_ranks

                return cls(read_ranks(file))
            return cls(_read_ranks(file))
        except InputError as error:
            raise InputError(error.what, where=error.where or str(file), fix=error.fix) from None

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.model` and the three files generated from it for other tools (see `puna.tokenizer.hf`)."""
        from puna.tokenizer.hf import write_files

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MODEL_FILE).write_bytes(model_bytes(self.ranks))
        write_files(self, directory)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS or EOS. Lone surrogates become U+FFFD, special-token strings stay plain text."""
        if len(text) > RUN_CHARS and has_long_run(text):
            return self._by_pieces(text)
        return self._tiktoken().encode_ordinary(text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of every text. After some millions of characters a compiled encoder takes over (see `puna.tokenizer.bulk`)."""
        self._batched_chars += sum(map(len, texts))
        if self._batched_chars < BULK_CHARS:
            return [self.encode(text) for text in texts]
        if self._bulk is None:
            from puna.tokenizer.bulk import BulkEncoder

            self._bulk = BulkEncoder(self.ranks, self.encode, self._tiktoken()._encode_single_piece)
        encode = self._bulk.encode
        return [self.encode(text) if len(text) > RUN_CHARS and has_long_run(text) else encode(text) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD, special tokens their names (or nothing)."""
        kept = (i for i in ids if i < self.base_size) if skip_special else ids
        return self.decode_bytes(kept).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, joined; InputError for an id outside the vocabulary."""
        return b"".join([self.token_bytes(i) for i in ids])

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token (a special token's name); InputError outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            raise InputError(
                f"token id {token_id} is outside the vocabulary of {self.vocab_size}",
                fix="use the tokenizer that lies beside the checkpoint or the shard",
            )
        return self._tokens[token_id]

    def special_id(self, name: str) -> int:
        """Id of a special token by name, e.g. "<|eot_id|>"; InputError for an unknown one."""
        index = special.INDEX.get(name)
        if index is None:
            raise InputError(f"no special token is called {name}", fix="see puna.tokenizer.special")
        return self.base_size + index

    def is_special(self, token_id: int) -> bool:
        """Whether an id is one of the 256 special slots."""
        return token_id >= self.base_size

    def _by_pieces(self, text: str) -> list[int]:
        """The same ids with another regex engine, slower and without a limit on runs, and in linear time for endless pieces."""
        import regex

        encode = self._tiktoken()._encode_single_piece
        ids: list[int] = []
        for piece in regex.findall(SPLIT_PATTERN, text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")):
            if len(piece) < WINDOW_BYTES // 4:
                ids += encode(piece)
            else:
                self._add_windows(ids, piece.encode())
        return ids

    def _add_windows(self, ids: list[int], piece: bytes) -> None:
        """Append the ids of a long piece, window by window.

        Tokens are the ones of the whole piece when each two neighbours are the tokens of their bytes together: the first merge
        across a border would be made in the two alone as well. So only seams need a look, and where one does not hold, the tokens
        around it are made anew.
        """
        encode = self._tiktoken()._encode_single_piece
        done = encode(piece[:WINDOW_BYTES])
        for start in range(WINDOW_BYTES, len(piece), WINDOW_BYTES):
            more = encode(piece[start : start + WINDOW_BYTES])
            if not self._hold(done[-1:], more[:1]):
                self._mend(done, more)
            done += more
        ids += done

    def _mend(self, done: list[int], more: list[int]) -> None:
        """Encode the tokens around a seam anew, more and more of them, until their borders hold; moves them over to `done`."""
        across = SEAM_TOKENS
        while True:
            middle = self._tiktoken()._encode_single_piece(self.decode_bytes(done[-across:] + more[:across]))
            whole = across >= len(done) and across >= len(more)
            before, after = done[-across - 1 : -across], more[across : across + 1]
            if whole or (len(middle) > 1 and self._hold(before, middle[:1]) and self._hold(middle[-1:], after)):
                done[-across:] = middle
                del more[:across]
                return
            across *= 2

    def _hold(self, left: list[int], right: list[int]) -> bool:
        """Whether two neighbouring tokens are the tokens of their bytes together; so is one alone, at either end."""
        pair = left + right
        return len(pair) < 2 or self._tiktoken()._encode_single_piece(self.decode_bytes(pair)) == pair

    def _tiktoken(self) -> Any:
        if self._encoding is None:
            import tiktoken

            self._encoding = tiktoken.Encoding("puna", pat_str=SPLIT_PATTERN, mergeable_ranks=self.ranks, special_tokens={})
        return self._encoding

    def __getstate__(self) -> dict[str, Any]:
        return {"ranks": self.ranks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["ranks"])  # type: ignore[misc]


def model_bytes(ranks: dict[bytes, int]) -> bytes:
    """The content of `tokenizer.model` for ranks in order: one `base64(token) rank` per line, the format of tiktoken and Meta."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def _read_ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        where = f"{file}:{number}"
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdigit():
            raise InputError("a line of tokenizer.model is not 'base64 rank'", where=where, fix=DAMAGED)
        try:
            token = base64.b64decode(fields[0], validate=True)
        except binascii.Error:
            raise InputError("a token is not valid base64", where=where, fix=DAMAGED) from None
        if not token or token in ranks:
            raise InputError("a token is empty or there twice", where=where, fix=DAMAGED)
        if int(fields[1]) != len(ranks):
            raise InputError(
                f"rank {int(fields[1])} where {len(ranks)} is due", where=where, fix="ranks must count 0, 1, 2, ... without gaps"
            )
        ranks[token] = len(ranks)
    if not ranks:
        raise InputError("the tokenizer file is empty", where=str(file), fix="copy it again, or train one with tokenizer.train")
    return ranks


def _check_ranks(ranks: dict[bytes, int]) -> None:
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise InputError("token ranks must be 0, 1, 2, ... without gaps or repeats")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise InputError(
            f"{len(missing)} of the 256 single-byte tokens are missing, the first is 0x{missing[0]:02x}",
            fix="a byte-level tokenizer needs every byte as a token, or some texts could not be encoded",
        )


def has_long_run(text: str) -> bool:
    """Whether a block of 12,500 characters is white space only or has none, as in every run, of either, of twice that length."""
    blocks = (text[start : start + RUN_CHARS] for start in range(0, len(text), RUN_CHARS))
    return any(block.isspace() or (len(block) == RUN_CHARS and len(block.split(None, 1)) == 1) for block in blocks)
