"""The laws of every `Group`: what each member does, and what must then be true of what they were all told."""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from thinwire.comms import wire
from thinwire.comms.group import Exchange, Group, Note, Pending
from thinwire.comms.wire import ABSTAIN, HEADER_NBYTES, LEAVING, RoundKey

PLAN = 77
SIZES = (0, 1, 5, 4099)
FLOATS = (0, 1, 3, 7, 1009)


class Told(NamedTuple):
    """What a member was told, in plain values that can be compared and sent between processes."""

    members: tuple[int, ...]
    payloads: bytes
    skipped: dict[int, str]
    notes: dict[int, tuple[int, int, int]]
    sent: int
    received: int
    reduced: bool


def told(exchange: Exchange | None) -> Told | None:
    if exchange is None:
        return None
    notes = {member: (note.flags, note.steps, note.state) for member, note in exchange.notes.items()}
    payloads = exchange.payloads.numpy().tobytes()
    moved = exchange.sent_nbytes, exchange.received_nbytes
    return Told(exchange.members, payloads, exchange.skipped, notes, *moved, exchange.reduced)


def payload_of(rank: int, nbytes: int) -> torch.Tensor:
    """Random bytes that are finite numbers when read as float32."""
    payload = np.random.default_rng([rank, nbytes]).integers(0, 256, nbytes, dtype=np.uint8)
    payload[3::4] &= 0x3F
    return torch.from_numpy(payload)


def floats_of(rank: int, n: int) -> np.ndarray:
    """Numbers whose sum depends on its order."""
    rng = np.random.default_rng([rank, n])
    return (rng.standard_normal(n) * 10.0 ** rng.integers(-6, 7, n)).astype(np.float32)


def begin(group: Group, round_: int, payload: torch.Tensor, **how: Any) -> Pending:
    return group.start(RoundKey(0, round_, 0), payload, plan=PLAN, **how)


def same(results: list[Any]) -> Any:
    assert all(result == results[0] for result in results), results
    return results[0]


# -- everybody gets the same, in rank order ------------------------------------------------------------------------------------


def do_sizes(group: Group) -> Any:
    notes = Note(LEAVING, group.rank + 5, 2**63 + group.rank)
    return [told(begin(group, i, payload_of(group.rank, size), note=notes).wait()) for i, size in enumerate(SIZES)]


def see_sizes(results: list[Any], n: int) -> None:
    for size, exchange in zip(SIZES, same(results), strict=True):
        assert exchange.members == tuple(range(n))
        assert not exchange.skipped
        assert exchange.payloads == b"".join(payload_of(rank, size).numpy().tobytes() for rank in range(n))
        assert exchange.notes == {rank: (LEAVING, rank + 5, 2**63 + rank) for rank in range(n)}
        # Each size is new here: members tell it each other first.
        assert exchange.sent == exchange.received == (n - 1) * (HEADER_NBYTES + 16 + HEADER_NBYTES + size)


def do_again(group: Group) -> Any:
    return [told(begin(group, i, payload_of(group.rank, 10)).wait()) for i in range(3)]


def see_again(results: list[Any], n: int) -> None:
    _, second, third = same(results)
    assert second.sent == third.sent == (n - 1) * (HEADER_NBYTES + 10)


def do_other_sizes(group: Group) -> Any:
    """Member 0 brings something else than the others, twice; then all bring the same."""
    odd = group.rank == 0
    out = []
    for nbytes, reduce in ((12 if odd else 8, False), (8, odd), (8, False)):
        pending = begin(group, 0, payload_of(group.rank, nbytes), reduce=reduce)
        out.append((told(pending.wait()), pending.error))
    return out


def see_other_sizes(results: list[Any], n: int) -> None:
    for i, words in enumerate(
        ("member 0 brings 12 bytes, member 1 brings 8 bytes", "member 0 brings 8 bytes to sum, member 1 brings 8 bytes")
    ):
        assert all(result[i][0] is None and words in result[i][1] for result in results), [result[i] for result in results]
    assert same([result[2][0] for result in results]).members == tuple(range(n))


def do_not_finite(group: Group) -> Any:
    mine = torch.ones(8) * (float("nan") if group.rank == 1 else 1.0)
    pending = begin(group, 0, mine.view(torch.uint8), reduce=True)
    return told(pending.wait()), pending.error


def see_not_finite(results: list[Any], n: int) -> None:
    """A member that sends NaN to a sum is left out, or the sum fails: it reaches nobody."""
    for exchange, error in results:
        if exchange is None:
            assert error
        else:
            assert 1 not in exchange.members
            assert "NaN" in exchange.skipped[1]
            assert np.isfinite(np.frombuffer(exchange.payloads, np.float32)).all()
    same([exchange for exchange, _ in results])


def do_in_flight(group: Group) -> Any:
    pending = [begin(group, i, payload_of(group.rank, 9 + i)) for i in range(4)]
    exchanges = [p.wait() for p in reversed(pending)]
    assert all(p.done() for p in pending)
    return [told(exchange) for exchange in reversed(exchanges)]


def see_in_flight(results: list[Any], n: int) -> None:
    for i, exchange in enumerate(same(results)):
        assert exchange.payloads == b"".join(payload_of(rank, 9 + i).numpy().tobytes() for rank in range(n))


# -- who does not count --------------------------------------------------------------------------------------------------------


def do_abstain(group: Group) -> Any:
    note = Note(ABSTAIN if group.rank == 1 else 0)
    return [told(begin(group, 0, payload_of(group.rank, 16), note=note, reduce=r).wait()) for r in (False, True)]


