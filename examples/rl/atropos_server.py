"""Atropos over HTTP, so that environments written for it post to us unchanged.

    POST /register-env       -> {status: "success", env_id, ...}, or {status: "wait for trainer to start"} before the first GET /batch
    POST /scored_data        -> {status: "received"}, or {status: "buffered", buffer_size} for a group that is not of its environment's size
    POST /scored_data_list   -> {status: "received", groups_processed}
    GET  /status-env         -> how full the queue is, from the environment's point of view        (env_id in a JSON body or the query)
    POST /disconnect-env

    POST /register           -> {uuid}                             the trainer
    GET  /batch              -> {batch: [group, ...] | null}       exactly batch_size sequences
    GET  /info, /wandb_info, /status, /latest_example, /reset_data

Bodies are bounded, by their announced length before a byte of them is read and by their size when unpacked; a request must be through
within `request_s`; and who listens where others reach it needs a bearer token.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import logging
import socket
import threading
import zlib
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from examples.rl.atropos import Atropos, Refused

log = logging.getLogger("thinwire")


class AtroposServer(ThreadingHTTPServer):
    """Serves `atropos` on `host`, `port` (0: any) until `close`. Raises `ValueError` for an address that others reach without a `token`."""

    daemon_threads = True

    def __init__(self, atropos: Atropos, host: str = "127.0.0.1", port: int = 0, *, token: str = "") -> None:
        if not _is_loopback(host) and len(token) < 16:
            raise ValueError(f"{host} may be reached from other machines: give a token of at least 16 characters, or listen on 127.0.0.1")
        self.atropos, self._token = atropos, token.encode()
        self._places = threading.BoundedSemaphore(atropos.limits.requests)
        super().__init__((host, port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="atropos", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        """Stop listening; requests under way end on their own."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def __enter__(self) -> AtroposServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def lets_in(self, authorization: str | None) -> bool:
        """Whether a request carries the token."""
        return not self._token or hmac.compare_digest((authorization or "").encode(), b"Bearer " + self._token)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """At most `requests` at once; further ones are closed: their clients try again."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            self.atropos.count("crowded")
            return
        deadline = threading.Timer(self.atropos.limits.request_s, _hang_up, [request])
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in mid-sentence is nobody's error."""
        self.atropos.count("broken off")


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request: nothing of a refused body is ever read as the next request."""

    server: AtroposServer
    server_version, sys_version = "thinwire", ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        atropos = self.server.atropos
        self._answer(
            {
                "/": lambda: {"message": "AtroposLib API"},
                "/batch": atropos.get_batch,
                "/info": atropos.info,
                "/wandb_info": atropos.wandb_info,
                "/status": atropos.status,
                "/status-env": lambda: atropos.status_env(self._body() or self._asked()),
                "/latest_example": atropos.latest_example,
                "/reset_data": atropos.reset_data,
            }
        )

    def do_POST(self) -> None:
        atropos = self.server.atropos
        takes: dict[str, Callable[[bytes], Any]] = {
            "/register": atropos.register,
            "/register-env": atropos.register_env,
            "/disconnect-env": atropos.disconnect_env,
            "/scored_data": atropos.scored_data,
            "/scored_data_list": atropos.scored_data_list,
        }
        self._answer({path: lambda act=act: act(self._body()) for path, act in takes.items()})  # type: ignore[misc]

    def _answer(self, paths: Mapping[str, Callable[[], Any]]) -> None:
        self.close_connection = True
        try:
            if not self.server.lets_in(self.headers["Authorization"]):
                raise Refused(401, "a bearer token is needed")
            act = paths.get(urlsplit(self.path).path)
            if act is None:
                raise Refused(404, "no such path")
            answer = act()
        except Refused as refused:
            self.server.atropos.count(f"status {refused.status}")
            self._send(refused.status, {"detail": str(refused)[:500]})
            return
        except Exception:  # ours, not the client's
            log.exception("a request to %s failed", urlsplit(self.path).path[:64])
            self.server.atropos.count("status 500")
            self._send(500, {"detail": "this server has failed"})
            return
        self._send(200, answer)

    def _body(self) -> bytes:
        """The whole body; its length is compared with the limit before a byte of it is read, and again when it is unpacked."""
        at_most = self.server.atropos.limits.body_nbytes
        if self.headers["Transfer-Encoding"] is not None:
            raise Refused(411, "give a Content-Length")
        told = self.headers["Content-Length"] or "0"
        if not (told.isascii() and told.isdigit() and len(told) < 19):
            raise Refused(400, "a Content-Length that is no number")
        if int(told) > at_most:
            raise Refused(413, f"a body of {told} bytes, at most {at_most}")
        body = self.rfile.read(int(told))
        if len(body) != int(told):
            raise Refused(400, "the body ended early")
        return _unpacked(body, at_most) if "gzip" in (self.headers["Content-Encoding"] or "").lower() else body

    def _asked(self) -> bytes:
        numbers = parse_qs(urlsplit(self.path).query, max_num_fields=8).get("env_id", [])
        if len(numbers) != 1 or not numbers[0].isascii() or not numbers[0].isdigit():
            raise Refused(422, "which env_id?")
        return b'{"env_id": %s}' % numbers[0][:18].encode()

    def _send(self, status: int, answer: Any) -> None:
        text = isinstance(answer, str)
        body = answer.encode() if text else msgspec.json.encode(answer)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: `Atropos.counts` says what happened."""


def _hang_up(request: socket.socket) -> None:
    """Whoever still waits for words of this client hears that there are no more."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RD)


def _unpacked(body: bytes, at_most: int) -> bytes:
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, at_most + 1)
    except zlib.error:
        raise Refused(400, "no gzip") from None
    if len(plain) > at_most:
        raise Refused(413, f"a body of more than {at_most} bytes when unpacked")
    if not unzip.eof:
        raise Refused(400, "the gzip ended early")
    return plain


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
