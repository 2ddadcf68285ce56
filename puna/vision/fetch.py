"""The bytes behind the address of a medium: a `data:` URL, a file under one folder, or the web where it is allowed.

Whoever may name an address may name one of ours: a server that fetches what it is told to can be made to read its own network
(SSRF). So the web is off unless domains are allowed, every address is resolved once, all it resolves to must be public, the
connection goes to the very address that was checked (a name that changes its mind gains nothing), and every redirect begins anew.
What comes is bounded in bytes and in time. Every refusal is an InputError.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

from puna.core.errors import InputError

REDIRECTS = 5
CHUNK = 64 << 10  # bytes read at once
SHOWN = 100  # characters of an address that an error repeats
SAFE = "/%:=&?~+!$,;'@()*[]"  # of a path and a query, as they are
MEDIA_TYPE = re.compile(r"(image|video|audio)/[\w.+-]+|(application|binary)/octet-stream", re.IGNORECASE)
SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):")  # two letters at least: a drive is no scheme
GLOBAL = ipaddress.ip_network("2000::/3")  # all that IANA has given out of IPv6 as public
NAT64, MAPPED = ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::ffff:0:0/96")
ISATAP = 0x5EFE  # before the IPv4 address in the last half of such an address (RFC 5214)
NO_HOSTS = tuple(  # protocol assignments with a cloud's metadata, 6to4 relays, another cloud's metadata, documentation
    ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class MediaRules:
    """What may be read, and how much of it.

    Attributes:
        max_bytes: of one picture, video or sound as it comes.
        max_pixels: of one picture or frame, decoded.
        max_frames: of one video, taken. max_decoded: pixels of all the frames that are decoded to find them.
        max_seconds: the longest video, or stretch of one, that is looked at.
        domains: hosts that may be fetched from: a name, `*.name` for all below it, `*` for every public one. Empty: no web.
        seconds: time for one fetch, redirects included.
    """

    max_bytes: int = 20 << 20
    max_pixels: int = 40_000_000
    max_frames: int = 64
    max_decoded: int = 10_000_000_000
    max_seconds: float = 600.0
    domains: tuple[str, ...] = ()
    seconds: float = 10.0


def read_url(url: str, rules: MediaRules, root: Path | None = None) -> bytes:
    """The bytes an address stands for.

    Args:
        url: `data:...;base64,...`, `http(s)://...`, or a path relative to `root`.
        rules: bounds and allowed domains.
        root: the only folder that files are read from; None reads none.

    Raises:
        InputError: whatever the rules do not allow, and whatever cannot be read.
    """
    scheme = scheme_of(url)
    if scheme == "data":
        return _data(url, rules)
    if scheme in ("http", "https"):
        return _fetch(url, rules)
    path = find_file(url, root)
    if not path.is_file():
        raise InputError("this is no file", where=shown(url), fix="name a picture or a video")
    return read_file(path, rules, url)


def read_file(path: Path, rules: MediaRules, url: str) -> bytes:
    """The bytes of one file; `url` is what errors call it."""
    try:
        with path.open("rb") as file:
            found = file.read(rules.max_bytes + 1)
    except OSError as error:
        raise InputError(f"the file cannot be read ({_said(error)})", where=shown(url)) from None
    _check_size(len(found), rules, url)
    return found


def scheme_of(url: str) -> str:
    """`data`, `http`, ... in lower case; empty for a path."""
    found = SCHEME.match(url)
    return found[1].lower() if found else ""


def find_file(url: str, root: Path | None) -> Path:
    """The file or folder under `root` that a path names; InputError if it leads out of it, or is not there."""
    if scheme_of(url):
        fix = "media come as data: URLs, from allowed domains, or as paths below the media folder"
        raise InputError(f"addresses that begin with '{scheme_of(url)}:' are not read", where=shown(url), fix=fix)
    if root is None:
        raise InputError("files are not read here", where=shown(url), fix="send the file itself as a data: URL")
    try:
        top = root.resolve()
        path = (top / url).resolve()
        if path.is_relative_to(top) and path.exists():
            return path
        what = "there is no such file" if path.is_relative_to(top) else "the path leads out of the media folder"
    except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, a loop of links
        what = "this is no path of a file"
    raise InputError(what, where=shown(url), fix="name a file below the media folder")


def shown(url: str) -> str:
    """An address as errors repeat it: its beginning, without what cannot be printed."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in url[: SHOWN + 1])
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet, and so is the IPv4 address that it may stand for."""
    if isinstance(address, ipaddress.IPv6Address) and not any(address in network for network in (GLOBAL, NAT64, MAPPED)):
        return False
    if not address.is_global or address.is_multicast or any(address in network for network in NO_HOSTS):
        return False
    return all(is_public(each) for each in _embedded(address))


def _embedded(address: Address) -> list[ipaddress.IPv4Address]:
    """IPv4 addresses that an IPv6 address carries: mapped, NAT64, 6to4, Teredo, ISATAP."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64 or int(address) >> 32 & 0xFFFF == ISATAP:
        found.append(last)
    return [each for each in found if each is not None]


