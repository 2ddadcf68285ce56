"""Block lists: addresses that are not read at all, by host, domain, or what the address contains (paper section 3.1.1 removes
domains with unsafe content or much personal data, and adult ones, before anything else).

A list is a plain text file, one rule a line; `block_default.txt` beside this file is one and shows every form:

    [people search]          the reason given for the rules that follow
    spokeo.com               this domain and every host under it (also as `||spokeo.com^` or `0.0.0.0 spokeo.com`)
    =www.example.org         this host alone
    *free-porn*              addresses that contain this
    /\\bcasino-?bonus/        addresses that match this regular expression

Lists are data of the user's: the built-in one is small, names what nobody disputes, and can be switched off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from puna.core.errors import InputError

DEFAULT = Path(__file__).with_name("block_default.txt")
HOSTS_LINE = re.compile(r"(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+(\S+)")
DOMAIN = re.compile(r"[\w-]+(?:\.[\w-]+)*", re.UNICODE)
PLAIN_REASON = "block list"


@dataclass
class BlockList:
    """Rules ready to be asked.

    Attributes:
        domains, hosts, parts: what is blocked (a domain, a host, a part of an address), and the reason for it.
        patterns: regular expressions with their reasons.
    """

    domains: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    patterns: list[tuple[re.Pattern[str], str]] = field(default_factory=list)
    _any_part: re.Pattern[str] | None = None

    def reason(self, url: str) -> str:
        """Why an address is blocked: "REASON: RULE"; empty when it is not."""
        host = host_of(url)
        if host in self.hosts:
            return f"{self.hosts[host]}: ={host}"
        for domain in _domains_of(host):
            if domain in self.domains:
                return f"{self.domains[domain]}: {domain}"
        lowered = url.lower()
        if self.parts:
            self._any_part = self._any_part or re.compile("|".join(map(re.escape, sorted(self.parts))))
            found = self._any_part.search(lowered)
            if found:
                return f"{self.parts[found[0]]}: *{found[0]}*"
        return next((f"{why}: /{rule.pattern}/" for rule, why in self.patterns if rule.search(url)), "")


def host_of(url: str) -> str:
    """The host of an address in lower case, without port and final dot; empty for local rows."""
    if url.startswith("file:"):
        return ""
    try:
        return (urlsplit(url if "://" in url else f"http://{url}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _domains_of(host: str) -> Iterator[str]:
    """A host and every domain it lies in: a.b.c, b.c, c."""
    while host:
        yield host
        host = host.partition(".")[2]


def read_block_lists(paths: Iterable[str | Path], *, default: bool = True) -> BlockList:
    """The rules of all lists.

    Args:
        paths: list files of the user's.
        default: add the built-in list.

    Raises:
        InputError: a file is missing, or a line is no rule; names the line.
    """
    rules = BlockList()
    for path in [DEFAULT] * default + [Path(path).expanduser() for path in paths]:
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"this block list cannot be read: {error}", where=str(path), fix="check `block.lists`") from error
        reason = PLAIN_REASON
        for number, line in enumerate(lines, 1):
            rule = line.split(" #")[0].strip()
            if rule.startswith("[") and rule.endswith("]"):
                reason = rule[1:-1].strip() or PLAIN_REASON
            elif rule and rule[0] not in "#!":
                _add(rules, rule, reason, f"{path.name} line {number}")
    return rules


def _add(rules: BlockList, rule: str, reason: str, where: str) -> None:
    if len(rule) > 2 and rule[0] == "/" == rule[-1]:
        try:
            rules.patterns.append((re.compile(rule[1:-1], re.I), reason))
        except re.error as error:
            raise InputError(f"not a regular expression: {error}", where=f"{where}: {rule}") from error
        return
    if len(rule) > 2 and rule[0] == "*" == rule[-1]:
        rules.parts[rule[1:-1].lower()] = reason
        return
    exact = rule.startswith("=")
    hosts_line = HOSTS_LINE.fullmatch(rule)
    name = hosts_line[1] if hosts_line else rule.removeprefix("=").removeprefix("||").removesuffix("^")
    name = name.lower().strip(".")
    if not DOMAIN.fullmatch(name):
        raise InputError(
            "this line of a block list is no rule", where=f"{where}: {rule[:80]}", fix="write a domain, =host, *part* or /regex/"
        )
    (rules.hosts if exact else rules.domains)[name] = reason
