"""Who may see the page, and that it is all that there is to see."""

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from thinwire.comms.swarm.web import server as module
from thinwire.comms.swarm.web.server import NO_TOKEN, NOT_THERE, NOT_YET, ONLY_READ, WRONG_NAME, Place, Site


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(Place(port=0)) as made:
        made.show({"recent": b'{"run": 1}', "whole": b'{"run": 2}'})
        yield made


@pytest.fixture
def open_site() -> Iterator[Site]:
    """On all interfaces; asked over the loopback."""
    with Site(Place(host="0.0.0.0", port=0)) as made:
        made.show({"recent": b"{}", "whole": b"{}"})
        yield made


def ask(site: Site, path: str = "/", *, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.headers
    connection.close()
    return found


def raw(site: Site, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", site.port), 10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
        return answer


def test_there_is_a_page_and_what_it_shows_and_nothing_else(site: Site) -> None:
    assert ask(site)[:2] == (200, site.page.decode())
    assert ask(site, "/state")[:2] == (200, '{"run": 1}')
    assert ask(site, "/state?span=whole")[:2] == (200, '{"run": 2}')
    for path in ("/state?span=other", "/page.html", "/../server.py", "/state/", "/favicon.ico"):
        assert ask(site, path)[:2] == (404, f"{NOT_THERE}\n"), path


def test_before_the_first_look_it_says_so() -> None:
    with Site(Place(port=0)) as site:
        assert ask(site, "/state")[:2] == (503, f"{NOT_YET}\n")


def test_it_can_only_be_read(site: Site) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"):
        assert ask(site, method=method)[:2] == (405, f"{ONLY_READ}\n")
    status, body, headers = ask(site, method="HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", str(len(site.page)))


def test_the_page_runs_its_own_script_and_nothing_else(site: Site) -> None:
    policy = ask(site)[2]["Content-Security-Policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert "connect-src 'self'" in policy
    assert not re.search(r"unsafe|https?:|\*", " ".join(policy))
    page = site.page.decode()
    assert not re.search(r"\bon\w+\s*=\s*[\"']|<[^>]* style=|innerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    assert set(re.findall(r"https?://[^'\"\s]+", page)) == {"http://www.w3.org/2000/svg"}
    assert ask(site)[2]["Referrer-Policy"] == "no-referrer"
    assert ask(site, "/state")[2]["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "198.51.100.7", "", "localhost.evil", "[::2]:1"]
)
def test_by_a_foreign_name_nobody_reads_the_loopback(site: Site, host: str) -> None:
    for path in ("/", "/state"):
        assert ask(site, path, Host=host)[:2] == (403, f"{WRONG_NAME}\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8700", "127.0.0.53:1"])
def test_by_every_name_of_the_loopback_it_is_read_also_through_a_tunnel(site: Site, host: str) -> None:
    assert ask(site, Host=host)[0] == 200


def test_on_other_interfaces_a_token_is_asked_for(open_site: Site) -> None:
    assert len(open_site.token) >= 22
    for path in (
        "/",
        "/state",
        "/?token=",
        "/?token=wrong",
        f"/?token={open_site.token}x",
        "/?token=%ff%00",
        f"/state?token={open_site.token[:-1]}",
    ):
        assert ask(open_site, path)[:2] == (403, f"{NO_TOKEN}\n")
    assert ask(open_site, "/state", Cookie=f"{open_site.cookie}=wrong")[0] == 403
    assert ask(open_site, f"/?token={open_site.token}", Host="evil.example")[:2] == (403, f"{WRONG_NAME}\n")


def test_the_token_goes_from_the_address_into_a_cookie(open_site: Site) -> None:
    path = open_site.address.partition(f":{open_site.port}")[2]
    status, _, headers = ask(open_site, path, Host=socket.gethostname())
    assert (status, headers["Location"]) == (303, "./")
    cookie = headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert ask(open_site, "/state", Cookie=f"other=1; {cookie.split(';')[0]}")[:2] == (200, "{}")


def test_a_loopback_page_needs_no_token() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        with Site(Place(host=host, port=0)) as site:
            assert (site.token, "token" in site.address) == ("", False)
            assert site.address == f"http://{'[::1]' if host == '::1' else host}:{site.port}/"


def test_nothing_is_logged(open_site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    ask(open_site, f"/?token={open_site.token}")
    ask(open_site, "/nothing")
    raw(open_site, b"nonsense\r\n\r\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "request_",
    [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
     b"GET /?" + b"a=1&" * 20 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
     b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n"],
)  # fmt: skip
def test_what_is_no_request_gets_no_page_and_does_no_harm(site: Site, request_: bytes) -> None:
    answer = raw(site, request_)
    assert site.page not in answer
    assert b"<" not in answer
    assert ask(site)[0] == 200


def test_more_requests_at_once_than_there_is_room_for_are_turned_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [socket.create_connection(("127.0.0.1", site.port), 10) for _ in range(module.MOST_AT_ONCE)]
    last = socket.create_connection(("127.0.0.1", site.port), 10)
    assert last.recv(1) == b""  # at once
    for each in (*held, last):
        each.close()
    deadline = time.monotonic() + 10
    while True:  # those that were given up make room
        try:
            assert ask(site)[0] == 200
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < deadline


def test_several_may_look_and_who_does_not_go_on_holds_up_nobody_nor_the_end() -> None:
    with Site(Place(port=0)) as site:
        site.show({"recent": b"{}"})
        stuck = socket.create_connection(("127.0.0.1", site.port), 10)
        stuck.sendall(b"GET / HTTP/1.1\r\n")
        found: list[int] = []
        readers = [threading.Thread(target=lambda: found.append(ask(site, "/state")[0])) for _ in range(8)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert found == [200] * 8
        began = time.monotonic()
    assert time.monotonic() - began < 1
    stuck.close()


def test_what_cannot_be_served_is_one_sentence_with_the_remedy(site: Site) -> None:
    with pytest.raises(ValueError, match=f"port {site.port} of 127.0.0.1 is taken; give another --port, or --port 0 for any that is free"):
        Site(Place(port=site.port))
    with pytest.raises(ValueError, match=r"cannot be served at 198\.51\.100\.7: .*; give an address of this machine as --host"):
        Site(Place(host="198.51.100.7", port=0))
    with pytest.raises(ValueError, match=r"--port is 70000; give one from 0 to 65535"):
        Place(port=70000)