def _data(url: str, rules: MediaRules) -> bytes:
    """The content of a `data:` URL (RFC 2397)."""
    head, comma, payload = url.partition(",")
    if not comma:
        raise InputError("a data: URL has a comma before its content", where=shown(url), fix="data:image/png;base64,...")
    kind, *options = head[len("data:") :].split(";")
    if kind and not MEDIA_TYPE.fullmatch(kind.strip()):
        raise InputError(f"a data: URL of type '{shown(kind)}' is no picture, video or sound", where=shown(url))
    coded = any(option.strip().lower() == "base64" for option in options)
    _check_size(len(payload) * 3 // 4 if coded else len(payload) // 3, rules, url)
    plain = payload.encode("utf-8", "replace")
    raw = unquote_to_bytes(plain) if "%" in payload or not coded else plain
    try:
        found = base64.b64decode(b"".join(raw.split()), validate=True) if coded else raw
    except (binascii.Error, ValueError):
        raise InputError("the content of a data: URL is not valid base64", where=shown(url)) from None
    _check_size(len(found), rules, url)
    return found


def _check_size(size: int, rules: MediaRules, url: str) -> None:
    if size > rules.max_bytes:
        limit = f"{rules.max_bytes / 2**20:g} MB"
        raise InputError(f"a medium may have {limit} and this has more", where=shown(url), fix="send a smaller one")


def _fetch(url: str, rules: MediaRules) -> bytes:
    """The body behind a web address, after at most `REDIRECTS` redirects."""
    deadline = time.monotonic() + rules.seconds
    address = url
    for _ in range(REDIRECTS + 1):
        found = _one_hop(address, rules, deadline)
        if isinstance(found, bytes):
            return found
        address = _joined(address, found)
    raise InputError(f"more than {REDIRECTS} redirects", where=shown(url), fix="name the picture's own address")


def _joined(address: str, target: str) -> str:
    try:
        return urljoin(address, target)
    except ValueError as error:
        raise InputError(f"it sends us to what is no address ({error})", where=shown(address)) from None


def _one_hop(url: str, rules: MediaRules, deadline: float) -> bytes | str:
    """The body, or where the answer sends us."""
    parts = _checked(url, rules)
    host, secure = (parts.hostname or "").rstrip("."), parts.scheme.lower() == "https"
    port = parts.port or (443 if secure else 80)
    addresses = _resolved(host, port, url)
    target = quote(parts.path or "/", safe=SAFE) + (f"?{quote(parts.query, safe=SAFE)}" if parts.query else "")
    try:
        with _connected(host, port, addresses, secure, deadline) as connection:
            connection.request("GET", target, headers={"Accept": "image/*,video/*,audio/*", "Accept-Encoding": "identity"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                return answer.headers.get("Location") or ""
            _check_answer(answer, rules, url)
            body = _body(answer, rules, url)
            if time.monotonic() >= deadline:  # what was cut off looks like an end
                raise TimeoutError
            return body
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            what = f"it did not come within {rules.seconds:g} seconds"
            raise InputError(what, where=shown(url), fix="send it as a data: URL") from None
        raise InputError(f"the address cannot be read ({_said(error)})", where=shown(url)) from None


def _said(error: Exception) -> str:
    """Why, without repeating what a stranger sent."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "this is no whole answer of a web server"


def _checked(url: str, rules: MediaRules) -> SplitResult:
    """The parts of a web address that may be fetched."""
    if any(c.isspace() or not c.isprintable() or c == "\\" for c in url):
        raise InputError("an address has no spaces, control characters or backslashes", where=shown(url))
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"this is no address ({error})", where=shown(url)) from None
    if parts.scheme.lower() not in ("http", "https") or not host or "%" in host:  # a zone would name one of our interfaces
        raise InputError("an address on the web begins with http:// or https://, and a host", where=shown(url))
    if "@" in parts.netloc:
        raise InputError("addresses with a user name or a password are not read", where=host, fix="leave them out")
    if not _allowed(host.rstrip(".").lower(), rules.domains):
        listed = f"'{shown(host)}' is not among the allowed domains"
        what = listed if rules.domains else "pictures are not fetched from the web here"
        fix = "send the picture as a data: URL, or let the server be started with --allow-media-domains"
        raise InputError(what, where=shown(url), fix=fix)
    return parts


def _allowed(host: str, domains: tuple[str, ...]) -> bool:
    wanted = [domain.lower().rstrip(".") for domain in domains]
    return any(d == "*" or d == host or (d.startswith("*.") and host.endswith(d[1:])) for d in wanted)


def _resolved(host: str, port: int, url: str) -> list[str]:
    """What a host resolves to; InputError unless all of it is public. Numbers in any notation resolve to themselves."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InputError(f"the host '{shown(host)}' is not known", where=shown(url)) from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(ipaddress.ip_address(address.partition("%")[0])):
            what = f"'{shown(host)}' is an address of a private network"
            raise InputError(what, where=shown(url), fix="only public addresses are fetched")
    return addresses


@contextmanager
def _connected(host: str, port: int, addresses: list[str], secure: bool, deadline: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to the first of these addresses that answers, cut off at the deadline, however slowly it trickles."""
    connection = http.client.HTTPConnection(host, port)
    connection.default_port = 443 if secure else 80  # what the Host header leaves out
    plain = _reached(addresses, port, deadline)
    connection.sock = plain
    if secure:
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    cut = threading.Timer(max(0.0, deadline - time.monotonic()), _hang_up, (connection.sock,))
    cut.daemon = True
    cut.start()
    try:
        if isinstance(connection.sock, ssl.SSLSocket):
            connection.sock.do_handshake()
        yield connection
    finally:
        cut.cancel()
        connection.close()


def _reached(addresses: list[str], port: int, deadline: float) -> socket.socket:
    for address in addresses:
        try:
            reached = socket.create_connection((address, port), timeout=max(0.001, deadline - time.monotonic()))
            reached.settimeout(None)
            return reached
        except OSError:
            if address == addresses[-1]:
                raise
    raise OSError("no address")


def _hang_up(reached: socket.socket) -> None:
    try:
        reached.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return


def _check_answer(answer: http.client.HTTPResponse, rules: MediaRules, url: str) -> None:
    if answer.status != 200:
        raise InputError(f"the address answers with status {answer.status}", where=shown(url))
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InputError("the address answers with packed content, which was not asked for", where=shown(url))
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    if kind and not MEDIA_TYPE.fullmatch(kind):
        raise InputError(f"the address answers with '{shown(kind)}', no picture, video or sound", where=shown(url))
    _check_size(answer.length or 0, rules, url)


def _body(answer: http.client.HTTPResponse, rules: MediaRules, url: str) -> bytes:
    parts, size, promised = [], 0, answer.length
    while part := answer.read(CHUNK):
        parts.append(part)
        size += len(part)
        _check_size(size, rules, url)
    if promised is not None and size < promised:
        raise http.client.IncompleteRead(b"".join(parts), promised - size)
    return b"".join(parts)
