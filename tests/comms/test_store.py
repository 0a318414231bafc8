"""The store that decides for a `TorchGroup` stays quick to answer: nothing of ours makes it, or its clients, ask a name server in a round.

Torch looks up the name of an address when a connection is made (the store serves nobody meanwhile) and when a wait runs out, for the
log. A name server that does not answer makes that 5 s or more.
"""

import os
import signal
import time
from typing import Any

import pytest
from torch.distributed import PrefixStore, TCPStore

from tests.comms.laws import begin, payload_of
from tests.worlds import run_ranks
from thinwire.comms import meeting
from thinwire.comms.arbiter import FAIL, Arbiter, Bell, Census
from thinwire.comms.torch_group import TorchGroup


def count_connections(rank: int) -> list[int]:
    """How many connections to the store this member has made: when all have met, after an exchange, and after a member's death."""
    made: list[Any] = []
    clone, form = PrefixStore.clone, meeting.gloo.form
    PrefixStore.clone = lambda store: made.append(store) or clone(store)  # type: ignore
    counts: list[int] = []

    def counted(*args: Any) -> Any:
        counts.append(len(made))
        return form(*args)

    meeting.gloo.form = counted  # type: ignore[assignment]
    group = TorchGroup.from_env(timeout_s=20)
    begin(group, 0, payload_of(rank, 8)).wait()
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    begin(group, 1, payload_of(rank, 8)).wait()
    group.leave()
    return [*counts, len(made)]


def test_nobody_connects_to_the_store_once_members_have_met() -> None:
    assert run_ranks(3, count_connections, killed={2})[:2] == [[2, 2, 2]] * 2


def test_a_vote_and_a_census_run_out_without_a_word_of_torch(capfd: pytest.CaptureFixture[str]) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    arbiter = Arbiter(store, 0, 0, (0, 1))
    assert arbiter.vote(0, 1, time.monotonic() + 0.05) == FAIL + "a member did not confirm that it has the data"
    assert arbiter.census(Bell(0, FAIL), 1, 0.05) == Census((0,), {1: "gave no sign of life"}, {})
    assert capfd.readouterr().err == ""
