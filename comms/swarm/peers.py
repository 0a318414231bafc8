"""Who is there: links, signs of life, and which incarnation speaks. A table with a bound, whatever is announced."""

from dataclasses import dataclass

from thinwire.comms.swarm.view import Key, Nonce, Slot

MAX_PEERS = 4096
NOBODY: Nonce = b""  # no nonce: the incarnation that spoke last has died, and the one that has come instead has not spoken


@dataclass(slots=True)
class Peer:
    """What is known of another process."""

    heard: float  # at
    beat: float | None = None  # at
    nonce: Nonce | None = None  # of the incarnation that spoke last
    process: bytes | None = None  # to which the link goes and in which `nonce` has spoken, where both are known
    link: bool = True
    silent: bool = False
    left: Nonce | None = None  # the incarnation that has said that it leaves
    elsewhere: bool = False  # in another lineage
    slot: Slot | None = None  # that it decides next
    unfit: Slot | None = None  # the slot that it says it cannot lead, for want of a quorum
    bound: bool = False  # its incarnation has spoken since the link stands

    @property
    def up(self) -> bool:
        """Whether it can be talked to."""
        return self.link and not self.silent


class Peers:
    """All others that this member has a link to or knows of."""

    def __init__(self) -> None:
        self._peers: dict[Key, Peer] = {}
        self._ended: dict[Key, None] = {}  # those without a link, oldest first: they make room

    def get(self, key: Key) -> Peer | None:
        """What is known of `key`."""
        return self._peers.get(key)

    def find(self, key: Key, now: float) -> Peer | None:
        """The same, begun if there is room; None: the table is full of peers that are up."""
        peer = self._peers.get(key)
        if peer is None:
            if len(self._peers) >= MAX_PEERS:
                if not self._ended:
                    return None
                oldest = next(iter(self._ended))
                del self._ended[oldest], self._peers[oldest]
            peer = self._peers[key] = Peer(now)
        return peer

    def begin(self, peer: Peer, key: Key, now: float, process: bytes | None) -> None:
        """A link stands. What links to another process than before has lost what it was, before it has said a word."""
        self._ended.pop(key, None)
        if process is not None and peer.process not in (None, process) and peer.nonce is not None:
            peer.left, peer.nonce = peer.nonce, NOBODY  # what it still had under way is not believed any more
            peer.bound, peer.slot, peer.unfit, peer.elsewhere = False, None, None, False
        peer.process = process
        peer.link, peer.silent, peer.heard, peer.beat = True, False, now, None

    def end(self, key: Key) -> bool:
        """A link has ended; whether there was one."""
        peer = self._peers.get(key)
        if peer is None or not peer.link:
            return False
        peer.link = peer.bound = False
        self._ended[key] = None
        return True

    def up(self, key: Key) -> bool:
        """Whether a peer can be talked to."""
        peer = self._peers.get(key)
        return peer is not None and peer.up

    def linked(self, key: Key) -> bool:
        """Whether a peer has a link, silent or not."""
        peer = self._peers.get(key)
        return peer is not None and peer.link

    def absent(self) -> dict[Key, str]:
        """Who has spoken and cannot be talked to: "left", "silent" or "down"; those whose links ended come last, the latest at the end."""
        still = [(key, peer) for key, peer in self._peers.items() if peer.link and (peer.silent or peer.left == peer.nonce)]
        known = [(key, peer) for key, peer in [*still, *((key, self._peers[key]) for key in self._ended)] if peer.nonce is not None]
        return {key: "left" if peer.left == peer.nonce else "silent" if peer.link else "down" for key, peer in known}

    def connected(self) -> list[Key]:
        """All that have a link, in the order of their keys."""
        return sorted(key for key, peer in self._peers.items() if peer.link)

    def further(self, slot: Slot) -> list[Key]:
        """Those of this lineage who are up and have done this slot, in the order of their keys."""
        return sorted(k for k, p in self._peers.items() if p.up and not p.elsewhere and p.slot is not None and p.slot > slot)

    def excuse(self, seconds: float) -> None:
        """This process itself has stood still for so long: nobody else is to blame."""
        for peer in self._peers.values():
            peer.heard += seconds
            peer.beat = None

    def items(self) -> list[tuple[Key, Peer]]:
        """Everybody."""
        return list(self._peers.items())
