"""The command line: verbs and nothing else. Each verb imports what it needs when it runs, so `puna --help` is instant.

A problem the user can act on is printed as what / where / fix (as JSON under `--json`) with exit code 2 for bad input, 1 for a
failed run and 143 for one that was asked to stop; a traceback means a bug in Puna.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from puna.commands import annotate, explain, export, generate, lineage, models, runs, speak, stores, texts, transcribe
from puna.core.errors import InputError, PunaError, resource_error

app = typer.Typer(
    name="puna",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Raise a herd of language models: from raw pages to aligned, quantised models behind an API.",
)

_VERBS: dict[str, Callable[..., None]] = {
    "up": runs.up, "plan": runs.plan, "config": runs.config, "status": runs.status, "report": runs.report, "run": runs.run,
    "explain": explain.explain, "why": stores.why, "diff": stores.diff, "verify": stores.verify, "gc": stores.gc,
    "doctor": stores.doctor, "why-licence": lineage.why_licence, "affected": lineage.affected, "release": lineage.release,
    "chat": models.chat, "serve": models.serve, "eval": models.evaluate, "convert": models.convert,
    "generate": generate.generate, "annotate": annotate.annotate, "export": export.export,
    "speak": speak.speak, "transcribe": transcribe.transcribe,
}  # fmt: skip
for _name, _verb in _VERBS.items():
    app.command(_name)(_verb)
app.add_typer(texts.app, name="tokenizer")


def main() -> NoReturn:
    """Entry point of the `puna` script."""
    try:
        app()
    except PunaError as error:
        _end(error)
    except BrokenPipeError:  # `puna status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        known = resource_error(error) or (_from_system(error) if isinstance(error, OSError) else None)
        if known is None:
            raise
        _end(known)
    except KeyboardInterrupt:
        print("puna: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _end(error: PunaError) -> NoReturn:
    if "--json" in sys.argv[1:]:
        print(
            json.dumps({"error": {"what": error.what, "where": error.where, "fix": error.fix, "exit_code": error.exit_code}}),
            flush=True,
        )
    else:
        print(f"puna: {error}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def _from_system(error: OSError) -> PunaError | None:
    """What the operating system refuses outside any stage: a directory that may not be written, a busy port."""
    where = str(error.filename) if error.filename else None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"not allowed: {error.strerror}", where=where, fix="choose another --dir, or change its permissions")
    if error.errno == errno.EADDRINUSE:
        return InputError("the port is in use", where=where, fix="choose another --port")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return InputError(f"{error.strerror}", where=where, fix="check the path")
    return None
