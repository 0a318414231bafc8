"""Who may take part: anybody ("lan", "open"), or known keys and whoever proves to know the run's secret ("federation")."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import get_args

from thinwire.comms.swarm.envelope import Trust
from thinwire.comms.swarm.invite import is_pass, pass_for
from thinwire.comms.swarm.p2pd import is_public
from thinwire.comms.swarm.view import Key


class Access:
    """The rule of one run, as one member applies it; `on_trust(keys)` hears of keys that are trusted from now on.

    Raises `ValueError` for settings that would leave a run open to strangers without a word.
    """

    def __init__(
        self, run_id: str, key: Key, *, trust: Trust | None, allowed: Collection[Key], secret: bytes, addresses: Sequence[str]
    ) -> None:
        self.trust: Trust = trust or ("federation" if allowed or secret else "lan")
        if self.trust not in get_args(Trust):
            raise ValueError(f"trust is {trust!r}; one of {', '.join(get_args(Trust))}")
        if self.trust == "federation" and not allowed and not secret:
            raise ValueError(
                "trust='federation' needs keys that may take part (allowed=[...], see thinwire keygen) or the secret of an invitation"
            )
        public = next(filter(is_public, addresses), None)
        if self.trust == "lan" and public is not None:
            raise ValueError(
                f"{public} is a public address, and trust='lan' lets in everybody who knows it: join with an invitation, give "
                "allowed=[...] keys, or say trust='open'"
            )
        self.secret = secret
        self.allowed = frozenset(allowed) | {key}
        self.on_trust: Callable[[Iterable[Key]], None] = lambda keys: None
        self._run_id, self._key = run_id, key

    @property
    def run(self) -> str:
        """What tells this run from others of its name, as far as they have secrets."""
        return f"{self._run_id} {pass_for(self.secret, self._run_id, bytes(32)).hex()[:16]}" if self.secret else self._run_id

    def proof(self) -> bytes:
        """What this member shows at the door; empty where it knows no secret."""
        return pass_for(self.secret, self._run_id, self._key) if self.secret else b""

    def admits(self, key: Key, proof: bytes) -> bool:
        """Whether a newcomer may come in; who has shown a pass is trusted from now on."""
        if self.trust != "federation" or key in self.allowed:
            return True
        if not is_pass(proof, self.secret, self._run_id, key):
            return False
        self.learn([key])
        return True

    def learn(self, keys: Iterable[Key]) -> None:
        """Trust these: the group has let them in."""
        if self.trust == "federation" and not self.allowed.issuperset(keys):
            self.allowed |= frozenset(keys)
            self.on_trust(self.allowed)
