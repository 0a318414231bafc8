"""drand as a beacon: a public network that signs a round every few seconds. Fetched by HTTP, verified by a library, never `latest`."""

import http.client
import importlib
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from thinwire.comms.verify.beacon import KEPT, Beacon, BeaconError, NotYetError

ANSWER_NBYTES = 4096
SKEW_S = 6.0  # what clocks may differ


@dataclass(frozen=True)
class Chain:
    """A drand network whose rounds are signed alone, on G1 (scheme bls-unchained-g1-rfc9380)."""

    hash: str
    public_key: str
    genesis_s: int  # since 1970, of round 1
    period_s: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.hash) or not re.fullmatch(r"[0-9a-f]{192}", self.public_key) or self.period_s < 1:
            raise ValueError(f"chain {self.hash[:16]}...: give its hash and public key in hex, 64 and 192 digits, and a period in seconds")


QUICKNET = Chain(
    hash="52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971",
    public_key="83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb"
    "5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a",
    genesis_s=1692803367,
    period_s=3,
)
RELAYS = ("https://api.drand.sh", "https://api2.drand.sh", "https://drand.cloudflare.com")


class DrandBeacon(Beacon):
    """Rounds of a drand network. Needs the package `drand-verify` (Python 3.10 to 3.12).

    Raises `BeaconError` without it: nothing is taken unverified.
    """

    def __init__(
        self,
        *,
        chain: Chain = QUICKNET,
        relays: Sequence[str] = RELAYS,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not relays or not all(relay.startswith(("https://", "http://")) for relay in relays):
            raise ValueError(f"relays are {list(relays)}; give at least one https:// address")
        self._library = _library()
        self._chain, self._relays, self._timeout_s, self._clock = chain, tuple(relays), timeout_s, clock
        self._known = dict[int, bytes]()

    def round_at(self, when_s: float) -> int:
        """The last round that is published at a time (seconds since 1970); 0 before the first."""
        return max(0, int((when_s - self._chain.genesis_s) // self._chain.period_s) + 1)

    def first_unknown(self) -> int:
        """With room for clocks that differ by `SKEW_S`."""
        return self.round_at(self._clock() + SKEW_S) + 1

    def randomness(self, round_: int) -> bytes:
        if round_ < 1:
            raise BeaconError(f"round {round_} of drand; the first one is 1")
        if round_ > self.round_at(self._clock()):
            raise NotYetError(f"round {round_} is not published yet")
        if round_ not in self._known:
            self._known[round_] = self._fetched(round_)
            while len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        return self._known[round_]

    def _fetched(self, round_: int) -> bytes:
        why = []
        for relay in self._relays:
            try:
                return self._verified(round_, _get(f"{relay}/{self._chain.hash}/public/{round_}", self._timeout_s))
            except (BeaconError, OSError, http.client.HTTPException) as error:
                why.append(f"{relay}: {error}")
        raise BeaconError(f"round {round_} of drand cannot be had: {'; '.join(why)}")

    def _verified(self, round_: int, answer: bytes) -> bytes:
        try:
            told = json.loads(answer)
            named, signature = told["round"], told["signature"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise BeaconError("its answer is no round of drand") from None
        if named != round_ or not isinstance(signature, str) or not re.fullmatch(r"[0-9a-f]{96}", signature):
            raise BeaconError(f"its answer is not the signature of round {round_}")
        try:
            return bytes.fromhex(self._library.verify_quicknet(round_, signature, self._chain.public_key))
        except ValueError:
            raise BeaconError(f"its signature of round {round_} is wrong") from None


def _get(address: str, timeout_s: float) -> bytes:
    """At most `ANSWER_NBYTES` of what the address answers; raises `OSError` or `BeaconError`."""
    request = urllib.request.Request(address, headers={"User-Agent": "thinwire"})
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        answer: bytes = response.read(ANSWER_NBYTES + 1)
    if len(answer) > ANSWER_NBYTES:
        raise BeaconError(f"its answer is larger than {ANSWER_NBYTES} bytes")
    return answer


def _library() -> ModuleType:
    try:
        return importlib.import_module("drand_verify")
    except ImportError:
        raise BeaconError(
            "nothing here verifies the signatures of drand: pip install 'thinwire[drand]', or use a HashChainBeacon"
        ) from None
