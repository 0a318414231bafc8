"""The live page over HTTP: two addresses, nothing that can be changed, and nobody who is not meant to see it.

    with Site(Place(port=8700)) as site:
        print(site.address)
        site.show({"recent": b"{...}", "whole": b"{...}"})       whenever there is something new

On this machine's own loopback everybody may look. On any other interface a token is asked for, which the printed address holds; a cookie
keeps it, so that it stands in no history and in no log. What a request says it is looking for must be this machine: else a foreign page
could have its own name point here, and read (DNS rebinding).
"""

import base64
import errno
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import socketserver
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

PORT = 8700
PATIENCE_S = 10.0  # with a request that does not go on
MOST_FIELDS = 8  # in an address
MOST_AT_ONCE = 64  # requests; more are turned away unanswered
ENDS_S = 0.1  # how long an end of the server takes at most

NO_TOKEN = "This page asks for a token: open the whole address that `thinwire status --web` has printed."
WRONG_NAME = "Open this page by the address that `thinwire status --web` has printed: what you asked for is the name of another machine."
NOT_THERE = "There is nothing here: the page is at /, and what it shows at /state."
ONLY_READ = "This page can only be read: GET and HEAD."
NOT_YET = "The first look at the swarm is not over yet."


@dataclass(frozen=True)
class Place:
    """Where the page is served: an address of this machine, or a name of it. Raises `ValueError` for a port that there is not."""

    host: str = "127.0.0.1"
    port: int = PORT

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"--port is {self.port}; give one from 0 to 65535")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = _address(self.host)
        return self.host == "localhost" or (address is not None and address.is_loopback)


class Site(socketserver.ThreadingTCPServer):
    """A server in threads of its own, from `with` on. Raises `ValueError` with the remedy where it cannot listen."""

    allow_reuse_address = True
    daemon_threads = True  # who still reads is not waited for
    block_on_close = False
    request_queue_size = MOST_AT_ONCE

    def __init__(self, place: Place) -> None:
        self.place = place
        self.token = "" if place.is_loopback else secrets.token_urlsafe(16)
        self.states: Mapping[str, bytes] = {}
        self.page, self.policy = _page()
        self._slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        try:
            super().__init__((place.host, place.port), _Request)
        except OSError as error:
            raise ValueError(_why_not(place, error)) from None
        self.port = int(self.server_address[1])
        self.cookie = f"thinwire-{self.port}"

    def show(self, states: Mapping[str, bytes]) -> None:
        """What /state gives from now on, by span: JSON."""
        self.states = states

    @property
    def address(self) -> str:
        """To open in a browser; with the token, if one is asked for."""
        address = _address(self.place.host)
        host = socket.gethostname() if address is not None and address.is_unspecified else self.place.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{f'?token={self.token}' if self.token else ''}"

    def is_mine(self, host: str) -> bool:
        """Whether a request's Host is this machine: an address, localhost, or a name that was given or is its own. Ports are not compared:
        a tunnel may have another one."""
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        named = {"localhost", self.place.host.lower()} | (set() if self.place.is_loopback else {socket.gethostname().lower()})
        address = _address(name)
        if self.place.is_loopback:
            return name in named or (address is not None and address.is_loopback)
        return name in named or address is not None

    def is_known(self, token: str) -> bool:
        """In a time that does not tell how much of it is right."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who goes away in the middle is no news; nothing is printed."""

    def __enter__(self) -> "Site":
        threading.Thread(target=self.serve_forever, args=(ENDS_S,), name="thinwire-page", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()
        self.server_close()


class _Request(BaseHTTPRequestHandler):
    """One request; none is logged: its address may hold the token."""

    server: Site
    server_version, sys_version = "thinwire", ""
    timeout = PATIENCE_S

    def do_GET(self) -> None:
        """Either the page, or what it shows."""
        site = self.server
        try:
            asked = urlsplit(self.path)
            fields = parse_qs(asked.query, max_num_fields=MOST_FIELDS)
        except ValueError:
            self._say(400, NOT_THERE)
            return
        if not site.is_mine(self.headers.get("Host", "")):
            self._say(403, WRONG_NAME)
        elif site.token and not site.is_known(fields.get("token", [""])[0] or self._cookie()):
            self._say(403, NO_TOKEN)
        elif site.token and "token" in fields:
            kept = f"{site.cookie}={site.token}; HttpOnly; SameSite=Strict; Path=/"
            self._answer(303, b"", "text/plain", {"Location": "./", "Set-Cookie": kept})
        elif asked.path == "/":
            self._answer(200, site.page, "text/html; charset=utf-8", {"Content-Security-Policy": site.policy, "X-Frame-Options": "DENY"})
        elif asked.path == "/state":
            state = site.states.get(fields.get("span", ["recent"])[0])
            if state is None:
                self._say(503 if not site.states else 404, NOT_YET if not site.states else NOT_THERE)
            else:
                self._answer(200, state, "application/json")
        else:
            self._say(404, NOT_THERE)

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request, or another one than reading."""
        self._say(405 if code == 501 else code, ONLY_READ if code == 501 else f"{message or 'This is no request'}.")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _cookie(self) -> str:
        for pair in self.headers.get("Cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.server.cookie:
                return value
        return ""

    def _say(self, code: int, sentence: str) -> None:
        self._answer(code, f"{sentence}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, code: int, body: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **ALWAYS, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if getattr(self, "command", "GET") != "HEAD":
            self.wfile.write(body)


ALWAYS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _page() -> tuple[bytes, str]:
    """The page, and a policy under which nothing but its own script and style does anything."""
    text = files(__package__ or "").joinpath("page.html").read_text(encoding="utf-8")
    allowed = [
        "default-src 'none'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        parts = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
        allowed.append(" ".join([directive, *(f"'sha256-{digest}'" for digest in hashes)]))
    return text.encode(), "; ".join(allowed)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _why_not(place: Place, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {place.port} of {place.host} is taken; give another --port, or --port 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"port {place.port} of {place.host} is for root only; give a --port from 1024 on"
    return f"the page cannot be served at {place.host}: {error.strerror or error}; give an address of this machine as --host"
