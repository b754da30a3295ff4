"""The guard refuses every way of naming our own network, at the door and at the moment of connecting."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from clasper.gateways.ssrf import (
    Allowlist,
    GuardedResolver,
    UrlRefused,
    address_problem,
    allowlist,
    check_url,
    guarded_session,
    is_listed,
    url_problem,
)

NOBODY = allowlist([])

HOSTILE = [
    "http://127.0.0.1/",
    "http://127.0.0.1./",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.0x1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://10.1.2.3/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/latest/meta-data",
    "http://169.254.169.254/latest/meta-data",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://printer.localhost:8080/",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
]

MALFORMED = [
    "",
    "example.com",
    "/path",
    "//example.com/x",
    "http://",
    "http:///path",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript:alert(1)",
    "http://user@example.com/",
    "http://user:secret@example.com/",
    "http://example.com:0/",
    "http://example.com:99999/",
    "http://example.com:x/",
    "http://example.com/a b",
    "http://example.com/\r\nX: y",
    "http://example.com\\@127.0.0.1/",
    "http://[::1/",
    "https://example.com/" + "a" * 2048,
]

HARMLESS = [
    "https://example.com/hook?x=1",
    "http://example.com:8080/",
    "https://8.8.8.8/",
    "https://[2606:4700:4700::1111]/",
    "https://münchen.example/",
    "https://1-2.example.com/",
]


@pytest.mark.parametrize("url", HOSTILE + MALFORMED)
def test_refused_by_the_text_of_the_url(url: str) -> None:
    assert url_problem(url, NOBODY)
    with pytest.raises(UrlRefused):
        check_url(url, NOBODY)


@pytest.mark.parametrize("url", HARMLESS)
def test_public_urls_pass(url: str) -> None:
    assert url_problem(url, NOBODY) is None
    check_url(url, NOBODY)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_only_global_addresses_pass(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address_problem(address, NOBODY) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.sampled_from(["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"]), st.integers(min_value=0))
def test_no_address_of_a_private_network_passes_in_any_form(network: str, offset: int) -> None:
    private = ipaddress.IPv4Network(network)
    address = private[offset % private.num_addresses]
    for form in (str(address), str(int(address)), hex(int(address)), f"[::ffff:{address}]", f"[64:ff9b::{address}]"):
        assert url_problem(f"http://{form}/", NOBODY)


@pytest.mark.parametrize(
    ("entry", "url", "passes"),
    [
        ("127.0.0.1", "http://127.0.0.1:9/", True),
        ("127.0.0.0/8", "http://127.9.9.9/", True),
        ("127.0.0.0/8", "http://[::ffff:127.0.0.1]/", True),
        ("127.0.0.0/8", "http://10.0.0.1/", False),
        ("::1", "http://[::1]/", True),
        ("[::1]", "http://[::1]/", True),
        ("Localhost", "http://localhost:8080/", True),
        ("localhost", "http://127.0.0.1/", False),
        ("localhost", "ftp://localhost/", False),
        ("localhost", "http://user@localhost/", False),
        (" hooks.internal ", "http://hooks.internal/", True),
    ],
)
def test_allow_list(entry: str, url: str, passes: bool) -> None:
    assert (url_problem(url, allowlist([entry])) is None) is passes


def test_the_operators_setting_is_the_default(settings: Settings) -> None:
    settings.CLASPER_URL_ALLOWLIST = ["127.0.0.1"]
    assert url_problem("http://127.0.0.1/") is None
    settings.CLASPER_URL_ALLOWLIST = []
    assert url_problem("http://127.0.0.1/")


def test_is_listed() -> None:
    allowed = allowlist(["10.0.0.0/8", "hooks.internal"])
    assert is_listed("http://10.1.1.1/", allowed)
    assert is_listed("http://HOOKS.internal/", allowed)
    assert not is_listed("http://example.com/", allowed)


class Names(AbstractResolver):
    """A name server that answers from a list, one answer a question."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.answers.pop(0)
        ]

    async def close(self) -> None:
        return None


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A web server on loopback that redirects `/hop` to wherever `to` says."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/hop":
            raise web.HTTPFound(request.query["to"])
        return web.Response(text="inside")

    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def fetch(url: str, allowed: Allowlist, *answers: list[str]) -> str:
    names = Names(*answers) if answers else None
    async with guarded_session(allowed, timeout=5, resolver=names) as session, session.get(url) as response:
        return await response.text()


async def test_a_name_that_resolves_inside_is_refused_at_connect(port: int) -> None:
    for address in ("127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1"):
        with pytest.raises(UrlRefused):
            await fetch(f"http://rebind.example:{port}/", NOBODY, [address])


async def test_the_allow_list_lets_names_and_networks_through(port: int) -> None:
    assert await fetch(f"http://hooks.example:{port}/", allowlist(["hooks.example"]), ["127.0.0.1"]) == "inside"
    assert await fetch(f"http://hooks.example:{port}/", allowlist(["127.0.0.0/8"]), ["127.0.0.1"]) == "inside"
    assert await fetch(f"http://127.0.0.1:{port}/", allowlist(["127.0.0.1"])) == "inside"


async def test_literal_addresses_are_refused_by_the_session_too(port: int) -> None:
    for host in ("127.0.0.1", "[::1]", "2130706433", "localhost"):
        with pytest.raises(UrlRefused):
            await fetch(f"http://{host}:{port}/", NOBODY)


async def test_a_redirect_passes_the_same_checks(port: int) -> None:
    allowed = allowlist(["hooks.example"])
    with pytest.raises(UrlRefused):
        await fetch(f"http://hooks.example:{port}/hop?to=http://127.0.0.1:{port}/", allowed, ["127.0.0.1"])


async def test_every_connection_is_checked_again(port: int) -> None:
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    resolver = GuardedResolver(NOBODY, names)
    assert [each["host"] for each in await resolver.resolve("flip.example", port)] == ["8.8.8.8"]
    with pytest.raises(UrlRefused):
        await resolver.resolve("flip.example", port)


async def test_only_permitted_addresses_of_a_name_are_passed_on() -> None:
    resolver = GuardedResolver(NOBODY, Names(["10.0.0.1", "8.8.8.8", "::1"], []))
    assert [each["host"] for each in await resolver.resolve("mixed.example", 80)] == ["8.8.8.8"]
    with pytest.raises(UrlRefused):
        await resolver.resolve("empty.example", 80)
    await resolver.close()
