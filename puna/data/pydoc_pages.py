"""The embedded real source: the HTML documentation that Python renders of its own standard library.

Real pages with real prose and real code that exist on every machine, without network. A fixed list of pure, portable modules
is rendered in one helper process, so the same Python gives the same bytes on every machine of a platform.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from puna.core.errors import InputError, RunError
from puna.core.settings import Settings
from puna.data import pydoc_render
from puna.data.rows import BadRow, PageRow

LICENCE = "PSF-2.0"
RENDER_SECONDS = 120  # far over the few seconds it takes
MODULES = tuple(
    """
abc argparse array ast asyncio.events asyncio.locks asyncio.queues asyncio.tasks base64 bdb bisect bz2 calendar cmath cmd code
codecs codeop collections collections.abc colorsys concurrent.futures concurrent.futures.process concurrent.futures.thread
configparser contextlib contextvars copy copyreg csv dataclasses datetime decimal difflib dis doctest email.generator
email.headerregistry email.message email.parser email.policy email.utils enum filecmp fileinput fnmatch fractions functools
getopt gettext glob graphlib gzip hashlib heapq hmac html html.entities html.parser http http.client http.cookiejar http.cookies
http.server importlib.abc importlib.machinery importlib.metadata importlib.resources inspect io ipaddress itertools json
json.decoder json.encoder json.scanner keyword linecache logging logging.config logging.handlers lzma math numbers operator
optparse pathlib pdb pickle pickletools pkgutil plistlib pprint pstats queue quopri random re reprlib sched secrets selectors
shelve shlex shutil smtplib statistics string stringprep struct subprocess symtable tabnanny textwrap threading timeit token
tokenize tomllib trace traceback types typing unittest.case unittest.mock unittest.runner urllib.error urllib.parse
urllib.request urllib.robotparser uuid weakref wsgiref.headers wsgiref.validate xml.dom.minidom xml.etree.ElementTree
xml.sax.handler xml.sax.saxutils xmlrpc.client zipapp zipfile zlib
""".split()  # noqa: SIM905 (a list of 140 quoted names is unreadable)
)


class PydocSettings(Settings):
    """What of the standard library is rendered.

    Attributes:
        modules: names; empty for the built-in list.
        group: part of the data mix the pages belong to.
        page_bytes: longer pages are cut at the last line end before this many bytes of HTML.
    """

    modules: tuple[str, ...] = ()
    group: Literal["general", "maths", "code", "multilingual"] = "code"
    page_bytes: PositiveInt = 60_000


def read_pydoc(settings: PydocSettings) -> Iterator[PageRow | BadRow]:
    """One HTML page per module; a module this Python does not have is a bad row.

    Raises:
        RunError: the rendering process failed.
        InputError: not one page came out.
    """
    names = list(settings.modules or MODULES)
    pages = 0
    for row in _render(names):
        if "error" in row:
            yield BadRow("pydoc", row["module"], row["error"])
            continue
        pages += 1
        html = _cut(row["html"].encode("utf-8", "replace"), settings.page_bytes)
        yield PageRow(f"https://docs.python.org/3/library/pydoc/{row['module']}.html", html, "html", "utf-8", "", settings.group)
    if not pages:
        raise InputError(
            "none of the named modules could be rendered", where=", ".join(names[:5]), fix="name modules of this Python"
        )


def _render(names: list[str]) -> Iterator[dict[str, str]]:
    script = str(Path(pydoc_render.__file__))
    # -P and -S: neither this folder nor site-packages may shadow the standard library; the empty environment leaks nothing
    command = [sys.executable, "-P", "-s", "-S", "-X", "utf8", script]
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            input="\n".join(names),
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            timeout=RENDER_SECONDS,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise RunError(f"pydoc pages could not be rendered: {error}", fix="leave `pydoc` out of `sources`") from error
    for line in done.stdout.splitlines():
        yield json.loads(line)


def _cut(html: bytes, limit: int) -> bytes:
    if len(html) <= limit:
        return html
    end = html.rfind(b"\n", 0, limit)
    return html[: end if end > 0 else limit]
