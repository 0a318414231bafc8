"""What a leader proposes: whose payloads count, who stays, who joins. Payloads and holdings are members as bits of the view."""

from collections.abc import Mapping

from thinwire.comms.swarm.decision import LEFT, STAYS, Value
from thinwire.comms.swarm.observers import Observers
from thinwire.comms.swarm.payloads import Desk
from thinwire.comms.swarm.seat import Seat
from thinwire.comms.swarm.view import Key


def complete(seat: Seat, announced: int, haves: Mapping[Key, int]) -> int:
    """What counts if everybody who is waited for has a payload and holds those of all; else 0."""
    presence = seat.presence
    if presence.waited_bits & ~announced:
        return 0
    need, common = announced & presence.present_bits, announced
    for at, key in enumerate(seat.view.members):
        if not presence.waited_bits >> at & 1 and key != seat.me:
            continue
        held = haves.get(key, 0)
        if need & ~held:
            return 0
        common &= held
    return need | common


def enough(seat: Seat, announced: int, haves: Mapping[Key, int], *, anybody: bool) -> int:
    """What counts after the deadline: payloads that a quorum of those who are there holds, or with `anybody` any of them."""
    found = 0
    for at in range(len(seat.view.members)):
        if announced >> at & 1:
            holders = {key for key in seat.presence.present if haves.get(key, 0) >> at & 1}
            if seat.view.quorum(holders) or (anybody and holders):
                found |= 1 << at
    return found


def propose(seat: Seat, desk: Desk, counted: int, observers: Observers) -> Value:
    """The value in which these payloads count, and everybody who is not there goes."""
    members = list(zip(seat.view.members, seat.view.nonces, strict=True))
    fates = [seat.fate(key, nonce) for key, nonce in members]
    if all(fates):  # everybody leaves: somebody has to be there to the last
        fates = [STAYS if fate == LEFT and seat.reachable(key) else fate for fate, (key, _) in zip(fates, members, strict=True)]
    stay = [key for fate, (key, _) in zip(fates, members, strict=True) if not fate]
    payloads = [desk.announced[key] for at, (key, _) in enumerate(members) if counted >> at & 1]
    return Value(
        bytes(2 * fate + (counted >> at & 1) for at, fate in enumerate(fates)),
        b"".join(payload.digest for payload in payloads),
        tuple(payload.nbytes for payload in payloads),
        observers.caught_up(seat.slot, stay),
    )
