"""A real Chromium without a screen, driven by its own DevTools protocol over two pipes: no package, no port, no waiting by the clock.

with Browser(folder) as browser:
    page = browser.open(address)
    page.until("document.title === 'my-run'")
"""

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(FOUND is None, reason="no chromium here: apt install chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip
PATIENCE_S = 60.0  # with one command


class Browser:
    """One process, with a profile of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        assert FOUND is not None
        heard, self._commands = os.pipe()
        self._answers, said = os.pipe()

        def pipes() -> None:  # where Chromium looks for them; by way of numbers that neither is
            os.dup2(heard, 1003)
            os.dup2(said, 1004)
            os.dup2(1003, 3)
            os.dup2(1004, 4)

        command = [FOUND, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=pipes, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(heard)
        os.close(said)
        self._ids = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def open(self, address: str, *, dark: bool = False, width: int = 1280, height: int = 900) -> "Page":
        """A page in a tab of its own, with what it says on its console and every request recorded from the start."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        page.call("Page.navigate", url=address)
        return page

    def call(self, method: str, session: str | None = None, patience_s: float = PATIENCE_S, **params: Any) -> dict[str, Any]:
        """The result of one command. Raises `RuntimeError` with what Chromium says is wrong, `queue.Empty` when it says nothing."""
        number = next(self._ids)
        answer = self._waiting[number] = queue.SimpleQueue()
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        told = answer.get(timeout=patience_s)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        result: dict[str, Any] = told["result"]
        return result

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._answers, 1 << 16):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._waiting.pop(message["id"]).put(message)
                else:
                    self.events.append(message)
        os.close(self._answers)
        for answer in list(self._waiting.values()):
            answer.put({"error": "Chromium has ended"})

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._waiting[0] = queue.SimpleQueue()
        os.write(self._commands, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """As of the browser."""
        return self._browser.call(method, self._session, **params)

    def get(self, expression: str, *, patience_s: float = PATIENCE_S) -> Any:
        """What an expression is there; of a promise what comes of it. Raises `RuntimeError` when it throws."""
        told = self.call("Runtime.evaluate", patience_s=patience_s, expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def until(self, expression: str, *, timeout_s: float = 30.0) -> Any:
        """Wait until an expression is true: looked at whenever the document changes. Raises `AssertionError` with what is there instead."""
        found = self.get(f"""new Promise(resolve => {{
            const look = () => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }};
            const end = value => {{ observer.disconnect(); clearTimeout(late); resolve(value); }};
            const observer = new MutationObserver(() => {{ const value = look(); if (value) end(value); }});
            const late = setTimeout(() => end(false), {timeout_s * 1000});
            observer.observe(document, {{subtree: true, childList: true, characterData: true, attributes: true}});
            const value = look(); if (value) end(value);
        }})""")
        if not found:
            raise AssertionError(f"not within {timeout_s} s: {expression}; the page says: {self.get('document.body.innerText')}")
        return found

    def to_front(self) -> None:
        """Be the tab that is seen: what is hidden is drawn when it is looked at."""
        self.call("Page.bringToFront")

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def press(self, key: str) -> None:
        """A key, as a hand would."""
        codes = {"Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Enter": 13}
        about: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": "\r"} if key == "Enter" else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]))

    def _events(self, *methods: str) -> list[dict[str, Any]]:
        return [
            e["params"] | {"method": e["method"]}
            for e in self._browser.events
            if e.get("sessionId") == self._session and e["method"] in methods
        ]

    def complaints(self) -> list[str]:
        """What went wrong: exceptions, errors on the console, what its policy has blocked."""
        return [json.dumps(event) for event in self._events("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")]

    def requests(self) -> list[str]:
        """Every address that it has asked for."""
        return [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]
