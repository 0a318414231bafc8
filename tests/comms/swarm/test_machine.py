"""What the machine does, fact by fact; every order of events is `test_explore`'s."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.comms.swarm.bus import NBYTES, Bus, key_of, nonce_of
from thinwire.comms.swarm import messages as m
from thinwire.comms.swarm.decision import Value, decide
from thinwire.comms.swarm.effects import Push, Send, Want
from thinwire.comms.swarm.lineage import Claim, gives_way
from thinwire.comms.swarm.machine import Machine
from thinwire.comms.swarm.payloads import AHEAD
from thinwire.comms.swarm.peers import MAX_PEERS
from thinwire.comms.swarm.view import Epoch, Slot, View, following, number_of


def decided(bus: Bus, i: int) -> tuple[list[int], dict[int, str]]:
    last = bus.decided[i][-1]
    return [key[0] - 1 for key, _, _ in last.counted], {key[0] - 1: why for key, why in last.skipped.items()}


def agree(bus: Bus) -> None:
    known = {}
    for decisions in bus.decided.values():
        for decision in decisions:
            assert known.setdefault((decision.epoch, decision.slot), decision) == decision


@pytest.mark.parametrize("n", [2, 3, 4, 8, 20])
def test_round_is_decided_two_round_trips_after_the_last_payload_left_and_without_a_timer(n: int) -> None:
    bus = Bus(n)
    bus.settle()
    bus.now += 1.0
    slot = bus.machines[0].next_slot
    for i in bus.machines:
        bus.start(i)
    hops = 0
    while any(machine.next_slot == slot for machine in bus.machines.values()):
        assert bus.hop()
        hops += 1
    assert hops == (4 if n <= 16 else 5)  # payload, have, propose, accept; through the leader one more: commit
    assert all(decided(bus, i)[0] == list(range(n)) for i in bus.machines)
    agree(bus)


def test_views_grow_to_twice_their_size_at_most() -> None:
    bus = Bus(1)
    for i in range(1, 8):
        bus.join(i)
    sizes = []
    for _ in range(4):
        bus.round()
        sizes.append(len(bus.machines[0].view.members))
    assert sizes == [2, 4, 8, 8]
    assert all(machine.is_member for machine in bus.machines.values())


@pytest.mark.parametrize("victim", [0, 1, 2, 3])
@pytest.mark.parametrize("hops", range(5))
def test_after_a_kill_at_any_hop_the_next_decisions_need_no_timer(victim: int, hops: int) -> None:
    bus = Bus(4)
    slot = bus.machines[0].next_slot
    bus.now += 1.0
    for i in bus.machines:
        bus.start(i)
    for _ in range(hops):
        bus.hop()
    bus.kill(victim)
    bus.settle()
    assert bus.slots() == [slot.round + 1] * 3
    bus.round()
    assert len(set(bus.slots())) == 1
    assert victim not in bus.members((victim + 1) % 4)
    agree(bus)


def test_silent_stop_costs_one_suspicion() -> None:
    bus = Bus(4)
    bus.wait(1.0)
    for i in (0, 1, 2, 3):
        if bus.machines[i].view.leader(bus.machines[0].next_slot.round) == key_of(i):
            leader = i
    slot = bus.machines[leader].next_slot.round
    for i in bus.machines:
        if i != leader:
            bus.start(i)
    bus.wait(1.0, leader)
    assert {bus.machines[i].next_slot.round for i in bus.machines if i != leader} == {slot}
    bus.wait(1.0, leader)
    assert {bus.machines[i].next_slot.round for i in bus.machines if i != leader} == {slot + 1}
    assert decided(bus, (leader + 1) % 4)[1] == {leader: "silent"}


def test_stopped_member_that_goes_on_catches_up_and_is_admitted_again_without_adopting_state() -> None:
    bus = Bus(4)
    bus.wait(5.0, 3)
    for _ in range(3):
        for i in (0, 1, 2):
            bus.start(i)
        bus.wait(0.5, 3)
    assert bus.machines[3].next_slot.round == bus.machines[0].next_slot.round - 3
    bus.wait(1.0)
    assert bus.machines[3].next_slot == bus.machines[0].next_slot
    assert not bus.machines[3].is_member
    bus.round()
    assert bus.machines[3].is_member
    assert not bus.rejoins[3]
    agree(bus)


def test_process_that_stood_still_itself_suspects_nobody() -> None:
    bus = Bus(3)
    bus.wait(1.0)
    bus.do(0, bus.machines[0].tick(bus.now + 60))
    assert len(bus.machines[0].present()) == 3


def test_straggler_that_is_alive_is_skipped_after_the_deadline_and_stays() -> None:
    bus = Bus(4)
    for _ in range(4):
        bus.round()
    slot = bus.machines[0].next_slot
    for i in (0, 1, 2):
        bus.start(i)
    bus.settle()
    assert bus.machines[0].next_slot == slot
    bus.wait(1.6)
    assert bus.machines[0].next_slot.round == slot.round + 1
    assert decided(bus, 0) == ([0, 1, 2], {3: "late"})
    assert bus.members(0) == [0, 1, 2, 3]


def test_lone_fast_member_is_not_a_round_of_its_own_before_about_an_interval() -> None:
    bus = Bus(4)
    for _ in range(6):
        bus.round()  # one a second
    slot = bus.machines[0].next_slot
    bus.start(1)
    bus.wait(0.9)
    assert bus.machines[0].next_slot == slot
    for i in (0, 2, 3):
        bus.start(i)
    bus.settle()
    assert decided(bus, 0)[0] == [0, 1, 2, 3]


def test_newcomer_is_waited_for_from_its_first_payload_on() -> None:
    bus = Bus(3)
    for _ in range(3):
        bus.round()
    bus.join(3)
    for leader in range(4):  # whoever leads, perhaps the newcomer
        for i in (0, 1, 2):
            bus.start(i)
        bus.settle()
        assert decided(bus, 0) == ([0, 1, 2], {} if not leader else {3: "late"})
        assert bus.members(0) == [0, 1, 2, 3]
    slot = bus.machines[0].next_slot
    bus.start(3)
    for i in (0, 1):
        bus.start(i)
    bus.settle()
    assert bus.machines[0].next_slot == slot
    bus.start(2)
    bus.settle()
    assert decided(bus, 0) == ([0, 1, 2, 3], {})
    for i in (0, 1, 2):
        bus.start(i)
    bus.settle()
    assert bus.machines[0].next_slot.round == slot.round + 1
    bus.start(3)
    bus.settle()
    assert decided(bus, 0) == ([0, 1, 2, 3], {})


def test_payload_is_final() -> None:
    bus = Bus(2)
    bus.now += 1
    slot = bus.machines[0].next_slot
    bus.start(0)
    bus.do(0, bus.machines[0].start(slot, bytes(32), NBYTES, bus.now))
    bus.start(1)
    bus.settle()
    assert (key_of(0), bus.payload(0, slot), NBYTES) in bus.decided[1][-1].counted


def test_second_announcement_of_a_member_is_refused() -> None:
    bus = Bus(2)
    one = bus.machines[1]
    for digest in (b"a" * 32, b"b" * 32):
        one.receive(key_of(0), nonce_of(0), m.Ready(one.epoch, one.next_slot, digest, NBYTES), bus.now)
    assert one.counts["second payload"] == 1


def test_what_is_started_late_is_refused_and_far_ahead_is_a_mistake() -> None:
    bus = Bus(2)
    bus.do(0, bus.machines[0].start(Slot(0), bytes(32), NBYTES, bus.now))
    assert bus.machines[0].counts["started late"] == 1
    with pytest.raises(ValueError, match="is not decided"):
        bus.machines[0].start(Slot(99), bytes(32), NBYTES, bus.now)


def test_slots_started_early_wait_their_turn() -> None:
    bus = Bus(2)
    slot = bus.machines[0].next_slot
    bus.now += 1
    for i in (0, 1):
        for ahead in (2, 1, 0):
            at = Slot(slot.round + ahead)
            bus.held.add((i, bus.payload(i, at)))
            bus.do(i, bus.machines[i].start(at, bus.payload(i, at), NBYTES, bus.now))
    bus.settle()
    assert bus.slots() == [slot.round + 3] * 2
    assert all(len(decision.counted) == 2 for decision in bus.decided[0][-3:])


def test_fragments_are_decided_one_after_the_other() -> None:
    assert [following(Slot(3, 0), 2), following(Slot(3, 1), 2), following(Slot(3), 1)] == [Slot(3, 1), Slot(4), Slot(4)]
    bus = Bus(2, fragments=2)
    slot = bus.machines[1].next_slot
    bus.round()
    assert bus.machines[1].next_slot == following(slot, 2)


# -- life --------------------------------------------------------------------------------------------------------------------------


def test_leaver_is_not_waited_for_its_payload_counts_and_it_is_no_member_afterwards() -> None:
    bus = Bus(3)
    bus.now += 1
    bus.start(2)
    bus.do(2, bus.machines[2].leave(bus.now))
    bus.settle()
    for i in (0, 1):
        bus.start(i)
    bus.settle()
    assert decided(bus, 0)[0] == [0, 1, 2]
    assert bus.members(0) == [0, 1]
    assert not bus.machines[2].is_member
    bus.round()
    assert len(bus.decided[0][-1].counted) == 2
    assert "join" not in bus.machines[2]._seat.due


def test_the_last_member_may_leave_too() -> None:
    bus = Bus(1)
    bus.do(0, bus.machines[0].leave(bus.now))
    bus.round()
    assert bus.members(0) == [0]


def test_restarted_member_has_no_say_in_the_name_of_its_old_incarnation() -> None:
    bus = Bus(3)
    bus.now += 1
    slot, epoch = bus.machines[0].next_slot, bus.machines[0].epoch
    bus.kill(2)
    bus.join(2, life=1)
    for message in (m.Accept(epoch, slot, 0, bytes(16)), m.Promise(epoch, slot, 5, None, b""), m.Ready(epoch, slot, bytes(32), 1)):
        bus.do(0, bus.machines[0].receive(key_of(2), nonce_of(2, 1), message, bus.now))
    assert bus.machines[0].counts["no member"] == 3
    bus.start(0)
    bus.start(1)
    bus.settle()
    assert decided(bus, 0)[1] == {2: "replaced by a restarted process"}
    assert bus.machines[0].view.has(key_of(2), nonce_of(2, 1))
    assert bus.machines[2].is_member
    bus.round()
    assert decided(bus, 0)[0] == [0, 1, 2]


def test_second_process_with_a_key_in_use_is_refused() -> None:
    bus = Bus(2)
    bus.wait(0.3)
    zero = bus.machines[0]
    zero.receive(key_of(1), nonce_of(1, 7), m.Join(zero.epoch, zero.next_slot), bus.now)
    assert zero.counts["key in use"] == 1
    bus.round()
    assert zero.view.has(key_of(1), nonce_of(1))


def test_who_has_left_does_not_keep_its_successor_out_nor_speaks_after_it() -> None:
    bus = Bus(3)
    bus.wait(0.3)
    old = bus.machines[2]
    bus.do(2, old.leave(bus.now))
    bus.settle()
    zero = bus.machines[0]
    stray = old._seat.beat()
    standing = zero.standing()
    assert standing is not None
    bus.do(2, bus.make(2, life=1).follow(standing, bus.now))
    for i in (0, 1):
        bus.do(2, bus.machines[2].up(key_of(i), bus.now))  # the links have stood all the time
    bus.settle()
    assert not zero.counts["key in use"]
    bus.do(0, zero.down(key_of(2), bus.now))
    bus.do(0, zero.up(key_of(2), bus.now))  # from now on whoever speaks first would be believed
    bus.do(0, zero.receive(key_of(2), nonce_of(2), stray, bus.now))
    bus.settle()
    assert zero.counts["has left"] == 1
    bus.round()
    bus.round()
    assert zero.view.has(key_of(2), nonce_of(2, 1))
    agree(bus)


def overtaken(bus: Bus, seconds: float) -> None:
    """The others decide on, and to them member 2 speaks with two tongues, that of life 7 before that of life 0."""
    until = bus.now + seconds
    while bus.now < until:
        for i in (0, 1):
            machine = bus.machines[i]
            bus.do(i, machine.receive(key_of(2), nonce_of(2, 7), machine._seat.beat(), bus.now))
        bus.wait(0.5)
        bus.round()


def test_who_is_told_nothing_while_the_others_decide_on_comes_in_anew() -> None:
    bus = Bus(2)
    bus.do(0, bus.machines[0].up(key_of(2), bus.now))
    bus.do(1, bus.machines[1].up(key_of(2), bus.now))
    for i in (0, 1):
        bus.do(i, bus.machines[i].receive(key_of(2), nonce_of(2, 7), bus.machines[i]._seat.beat(), bus.now))
    standing = bus.machines[0].standing()
    assert standing is not None
    bus.do(2, bus.make(2).follow(standing, bus.now))
    for i in (0, 1):
        bus.do(2, bus.machines[2].up(key_of(i), bus.now))
    bus.settle()
    overtaken(bus, 60.0)
    assert bus.machines[2].next_slot == standing.slot < bus.machines[0].next_slot
    assert bus.machines[0].counts["key in use"] > 10
    assert bus.rejoins[2][0].why == "the others decide and tell this member nothing"
    assert set(bus.rejoins[2][0].toward) <= {key_of(0), key_of(1)}
    assert bus.machines[2].counts["untold"] == len(bus.rejoins[2]) <= 5


def test_who_waits_with_all_the_others_stays_where_it_is() -> None:
    bus = Bus(3)
    bus.join(3)
    bus.wait(120.0)  # they compute
    assert not any(bus.rejoins.values())
    slot = bus.machines[0].next_slot
    for i in (0, 1):
        bus.start(i)
    bus.settle()
    bus.wait(120.0, 2)  # and one of them stands still, while they decide without it
    assert bus.machines[0].next_slot > slot
    bus.wait(20.0)
    assert not any(bus.rejoins.values())
    assert bus.slots() == [bus.machines[0].next_slot.round] * 4


def test_newcomer_whose_number_is_taken_is_not_admitted() -> None:
    bus = Bus(2)
    zero = bus.machines[0]
    twin = key_of(1)[:4] + bytes(28)
    assert number_of(twin) == number_of(key_of(1))
    zero.up(twin, bus.now)
    for i in (0, 1):
        bus.machines[i].receive(twin, nonce_of(9), m.Join(zero.epoch, zero.next_slot), bus.now)
    bus.round()
    assert bus.members(0) == [0, 1]


def test_payload_of_an_upload_poor_member_is_passed_on() -> None:
    bus = Bus(4)
    bus.now += 1
    bus.start(3, via=key_of(1))
    bus.settle()
    assert [(i, push.to) for i, push in bus.pushes[-2:]] == [(3, (key_of(1),)), (1, (key_of(0), key_of(2)))]
    for i in (0, 1, 2):
        bus.start(i)
    bus.settle()
    assert decided(bus, 0)[0] == [0, 1, 2, 3]


def test_upload_poor_member_sends_to_all_when_who_passes_on_dies() -> None:
    bus = Bus(4)
    bus.now += 1
    bus.start(3, via=key_of(1))
    bus.kill(1)
    assert [(i, set(push.to)) for i, push in bus.pushes[-1:]] == [(3, {key_of(0), key_of(2)})]


def test_payload_lost_on_its_way_is_fetched_by_who_has_to_vote() -> None:
    bus = Bus(4)
    for _ in range(4):
        bus.round()
    bus.lost = {(3, 0)}
    slot = bus.machines[0].next_slot
    bus.start(3)
    bus.settle()
    bus.lost = set()
    for i in (0, 1, 2):
        bus.start(i)
    bus.wait(2.0)
    assert bus.machines[0].next_slot.round == slot.round + 1
    agree(bus)


def test_payloads_that_all_who_are_left_lack_are_asked_for_before_long() -> None:
    class Lossy(Bus):
        loses = False

        def _land(self, i: int, j: int, what: Push | Want) -> None:
            if not (self.loses and isinstance(what, Push)):
                super()._land(i, j, what)

    bus = Lossy(5)
    for _ in range(20):
        bus.now -= 0.9  # ten rounds a second
        bus.round()
    slot = bus.machines[0].next_slot
    bus.loses = True
    for i in (0, 1, 2):
        bus.start(i)
    bus.settle()
    bus.kill(3)
    bus.kill(4)
    bus.wait(1.4)
    assert bus.machines[0].next_slot == slot
    bus.wait(0.4)  # before, it took 2.6 s until they gave up those that some of them lack
    assert bus.machines[0].next_slot.round == slot.round + 1
    agree(bus)


# -- without a quorum --------------------------------------------------------------------------------------------------------------


def test_two_who_lose_the_senior_go_on_in_a_new_epoch_within_about_a_second() -> None:
    bus = Bus(2)
    epoch = bus.machines[1].epoch
    bus.kill(0)
    bus.wait(0.9)
    assert bus.machines[1].epoch == epoch
    bus.wait(0.3)
    assert bus.machines[1].epoch != epoch
    assert bus.members(1) == [1]
    bus.round()
    assert bus.decided[1][-1].epoch.number == 1


def test_senior_goes_on_alone_at_once() -> None:
    bus = Bus(2)
    epoch = bus.machines[0].epoch
    bus.kill(1)
    bus.round()
    assert bus.machines[0].epoch == epoch
    assert bus.members(0) == [0]


def test_who_links_as_another_process_is_gone_before_it_says_a_word() -> None:
    bus = Bus(3)
    zero = bus.machines[0]
    bus.unlink(0, 2)
    bus.do(0, zero.up(key_of(2), bus.now, process=nonce_of(2)))
    assert zero._seat.reachable(key_of(2))
    stray = bus.machines[2]._seat.beat()
    bus.do(0, zero.down(key_of(2), bus.now))
    bus.do(0, zero.up(key_of(2), bus.now, process=nonce_of(2, 1)))
    assert not zero._seat.reachable(key_of(2))
    bus.do(0, zero.receive(key_of(2), nonce_of(2), stray, bus.now))  # of the dead one, late
    assert zero.counts["has left"] == 1
    assert not zero._seat.reachable(key_of(2))
    bus.do(0, zero.receive(key_of(2), nonce_of(2, 1), stray, bus.now))
    assert not zero.counts["key in use"]


def test_who_has_come_by_a_way_around_and_then_links_is_not_taken_for_dead() -> None:
    bus = Bus(3)
    zero, peer = bus.machines[0], bus.machines[0]._seat.peers.get(key_of(2))
    bus.do(0, zero.down(key_of(2), bus.now))
    bus.do(0, zero.up(key_of(2), bus.now))  # without a link of its own
    bus.do(0, zero.receive(key_of(2), nonce_of(2, 1), bus.machines[2]._seat.beat(), bus.now))
    bus.do(0, zero.up(key_of(2), bus.now, process=nonce_of(2, 1)))  # the way stands: no `down` before
    assert peer.nonce == nonce_of(2, 1)
    bus.do(0, zero.receive(key_of(2), nonce_of(2, 1), bus.machines[2]._seat.beat(), bus.now))
    assert not zero.counts["key in use"]


@pytest.mark.parametrize(("lower", "waits_s"), [(False, 0.0), (True, 1.5)])
def test_a_follower_whose_group_has_died_for_good_goes_on_at_once(lower: bool, waits_s: float) -> None:
    bus = Bus(2)
    me, other = (3, 2) if lower else (2, 3)
    for i in (me, other):  # they follow, and are members of nothing
        standing = bus.machines[0].standing()
        bus.do(i, bus.make(i).follow(standing, bus.now))
    bus.link(me, other)
    for i in (0, 1):
        bus.link(me, i)
    bus.settle()
    assert not bus.machines[me].is_member
    epoch = bus.machines[me].epoch
    for i in (0, 1):
        bus.kill(i)
        bus.do(me, bus.machines[me].up(key_of(i), bus.now, process=nonce_of(i, 1)))
    if waits_s:
        bus.wait(waits_s - 0.2, other)
        assert bus.machines[me].epoch == epoch
        bus.wait(0.3, other)
    else:
        bus.wait(0.05, other)
    assert bus.machines[me].epoch != epoch
    assert bus.members(me) == [me]


def test_the_last_one_goes_on_though_the_dead_come_back_as_others() -> None:
    """It knows of decisions whose payloads have died with the rest, and those link again and again, as strangers who say nothing yet."""
    bus = Bus(5)
    bus.round()
    bus.lost = {pair for i in range(4) for pair in ((i, 4), (4, i))}
    for i in range(4):
        bus.start(i)
    bus.wait(0.8)
    assert bus.slots()[3] == bus.slots()[4] + 1
    bus.lost, bus.held = set(), set()
    bus.wait(0.3)
    last = bus.machines[4]
    assert last._archive.behind
    assert last.is_member
    epoch, began = last.epoch, bus.now
    for i in range(4):
        bus.kill(i)
    while last.epoch == epoch and bus.now - began < 30:
        for i in range(4):
            bus.do(4, last.up(key_of(i), bus.now, process=nonce_of(i, 9)))
        bus.wait(0.7)
        for i in range(4):
            bus.do(4, last.down(key_of(i), bus.now))
    assert bus.now - began < 1.0
    assert bus.members(4) == [4]


def test_with_split_wait_a_minority_waits_unless_the_others_never_come_back() -> None:
    bus = Bus(2, split="wait")
    bus.kill(0)
    bus.wait(30.0)
    assert bus.members(1) == [0, 1]
    bus = Bus(2, split="wait")
    bus.do(0, bus.machines[0].leave(bus.now))
    bus.settle()
    bus.kill(0)
    bus.wait(0.1)
    assert bus.members(1) == [1]


def test_minority_goes_on_and_gives_way_to_those_who_kept_their_quorum() -> None:
    bus = Bus(5)
    for a in (0, 1, 2):
        for b in (3, 4):
            bus.unlink(a, b)
    bus.wait(2.0)
    assert bus.machines[3].epoch == bus.machines[4].epoch != bus.machines[0].epoch
    for _ in range(3):
        bus.round()
    assert bus.members(3) == [3, 4]
    assert bus.members(0) == [0, 1, 2]
    bus.link(0, 3)
    bus.settle()
    assert bus.rejoins[3][-1].why == "the others have kept their quorum"
    assert bus.rejoins[3][-1].toward == (key_of(0),)
    assert not bus.rejoins[0]
    agree(bus)


def test_all_of_a_minority_have_to_agree_before_they_go_on() -> None:
    bus = Bus(5)
    for a in (0, 1, 2):
        for b in (3, 4):
            bus.unlink(a, b)
    bus.lost = {(4, 3)}
    epoch = bus.machines[3].epoch
    bus.wait(1.4)
    assert bus.machines[3].epoch == epoch


def test_follower_goes_over_to_a_new_epoch_as_it_stands() -> None:
    bus = Bus(2)
    bus.join(2, donor=1)
    bus.kill(0)
    bus.wait(3.0)
    bus.round()
    assert bus.members(1) == [1, 2]
    assert not bus.rejoins[2]


claims = st.builds(
    Claim,
    epoch=st.sampled_from([b"a" * 16, b"b" * 16, b"c" * 16]),
    ancestors=st.lists(st.sampled_from([b"d" * 16, b"e" * 16]), max_size=2).map(tuple),
    work=st.integers(0, 3),
    quorate=st.booleans(),
)


@given(claims, claims, st.booleans())
def test_never_do_both_give_way(a: Claim, b: Claim, child: bool) -> None:
    if child and a.epoch != b.epoch:
        b = dataclasses.replace(b, ancestors=(a.epoch, *a.ancestors))
    if a.epoch != b.epoch:
        assert not (gives_way(a, b) and gives_way(b, a))
        if a.quorate and b.quorate:
            assert gives_way(a, b) or gives_way(b, a)


# -- bad input ---------------------------------------------------------------------------------------------------------------------


def test_zombie_of_another_epoch_is_refused_and_told_where_the_group_is() -> None:
    bus = Bus(2)
    effects = bus.machines[0].receive(key_of(1), nonce_of(1), m.Have(b"z" * 16, Slot(0), 0, b""), bus.now)
    assert bus.machines[0].counts["another epoch"] == 1
    assert [type(effect.message) for effect in effects if isinstance(effect, Send)] == [m.Beat]


def test_who_votes_on_a_decided_slot_is_told_the_decision() -> None:
    bus = Bus(2)
    effects = bus.machines[0].receive(key_of(1), nonce_of(1), m.Promise(bus.machines[0].epoch, Slot(0), 3, None, b""), bus.now)
    sent = [effect.message for effect in effects if isinstance(effect, Send)]
    assert isinstance(sent[0], m.Rulings)
    assert sent[0].rulings[0].slot == Slot(0)


def test_decisions_that_do_not_follow_are_refused() -> None:
    bus = Bus(2)
    one = bus.machines[1]
    value = Value(bytes([1, 1]), bytes(64), (1, 1))
    ruling = m.Ruling(one.next_slot, 0, value, bytes(32))
    one.receive(key_of(0), nonce_of(0), m.Rulings(one.epoch, (ruling,)), bus.now)
    assert one.counts["chain"] == 1


def test_proposals_that_no_leader_makes_are_refused() -> None:
    bus = Bus(2)
    zero, one = bus.machines[0], bus.machines[1]
    slot = zero.next_slot
    leads = next(i for i in (0, 1) if zero.view.leader(slot.round) == key_of(i))
    target, other = bus.machines[1 - leads], key_of(leads)
    bad = Value(bytes([1]), bytes(32), (1,))
    target.receive(other, nonce_of(leads), m.Propose(zero.epoch, slot, 0, bad, bad.check), bus.now)
    assert target.counts["proposal"] == 1
    good = Value(bytes([1, 0]), bytes(32), (1,))
    target.receive(other, nonce_of(leads), m.Propose(zero.epoch, slot, 1, good, good.check), bus.now)
    assert target.counts["not the leader"] == 1
    target.receive(other, nonce_of(leads), m.Propose(zero.epoch, slot, 2**40, good, good.check), bus.now)
    assert target.counts["far ballot"] == 1
    assert one.next_slot == slot


def test_slots_of_another_time_take_no_memory() -> None:
    bus = Bus(2)
    zero = bus.machines[0]
    for far in range(AHEAD + 1, 10_000):
        zero.receive(key_of(1), nonce_of(1), m.Ready(zero.epoch, Slot(zero.next_slot.round + far), bytes(32), 1), bus.now)
        zero.holds(Slot(zero.next_slot.round + far), key_of(1), bytes(32), 1, bus.now)
    assert zero.counts["ahead"]
    assert zero.counts["payload of another time"]
    assert len(zero._payloads._desks) <= AHEAD + 1
    assert len(zero._stash) < 8


def test_twenty_thousand_announced_peers_take_bounded_memory() -> None:
    machine = Machine(key_of(0), nonce_of(0))
    machine.found(0.0)
    join = m.Join(machine.epoch, Slot(0))
    for i in range(20_000):
        machine.receive(i.to_bytes(32, "big"), bytes(8), join, 0.0)
    assert len(machine._seat.peers.items()) <= MAX_PEERS
    assert len(machine._observers._observers) <= 1024
    assert machine.counts["too many peers"] >= 20_000 - MAX_PEERS
    machine.start(Slot(0), bytes(32), 1, 1.0)
    assert len(machine.view.members) == 2


def test_largest_messages_fit() -> None:
    n = 1024
    keys = tuple(i.to_bytes(4, "big") + bytes(28) for i in range(n))
    view = View(Epoch(0, bytes(16)), keys, (bytes(8),) * n)
    value = Value(bytes([1]) * n, bytes(32 * n), (2**40,) * n)
    assert not value.why_not(view)
    m.pack(m.Propose(bytes(16), Slot(0), 0, value, value.check))
    m.pack(m.Promise(bytes(16), Slot(0), 1, m.Accepted(0, value), bytes(128)))
    ruling = m.Ruling(Slot(0), 0, value, decide(view, Slot(0), value, chain=bytes(32), work=0).chain)
    assert m.fit([ruling, ruling]) == (ruling,)
    m.pack(m.Rulings(bytes(16), m.fit([ruling, ruling])))
