"""`puna tokenizer`: train one, look at what it does with a text, and exchange it with other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from puna.commands.options import Cores, Json, show
from puna.commands.runs import run

app = typer.Typer(
    no_args_is_help=True,
    help="Train a tokenizer, see what it does with a text, exchange it with other tools.",
    pretty_exceptions_enable=False,
)
Directory = Annotated[Path, typer.Argument(help="A tokenizer or model directory.")]


@app.command()
def train(
    documents: Annotated[Path, typer.Argument(help="A documents artifact.")],
    out: Annotated[Path, typer.Option("--out", help="Directory the tokenizer goes to.")],
    values: Annotated[
        list[str] | None, typer.Argument(help="key=value ... settings, for instance vocab=32000.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    cores: Cores = None,
    as_json: Json = False,
) -> None:
    """Train a byte-level BPE on curated documents."""
    run("tokenizer.train", out=out, values=values, given=[f"documents={documents}"], seed=seed, cores=cores, as_json=as_json)


@app.command()
def encode(
    tokenizer: Directory,
    text: Annotated[str | None, typer.Argument(help="Text (default: standard input).")] = None,
    as_json: Json = False,
) -> None:
    """Token ids of a text, and the pieces they stand for."""
    from puna.tokenizer.bpe import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    ids = loaded.encode(text if text is not None else sys.stdin.read())
    pieces = [loaded.decode([token]) for token in ids]
    show({"ids": ids, "pieces": pieces}, "\n".join([" ".join(map(str, ids)), "|".join(pieces)]), as_json)


@app.command()
def decode(tokenizer: Directory, ids: Annotated[list[int], typer.Argument(help="Token ids.")], as_json: Json = False) -> None:
    """Text of token ids."""
    from puna.core.errors import InputError
    from puna.tokenizer.bpe import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    wrong = [token for token in ids if not 0 <= token < loaded.vocab_size]
    if wrong:
        raise InputError(
            f"{wrong[0]} is no token of this tokenizer", where=str(tokenizer), fix=f"ids go from 0 to {loaded.vocab_size - 1}"
        )
    text = loaded.decode(ids)
    show({"text": text}, text, as_json)


@app.command()
def export(
    tokenizer: Directory,
    out: Annotated[Path, typer.Argument(help="Directory the files go to.")],
    to: Annotated[str, typer.Option("--to", help="hf, tiktoken or gguf.")],
    as_json: Json = False,
) -> None:
    """Write a tokenizer as other tools read it: Hugging Face files, a tiktoken file, or GGUF metadata."""
    from puna.tokenizer.bpe import Tokenizer
    from puna.tokenizer.export import export as write

    files = [str(file) for file in write(Tokenizer.load(tokenizer), out, to)]
    show({"files": files}, "\n".join(files), as_json)


@app.command(name="import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="Meta's tokenizer.model, a tiktoken file, tokenizer.json, or a directory of one.")
    ],
    out: Annotated[Path, typer.Argument(help="Directory the tokenizer goes to.")],
    as_json: Json = False,
) -> None:
    """Take over another tool's tokenizer with the ids it has, or say why that cannot be."""
    from puna.tokenizer.bpe import Tokenizer

    loaded = Tokenizer.load(source)
    loaded.save(out)
    facts = {"directory": str(out), "vocab_size": loaded.vocab_size, "base_size": loaded.base_size, "digest": loaded.digest}
    show(facts, f"{out}: {loaded.base_size:,} tokens and {loaded.vocab_size - loaded.base_size} special ones", as_json)