def see_abstain(results: list[Any], n: int) -> None:
    counted = [rank for rank in range(n) if rank != 1]
    plain, reduced = same(results)
    assert plain.members == reduced.members == tuple(counted)
    assert plain.skipped == reduced.skipped == {1: "abstained"}
    assert plain.payloads == b"".join(payload_of(rank, 16).numpy().tobytes() for rank in counted)
    assert plain.notes.keys() == set(range(n))
    assert plain.notes[1][0] == ABSTAIN


def do_all_abstain(group: Group) -> Any:
    note = Note(ABSTAIN)
    return [told(begin(group, 0, payload_of(group.rank, 16), note=note, reduce=reduce).wait()) for reduce in (False, True)]


def see_all_abstain(results: list[Any], n: int) -> None:
    for exchange in same(results):
        assert exchange.members == ()
        assert exchange.skipped == dict.fromkeys(range(n), "abstained")


def do_corrupt(group: Group) -> Any:
    def spoil(message: torch.Tensor) -> torch.Tensor:
        message[HEADER_NBYTES + 3] ^= 1
        return message

    if group.rank == 1:
        group._post = spoil  # type: ignore[method-assign]
    exchange = begin(group, 0, payload_of(group.rank, 16)).wait()
    vars(group).pop("_post", None)
    return told(exchange)


def see_corrupt(results: list[Any], n: int) -> None:
    exchange = same(results)
    assert exchange.members == tuple(rank for rank in range(n) if rank != 1)
    assert exchange.skipped == {1: "checksum does not match the frame"}
    assert 1 not in exchange.notes


def do_out_of_step(group: Group) -> Any:
    last = group.rank == max(group.members)
    out = []
    for reduce in (False, True):
        pending = begin(group, 6 if last else 5, payload_of(group.rank, 16), reduce=reduce)
        out.append((told(pending.wait()), pending.error))
    return out


def see_out_of_step(results: list[Any], n: int) -> None:
    for kind in range(2):
        outcomes = [result[kind] for result in results]
        exchange, error = outcomes[-1]
        assert exchange is None, error
        assert "round 6" in error
        if n == 2:  # nobody can tell who is right
            assert outcomes[0][0] is None
            assert "disagree" in outcomes[0][1]
        else:
            agreed = same([outcome[0] for outcome in outcomes[:-1]])
            assert agreed.members == tuple(range(n - 1))
            assert agreed.skipped == {n - 1: "round is 6, expected 5"}


# -- sums ----------------------------------------------------------------------------------------------------------------------


def do_reduce(group: Group) -> Any:
    ours = [torch.from_numpy(floats_of(group.rank, n).view(np.uint8)) for n in FLOATS]
    return [told(begin(group, i, mine, reduce=True).wait()) for i, mine in enumerate(ours)]


def see_reduce(results: list[Any], n: int) -> None:
    for size, exchange in zip(FLOATS, same(results), strict=True):
        total = floats_of(0, size)
        for rank in range(1, n):
            total = total + floats_of(rank, size)
        assert exchange.reduced
        assert exchange.members == tuple(range(n))
        assert exchange.payloads == total.tobytes()


# -- control data --------------------------------------------------------------------------------------------------------------


def do_blobs(group: Group) -> Any:
    return [group.gather_bytes(bytes([group.rank]) * (1000 * group.rank + extra)) for extra in (0, 1)]


def see_blobs(results: list[Any], n: int) -> None:
    assert same(results) == [[bytes([rank]) * (1000 * rank + extra) for rank in range(n)] for extra in (0, 1)]


def do_blob_claim(group: Group) -> Any:
    """Member 1 claims 1 TiB in a frame that is otherwise sound."""

    def claim(message: torch.Tensor) -> torch.Tensor:
        message[HEADER_NBYTES:] = torch.frombuffer(bytearray(struct.pack("<Q", 1 << 40)), dtype=torch.uint8)
        return wire.with_checksum(message)

    if group.rank == 1:
        group._post = claim  # type: ignore[method-assign]
    blobs = group.gather_bytes(b"x")
    vars(group).pop("_post", None)
    return blobs


def see_blob_claim(results: list[Any], n: int) -> None:
    assert results == [None] * n


class Law(NamedTuple):
    do: Callable[[Group], Any]
    see: Callable[[list[Any], int], None]


LAWS = {
    "every_member_gets_every_payload_in_rank_order": Law(do_sizes, see_sizes),
    "a_size_is_told_only_once": Law(do_again, see_again),
    "different_sizes_fail_for_all_and_end_nobody": Law(do_other_sizes, see_other_sizes),
    "nan_in_a_sum_reaches_nobody": Law(do_not_finite, see_not_finite),
    "rounds_in_flight_end_in_order": Law(do_in_flight, see_in_flight),
    "an_abstaining_member_is_skipped": Law(do_abstain, see_abstain),
    "when_all_abstain_nobody_counts": Law(do_all_abstain, see_all_abstain),
    "a_corrupt_frame_is_skipped_with_its_reason": Law(do_corrupt, see_corrupt),
    "a_member_out_of_step_is_told_and_skipped": Law(do_out_of_step, see_out_of_step),
    "a_sum_is_in_rank_order_bit_for_bit": Law(do_reduce, see_reduce),
    "control_data_of_any_size_arrive": Law(do_blobs, see_blobs),
    "a_claim_above_the_limit_allocates_nothing": Law(do_blob_claim, see_blob_claim),
}
