"""Protection against server-side request forgery: callers name URLs, and must not reach our own network with them.

There are two checks. `url_problem` examines the text (scheme, credentials, literal addresses) and can run when input is
validated. `GuardedResolver` examines the addresses that a name resolves to and passes only permitted ones to aiohttp,
so that what was checked is what is connected to, even if the name resolves differently the next time. `guarded_session`
applies both to every request, redirects included. Only the operator's allow-list (hosts or networks) exempts an
address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from django.conf import settings
from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARS = 2048
CONNECT_SECONDS = 5

_REFUSED_V4: tuple[tuple[ipaddress.IPv4Network, str], ...] = tuple(
    (ipaddress.IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a carrier-grade NAT address"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "a cloud metadata address"),
        ("169.254.0.0/16", "a link-local or metadata address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a 6to4 relay address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6: tuple[tuple[ipaddress.IPv6Network, str], ...] = tuple(
    (ipaddress.IPv6Network(network), reason)
    for network, reason in (
        ("2001::/23", "a reserved or tunnelled address"),
        ("2001:db8::/32", "a documentation address"),
        ("2002::/16", "a 6to4 address"),
        ("3fff::/20", "a documentation address"),
    )
)


class UrlRefused(ValueError):
    """The URL must not be fetched; `reason` is a sentence fit for callers."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Hosts and networks that caller-given URLs may reach although they are not public."""

    hosts: frozenset[str]
    networks: tuple[Network, ...]

    def has_host(self, host: str) -> bool:
        return _plain(host) in self.hosts

    def has_address(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def allowlist(entries: Sequence[str] | None = None) -> Allowlist:
    """The allow-list of these entries, or of `CLASPER_URL_ALLOWLIST`."""
    return _parse_allowlist(tuple(settings.CLASPER_URL_ALLOWLIST if entries is None else entries))


@lru_cache(maxsize=32)
def _parse_allowlist(entries: tuple[str, ...]) -> Allowlist:
    hosts: set[str] = set()
    networks: list[Network] = []
    for entry in filter(None, map(str.strip, entries)):
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError:
            hosts.add(_plain(entry))
    return Allowlist(frozenset(hosts), tuple(networks))


def address_problem(address: Address, allowed: Allowlist) -> str | None:
    """Why this address must not be connected to, or None.

    The allow-list also applies to an IPv4 address embedded in an IPv6 one. Any other embedded address is refused,
    because no public service is reached that way.
    """
    embedded = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if allowed.has_address(address) or (embedded is not None and allowed.has_address(embedded)):
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return next((reason for network, reason in _REFUSED_V4 if address in network), None)
    if address not in _GLOBAL_V6:
        return "an address outside the public internet"
    return next((reason for network, reason in _REFUSED_V6 if address in network), None)


def url_problem(url: str | URL, allowed: Allowlist | None = None) -> str | None:
    """Why this URL must not be fetched, as far as its text tells; None when it may be.

    Names are not resolved here: that happens when the connection is made.
    """
    permitted = allowlist() if allowed is None else allowed
    parsed = _parse(url) if isinstance(url, str) else url
    if isinstance(parsed, str):
        return parsed
    if parsed.scheme not in ("http", "https"):
        return "Only http and https URLs are accepted."
    if parsed.user is not None or parsed.password is not None:
        return "The URL must not contain a user name or password."
    host = parsed.host
    if not host or parsed.port == 0:
        return "The URL is not valid."
    return None if permitted.has_host(host) else _host_problem(host, permitted)


def check_url(url: str, allowed: Allowlist | None = None) -> None:
    """Raises UrlRefused when there is a `url_problem`."""
    if problem := url_problem(url, allowed):
        raise UrlRefused(problem)


def is_listed(url: str, allowed: Allowlist) -> bool:
    """Whether the operator's allow-list contains the URL's host or literal address."""
    host = _plain(URL(url).host or "")
    if allowed.has_host(host):
        return True
    try:
        return allowed.has_address(ipaddress.ip_address(host))
    except ValueError:
        return False


def _parse(url: str) -> URL | str:
    if len(url) > MAX_URL_CHARS:
        return f"The URL is longer than {MAX_URL_CHARS} characters."
    if not url.isprintable() or any(character.isspace() or character == "\\" for character in url):
        return "The URL contains characters that are not allowed in a URL."
    try:
        parsed = URL(url)
        return parsed if parsed.absolute else "The URL is not valid."
    except ValueError:
        return "The URL is not valid."


def _host_problem(host: str, allowed: Allowlist) -> str | None:
    name = _plain(host)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return _name_problem(name)
    problem = address_problem(address, allowed)
    return f"The URL points to {problem}." if problem else None


def _name_problem(name: str) -> str | None:
    # A last label that is a number is read as an IPv4 address by resolvers (127.1, 0x7f000001, 2130706433).
    last = name.rpartition(".")[2]
    if not last or last.isdigit() or (last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:])):
        return "The URL's host is not a name or a plainly written address."
    if last == "localhost":
        return "The URL points to a loopback address."
    return None


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


class GuardedResolver(AbstractResolver):
    """Resolves names and passes on only addresses that may be connected to.

    Raises UrlRefused when none of a name's addresses is permitted.
    """

    def __init__(self, allowed: Allowlist, inner: AbstractResolver | None = None) -> None:
        self._allowed = allowed
        self._inner = inner or DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if self._allowed.has_host(host):
            return found
        problems = [address_problem(ipaddress.ip_address(result["host"]), self._allowed) for result in found]
        permitted = [result for result, problem in zip(found, problems, strict=True) if problem is None]
        if not permitted:
            raise UrlRefused(f"The URL's host resolves to {next(filter(None, problems), 'no address')}.")
        return permitted

    async def close(self) -> None:
        await self._inner.close()


def guarded_session(
    allowed: Allowlist | None = None, *, timeout: float, resolver: AbstractResolver | None = None
) -> aiohttp.ClientSession:
    """A separate session for URLs given by callers; use it with `async with`. `timeout` bounds a request, in seconds.

    Every request raises UrlRefused before a byte is sent when its URL or all its addresses are refused. Proxies and
    credentials of the environment are ignored; cookies and connections are not kept. Whether redirects are followed is
    for the request to say (`allow_redirects`); each of them passes the same checks.
    """
    permitted = allowlist() if allowed is None else allowed

    async def check(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if problem := url_problem(request.url, permitted):
            raise UrlRefused(problem)
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=GuardedResolver(permitted, resolver), use_dns_cache=False, force_close=True
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(check,),
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS),
        trust_env=False,
        auto_decompress=False,
    )
