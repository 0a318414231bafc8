"""Single-decree Paxos for one slot: what this member has promised and accepted, and what it knows of the others.

The leader of ballot b is the member whose turn it is, so that no two members ever propose in the same ballot; ballot 0 needs no promises.
A member votes with its incarnation's memory only: whoever restarts is another member. Nothing here knows of payloads or time.
"""

from thinwire.comms.swarm.decision import Value
from thinwire.comms.swarm.messages import Accepted
from thinwire.comms.swarm.view import Key, View

Vote = tuple[int, bytes]  # ballot, check of the value

STRIDE = 256  # ballots that one message of somebody else may take this member up


class Ballots:
    """One member's part in deciding one slot."""

    def __init__(self, view: View, turn: int, me: Key) -> None:
        self.view, self._turn, self._me = view, turn, me
        self.promised = 0  # the ballot this member is in: it accepts nothing below
        self.accepted: Accepted | None = None
        self.offered: Accepted | None = None  # the proposal of the highest ballot seen
        self.proposed = False  # by this member, in this ballot
        self._promises: dict[Key, Accepted | None] = {}  # to this member, of this ballot
        self._accepts: dict[Key, Vote] = {}  # the latest of each member
        self._voters: dict[Vote, set[Key]] = {}

    def leader(self, ballot: int | None = None) -> Key:
        """Who leads a ballot, by default the one this member is in."""
        return self.view.leader(self._turn + (self.promised if ballot is None else ballot))

    def join(self, ballot: int) -> bool:
        """Take part in a higher ballot, and in none below it any more; whether this was news."""
        if ballot <= self.promised:
            return False
        self.promised = min(ballot, self.promised + STRIDE)
        self.proposed = False
        self._promises = {}
        if self.leader() == self._me:
            self._promises[self._me] = self.accepted
        return True

    def promise(self, member: Key, ballot: int, accepted: Accepted | None) -> None:
        """A member has promised this ballot, which this member leads and is in."""
        if ballot == self.promised and self.leader() == self._me:
            self._promises.setdefault(member, accepted)

    def promises(self, member: Key) -> bool:
        """Whether this member's promise is there."""
        return member in self._promises

    def may_propose(self) -> bool:
        """Whether this member leads and, above ballot 0, a quorum has promised."""
        if self.leader() != self._me or self.proposed:
            return False
        return not self.promised or self.view.quorum(self._promises.keys())

    def forced(self) -> Value | None:
        """What may already be decided below this ballot: of all that promisers have accepted, the value of the highest ballot."""
        accepted = [a for a in self._promises.values() if a is not None]
        return max(accepted, key=lambda a: a.ballot).value if accepted else None

    def offer(self, ballot: int, value: Value) -> None:
        """A proposal, from the leader of its ballot; the first in a ballot stands."""
        if self.offered is None or ballot > self.offered.ballot:
            self.offered = Accepted(ballot, value)

    def acceptable(self) -> Value | None:
        """The proposal that this member may accept and has not."""
        offer = self.offered
        return None if offer is None or offer.ballot != self.promised or offer == self.accepted else offer.value

    def accept(self) -> Vote:
        """Accept what is offered."""
        assert self.offered is not None and self.offered.ballot == self.promised
        self.accepted = self.offered
        vote = self.promised, self.accepted.value.check
        self.count(self._me, vote)
        return vote

    def count(self, member: Key, vote: Vote) -> None:
        """A member has accepted."""
        known = self._accepts.get(member)
        if known is None or vote[0] > known[0]:
            if known is not None:
                self._voters[known].discard(member)
                if not self._voters[known]:
                    del self._voters[known]
            self._accepts[member] = vote
            self._voters.setdefault(vote, set()).add(member)

    def accepts(self, member: Key) -> bool:
        """Whether a member is known to have accepted in this ballot, or in a higher one."""
        return self._accepts.get(member, (-1, b""))[0] >= self.promised

    def decided(self) -> Vote | None:
        """What a quorum has accepted."""
        return next((vote for vote, members in self._voters.items() if self.view.quorum(members)), None)

    def known(self, check: bytes) -> Value | None:
        """The value with this check, if this member has seen it."""
        for found in (self.accepted, self.offered):
            if found is not None and found.value.check == check:
                return found.value
        return None
