"""The live page in a real browser: it shows what happens in a swarm that really trains, and no peer has a say in how."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import Browser, Page, needs_chromium
from tests.comms.swarm.web.training import Shown, Trainer
from thinwire.comms.swarm.memory import Network
from thinwire.comms.swarm.status import Status
from thinwire.comms.swarm.web.chronicle import Chronicle
from thinwire.comms.swarm.web.server import Place, Site
from thinwire.output import encoded

pytestmark = needs_chromium
A, B, C = (bytes([i]) * 32 for i in (0xA1, 0xB2, 0xC3))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(Place(port=0)) as made:
        yield made


def told(site: Site, *looks: dict[bytes, Any], run: str = "my-run", announced: int = 0) -> None:
    """Put a made-up story on the page: a look a second, the last of them now."""
    began = time.time() - len(looks)
    chronicle = Chronicle(run, now=began, period_s=1.0)
    for i, answers in enumerate(looks):
        chronicle.look(began + i, answers, range(announced) if announced else answers)  # type: ignore[arg-type]
    site.show({span: encoded(chronicle.told(span)).encode() for span in ("recent", "whole")})  # type: ignore[arg-type]


def says(**about: Any) -> Status:
    given: dict[str, Any] = {"round": 9, "applied": 9, "epoch": "abcd", "members": 3, "uptime_s": 100, "member_s": 90.0, "loss": 2.0}
    return Status(**(given | about))


def state(short: str) -> str:
    """An expression: the state that the timeline shows for a peer."""
    return f"document.querySelector('.peer[data-key^=\"{short}\"] .state').dataset.state"


def clean(page: Page, site: Site) -> None:
    """Nothing was blocked or thrown, and nobody else was asked for anything."""
    assert page.complaints() == []
    assert {address.partition("?")[0] for address in page.requests()} <= {site.address, f"{site.address}state"}


def test_members_train_die_heal_and_leave_and_the_page_says_so(browser: Browser) -> None:
    net = Network()
    members = [Trainer(net, founds=True)]
    with Shown(net) as site:
        page = browser.open(site.address)
        members += [Trainer(net), Trainer(net)]
        try:
            for member in members:
                page.until(f"['training', 'syncing'].includes({state(member.short)})")
            page.until("document.querySelector('#loss .line.one') && document.querySelector('#bytes .line.two')")
            page.until(
                "[...document.querySelectorAll('#ledger tr')].every(row => / = |= [0-9a-f]{8} @/.test(row.children[11].textContent))"
            )
            rounds = "Number(document.querySelector('#ledger td:nth-child(3)').textContent.replace(',', ''))"
            page.until(f"{rounds} > {page.get(rounds)}")

            first, second, third = members
            began = time.monotonic()
            third.kill()
            page.until(f"{state(third.short)} === 'dead'")
            assert time.monotonic() - began < 10
            page.until(f"document.querySelector('[data-key^=\"{third.short}\"] .tick.died')")
            assert page.get(state(first.short)) in ("training", "syncing")

            members[2] = third = Trainer(net, identity=third.identity)
            page.until(f"['training', 'syncing'].includes({state(third.short)})")
            tracks = {row["key"][:8]: row["track"] for row in json.loads(site.states["recent"])["rows"]}
            assert re.search(r"[ts].*h+[ts]*$", tracks[third.short])  # healing since its process began, also where it was still held dead
            page.until(f"document.querySelector('[data-key^=\"{third.short}\"] path.h').getAttribute('d')")
            page.until(f"document.querySelector('[data-key^=\"{third.short}\"] .tick.came')")

            second.leave()
            page.until(f"{state(second.short)} === 'left'")
            for member in (first, third):
                member.kill()
            page.until("document.querySelector('#warn').innerText.startsWith('Nobody answers since')")
            assert page.get("document.title") == "my-run · thinwire"
            clean(page, site)
        finally:
            for member in members:
                member.kill()


def test_what_peers_say_is_shown_as_text_and_bounded(browser: Browser, site: Site) -> None:
    evil = "<img src=x onerror=alert(1)>"
    lies = says(reasons={evil: 1 << 62, "</script><script>alert(2)</script>": 1}, skipped={"'\"><svg onload=alert(3)>": 2}, loss=1e308,
        sent=1 << 62, received=1 << 62, payload=1 << 62, round=1 << 62, applied=1 << 62, counted=1 << 62, rejected=1 << 62,
        uptime_s=1 << 31, entering_s=2.0**31, member_s=2.0**31, hashes={1 << 62: "f" * 16})  # fmt: skip
    told(site, {A: says(), B: lies, C: "no status: " + evil * 100}, run=evil)
    page = browser.open(site.address, width=1000)
    page.until("document.querySelectorAll('#ledger tr').length === 3")
    assert evil in page.get("document.querySelector('#ledger').textContent")
    assert page.get("document.querySelector('h1').textContent") == evil
    assert page.get("document.querySelectorAll('img, script:not(:last-of-type), [onload], [onerror]').length") == 0
    assert page.get("Math.max(...[...document.querySelectorAll('#ledger td')].map(cell => cell.textContent.length))") <= 220
    assert page.get("document.documentElement.scrollWidth") == 1000
    assert "NaN" not in page.get("document.body.innerText")
    clean(page, site)


def test_of_ten_thousand_peers_some_are_shown_and_the_number_is_said(browser: Browser, site: Site) -> None:
    told(site, {i.to_bytes(32, "little"): says(state="syncing") for i in range(1, 10_001)}, announced=10_000)
    page = browser.open(site.address)
    page.until("document.querySelectorAll('.peer').length === 256")
    assert page.get("document.querySelector('#more').innerText") == "10,000 peers are announced; 256 are shown."
    clean(page, site)


def test_colour_is_never_the_only_sign_and_all_of_it_has_a_name(browser: Browser, site: Site) -> None:
    words = ("training", "syncing", "healing", "joining")
    told(site, {bytes([i]) * 32: says(state=word) for i, word in enumerate(words)} | {A: "unreachable"})
    page = browser.open(site.address)
    page.until("document.querySelectorAll('.peer').length === 5")
    shown = page.get("[...document.querySelectorAll('.peer .state')].map(node => [node.textContent, node.dataset.sign])")
    assert [word for word, _ in shown] == [*words, "no answer"]
    assert len({sign for _, sign in shown}) == 5
    shapes = page.get("[...document.querySelectorAll('.peer path')].map(path => path.getAttribute('d')).filter(Boolean)")
    assert len(set(shapes)) == 4  # joining is healing for the first time
    names = page.get("[...document.querySelectorAll('.track')].map(node => node.getAttribute('aria-label'))")
    assert all(re.fullmatch(r"[0-9a-f]{8} is [a-z ]+ since \d\d:\d\d:\d\d", name) for name in names)
    seen = [node for node in page.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named = {"image", "region", "radio", "group"}
    assert {node["role"]["value"] for node in seen} >= named
    unnamed = [node["role"]["value"] for node in seen if node["role"]["value"] in named and not node.get("name", {}).get("value")]
    assert unnamed == []


def test_it_is_used_with_the_keyboard_and_looks_disturb_nobody(browser: Browser, site: Site) -> None:
    told(site, {A: says(skipped={"late": 3})})
    page = browser.open(site.address)
    page.until("document.querySelector('#ledger summary')")
    assert page.get("document.querySelector('#warn').hidden")
    page.press("Tab")
    assert page.get("document.activeElement.value") == "recent"
    page.press("ArrowRight")
    page.until("performance.getEntriesByType('resource').some(entry => entry.name.endsWith('span=whole'))")
    page.get("document.querySelector('#ledger summary').focus()")
    page.press("Enter")
    assert page.get("document.querySelector('#ledger details').open")
    told(site, {A: says(skipped={"late": 4}), B: says()})
    page.until("document.querySelectorAll('#ledger tr').length === 2 && document.querySelector('#ledger summary').textContent === '4'")
    assert page.get("document.querySelector('#ledger details').open")
    assert page.get("document.activeElement.tagName") == "SUMMARY"
    assert page.get("document.querySelector('#ledger details ul').innerText") == "4 \u00d7 late"


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_wide_and_narrow_windows_light_and_dark(browser: Browser, site: Site, width: int, dark: bool) -> None:
    looks = [{A: says(loss=2.0 + i / 7, sent=i * 10**i), B: says(applied=7), C: says(skipped={"late": 3})} for i in range(12)]
    told(site, *looks, run="a-run-with-a-name-that-is-far-too-long-for-a-telephone-held-upright")
    page = browser.open(site.address, width=width, dark=dark)
    page.until("document.querySelector('#bytes .line.one')")
    assert page.get("document.documentElement.scrollWidth") == width
    ink, paper = (page.get(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)") for name in ("color", "backgroundColor"))
    assert contrast(ink, paper) > 7
    assert (sum(paper) < sum(ink)) == dark
    for word in ("soft", "training", "healing", "dead"):  # text in this colour, on a card
        found = page.get(f"getComputedStyle(document.documentElement).getPropertyValue('--{word}')")
        card = page.get("getComputedStyle(document.documentElement).getPropertyValue('--card')")
        assert contrast(rgb(found), rgb(card)) >= 4.5, word
    overlaps = """[...document.querySelectorAll('.chart')].flatMap(chart => {
        const boxes = [...chart.querySelectorAll('text')].map(node => node.getBoundingClientRect());
        const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
        return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => !apart(a, b)));
    }).length"""
    assert page.get(overlaps) == 0


def test_several_tabs_see_the_same_and_a_page_whose_server_ends_says_so(browser: Browser) -> None:
    with Site(Place(port=0)) as site:
        told(site, {A: says(), B: says(epoch="other", applied=4)})
        pages = [browser.open(site.address) for _ in range(3)]
        for page in pages:
            page.to_front()
            page.until("document.querySelectorAll('.peer').length === 2")
            page.until("document.querySelector('#warn').innerText.includes('The swarm is split: 2 epochs')")
    pages[-1].until("document.querySelector('#warn').innerText.includes('does not answer any more: this is how it was at')")
    assert pages[-1].get("document.querySelectorAll('.peer').length") == 2


def test_with_a_token_the_address_bar_forgets_it(browser: Browser) -> None:
    with Site(Place(host="0.0.0.0", port=0)) as site:
        told(site, {A: says()})
        local = f"http://127.0.0.1:{site.port}/"
        page = browser.open(local)
        page.until("document.body.innerText.startsWith('This page asks for a token')")
        page = browser.open(f"{local}?token={site.token}")
        page.until("document.querySelectorAll('.peer').length === 1")
        assert page.get("location.href") == local
        assert page.get("document.cookie") == ""


def rgb(text: str) -> list[int]:
    """Of #rgb or #rrggbb."""
    digits = text.strip().lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    return [int(digits[i : i + 2], 16) for i in (0, 2, 4)]


def contrast(one: list[int], two: list[int]) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(colour: list[int]) -> float:
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(two)])
    return (light + 0.05) / (dark + 0.05)
