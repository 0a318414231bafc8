"""`thinwire status --web` over real processes: members that talk by libp2p, one killed with -9, one browser."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, needs_chromium
from thinwire.comms.swarm.identity import Identity

pytestmark = [needs_chromium, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 200.0  # with each step: eight processes start on two cores
SCRIPT = """
import time, torch, thinwire
from thinwire import SwarmGroup
torch.set_num_threads(1)
model = torch.nn.Linear(16, 16)
group = SwarmGroup.from_env()
opt = thinwire.DiLoCo(torch.optim.SGD(model.parameters(), lr=0.05), group=group, sync_every=10)
while True:
    x = torch.randn(8, 16)
    loss = ((model(x) - x) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    group.tell(loss=loss.item())
    time.sleep(0.03)
"""


def thinwire(*words: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-m", "thinwire.cli", *words], text=True, **options)


def ended(process: "subprocess.Popen[str]", number: int) -> int:
    if process.poll() is None:
        process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_the_command_shows_a_kill_and_a_return(tmp_path: Path, ends: ExitStack) -> None:
    def started(*words: str, **options: Any) -> "subprocess.Popen[str]":
        process = thinwire(*words, **options)
        ends.callback(ended, process, signal.SIGKILL)
        return process

    def said(process: "subprocess.Popen[str]") -> dict[str, Any]:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert isinstance(told, dict)
        return told

    def member(key: Path) -> "subprocess.Popen[str]":
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return started("join", invite, "--identity", str(key), "--", sys.executable, "-c", SCRIPT, **quiet)

    invite = said(started("serve", "my-run", "--folder", str(tmp_path), "--json", stdout=subprocess.PIPE))["invite"]
    keys, names = [tmp_path / f"{i}.key" for i in range(3)], []
    for key in keys:
        identity = Identity.generate()
        identity.save(key)
        names.append(identity.key.hex()[:8])
    members = [member(key) for key in keys]
    page_of = started("status", invite, "--web", "--port", "0", "--json", stdout=subprocess.PIPE)
    address = said(page_of)["address"]
    page = ends.enter_context(Browser(tmp_path / "profile")).open(address)

    def until(name: str, *states: str) -> float:
        began = time.monotonic()
        page.until(
            f"{json.dumps(states)}.includes(document.querySelector('.peer[data-key^=\"{name}\"] .state').dataset.state)",
            timeout_s=PATIENCE_S,
        )
        return time.monotonic() - began

    for name in names:
        until(name, "training", "syncing")
    page.until("document.querySelector('#loss .line.one')")
    members[2].kill()  # with -9; its script goes with it
    took_s = until(names[2], "dead")
    assert took_s < 15, f"shown dead after {took_s:.1f} s; members notice within 10"
    members[2] = member(keys[2])
    until(names[2], "healing", "training", "syncing")
    until(names[2], "training", "syncing")
    page.until(f"document.querySelector('[data-key^=\"{names[2]}\"] path.h').getAttribute('d')")
    page.until(f"document.querySelector('[data-key^=\"{names[2]}\"] .tick.died')")
    assert page.complaints() == []
    assert {each.partition("?")[0] for each in page.requests()} == {address, f"{address}state"}

    began = time.monotonic()
    assert ended(page_of, signal.SIGINT) == 130
    assert time.monotonic() - began < 5
    page.until("document.querySelector('#warn').innerText.includes('does not answer any more')", timeout_s=30)
    assert members[0].poll() is None
