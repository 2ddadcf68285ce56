"""Renders standard-library modules as the HTML pages that pydoc serves; run as a script of its own, standard library only.

It is started with a fixed hash seed and an empty environment and prints one JSON line per module: {"module", "html"}. What
belongs to this machine is taken out: memory addresses, file paths and links, and the DATA section, which would show
`os.environ`.
"""

from __future__ import annotations

import importlib
import json
import pydoc
import re
import sys
import warnings

ADDRESS = re.compile(r"(?: |&nbsp;)at(?: |&nbsp;)0x[0-9a-fA-F]+")
FILE_LINK = re.compile(r'<br><a href="file:[^"]*">[^<]*</a>|<a href="file:[^"]*">[^<]*</a>')
LIBRARY_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/](?:[\w.+@&;-]+[\\/])+[\w.+-]*\.(?:py|so|pyd|zip|dylib)\b")


class PortableHTML(pydoc.HTMLDoc):
    """pydoc's own renderer without the section of module data, whose values belong to this machine."""

    def bigsection(self, title: str, *args: object) -> str:
        """As in pydoc, except that the section Data is left out."""
        return "" if title == "Data" else super().bigsection(title, *args)  # type: ignore[arg-type]


def render(name: str) -> str:
    """The page of one module; raises what importing or documenting it raises."""
    module = importlib.import_module(name)
    renderer = PortableHTML()
    html = renderer.page(pydoc.describe(module), renderer.document(module, name))
    html = FILE_LINK.sub("", html.replace('<a href=".">index</a>', ""))
    html = ADDRESS.sub("", html)
    html = LIBRARY_PATH.sub("", html)
    for prefix in sorted({sys.prefix, sys.base_prefix, sys.exec_prefix}, key=len, reverse=True):
        html = html.replace(prefix + "/", "") if len(prefix) > 4 else html
    return html


def main() -> None:
    """Read module names from standard input, one a line; a module that cannot be rendered gives {"module", "error"}."""
    warnings.simplefilter("ignore")
    out = sys.stdout
    sys.stdout = sys.stderr  # some modules print when imported
    for name in sys.stdin.read().split():
        try:
            row = {"module": name, "html": render(name)}
        except Exception as error:  # any module may fail in its own way here: the row says which and why
            row = {"module": name, "error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
