"""`TorchGroup` on forked ranks over loopback: the laws of every group, and what happens when ranks die, stop or leave."""

import functools
import os
import signal
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.comms.laws import LAWS, begin, payload_of, same, told
from tests.worlds import run_ranks, set_key, thinwire_threads, wait_for_keys
from thinwire.comms.arbiter import Arbiter
from thinwire.comms.group import Group, Patience
from thinwire.comms.torch_group import TorchGroup

# No test waits for this deadline: it is long so that a busy machine meets it. Where one has to run out, `expire` sets a short one for
# that round alone.
AMPLE_S = 40.0


def obey_all_laws(rank: int) -> dict[str, Any]:
    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    results = {name: law.do(group) for name, law in LAWS.items()}
    assert not dist.is_initialized()
    group.leave()
    group.leave()
    assert not thinwire_threads(), thinwire_threads()
    return results


@functools.cache
def laws_of_a_world(n: int) -> list[dict[str, Any]]:
    return run_ranks(n, obey_all_laws)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("law", LAWS)
def test_law(law: str, n: int) -> None:
    LAWS[law].see([results[law] for results in laws_of_a_world(n)], n)


# -- constructors --------------------------------------------------------------------------------------------------------------


def exchange_once(group: Group, round_: int = 0, **how: Any) -> Any:
    return told(begin(group, round_, payload_of(group.rank, 64), **how).wait())


def through_process_group(rank: int) -> Any:
    dist.init_process_group("gloo")
    pair = dist.new_group([1, 2])  # not the default group: member ids are ranks within it
    everybody = TorchGroup(dist.group.WORLD, timeout_s=AMPLE_S)
    out: list[Any] = [exchange_once(everybody), exchange_once(everybody, 1, reduce=True)]
    if rank:
        group = TorchGroup(pair, timeout_s=AMPLE_S)
        assert group.rank == rank - 1
        assert group.global_ranks == (1, 2)
        out.append(exchange_once(group))
        group.leave()
    everybody.leave()
    dist.barrier()
    dist.destroy_process_group()
    return out


def test_a_process_group_of_the_user_carries_rounds() -> None:
    results = run_ranks(3, through_process_group)
    assert same([result[0] for result in results]).members == (0, 1, 2)
    assert same([result[1] for result in results]).reduced
    assert same([result[2] for result in results[1:]]).members == (0, 1)


def through_mesh(rank: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("region", "shard"))
    with pytest.raises(ValueError, match="name the one"):
        TorchGroup.from_mesh(mesh)
    group = TorchGroup.from_mesh(mesh, "region", timeout_s=AMPLE_S)
    out = exchange_once(group), group.global_ranks
    group.leave()
    dist.destroy_process_group()
    return out


def test_one_dimension_of_a_device_mesh_carries_rounds() -> None:
    results = run_ranks(4, through_mesh)
    assert [ranks for _, ranks in results] == [(0, 2), (1, 3), (0, 2), (1, 3)]
    assert all(exchange.members == (0, 1) for exchange, _ in results)


def host_the_store(rank: int) -> Any:
    groups = [TorchGroup.from_env(timeout_s=AMPLE_S) for _ in range(2)]  # two groups of one world do not meet each other's keys
    out = [exchange_once(group) for group in groups]
    for group in groups:
        group.leave()
    return out


def test_rank_0_hosts_the_store_where_no_agent_does() -> None:
    assert same(run_ranks(2, host_the_store, agent_store=False))[1].members == (0, 1)


def test_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="lacks RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        TorchGroup.from_env()
    for name, value in {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="ranks are 0 to 1"):
        TorchGroup.from_env()
    for name, value in (("RANK", "one"), ("MASTER_PORT", "99999"), ("MASTER_PORT", "-1")):
        with monkeypatch.context() as spoiled:
            spoiled.setenv(name, value)
            with pytest.raises(ValueError, match=f"'{name}': '{value}'"):
                TorchGroup.from_env()
    with pytest.raises(ValueError, match="is not a process group"):
        TorchGroup([])  # type: ignore[arg-type]
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConnectionError, match="MASTER_PORT=1 within 1 s"):
        TorchGroup.from_env(join_timeout_s=1)


def name_a_wrong_interface(rank: int) -> str:
    os.environ["GLOO_SOCKET_IFNAME"] = "nope0"
    with pytest.raises(ConnectionError) as caught:
        TorchGroup.from_env(join_timeout_s=AMPLE_S)
    return str(caught.value)


def test_a_wrong_interface_is_named_with_the_remedy() -> None:
    (said,) = set(run_ranks(2, name_a_wrong_interface))
    assert "'nope0'" in said
    assert "set GLOO_SOCKET_IFNAME to one of lo" in said


# -- deaths --------------------------------------------------------------------------------------------------------------------


def expire(group: Group, timeout_s: float) -> None:
    """Exchanges from now on end by `timeout_s`: half of it for the data, the rest to find out who is missing."""
    group._patience = Patience(timeout_s)


def outlive(rank: int, victim: int, how: str) -> Any:
    """Two good rounds, then `victim` goes while the others wait in the third; the survivors do three more."""
    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    n = len(group.members)
    out: list[Any] = [exchange_once(group, i) for i in range(2)]
    if rank == victim:
        wait_for_keys(*(f"waiting{other}" for other in range(n) if other != victim))
        if how == "leave":
            group.leave()
            return None
        os.kill(os.getpid(), getattr(signal, how))
    began = time.monotonic()
    pending = begin(group, 2, payload_of(rank, 64))
    set_key(f"waiting{rank}")
    out.append(told(pending.wait()))
    seconds = time.monotonic() - began
    missing = pending.missing
    round_ = 3 if out[-1] else 2
    out += [exchange_once(group, round_ + i, reduce=bool(i)) for i in range(2)]
    described = group.describe()
    group.leave()
    return out, seconds, missing, described.missing, described.members


@pytest.mark.parametrize("how", ["SIGKILL", "leave"])
@pytest.mark.parametrize(("n", "victim"), [(3, 1), (4, 0), (4, 3)])
def test_survivors_finish_the_round_among_themselves_within_the_deadline(n: int, victim: int, how: str) -> None:
    results = run_ranks(n, outlive, victim, how, killed={victim} if how == "SIGKILL" else ())
    survivors = [rank for rank in range(n) if rank != victim]
    out, _, missing, described, members = same([(*results[rank][:1], 0, *results[rank][2:]) for rank in survivors])
    assert max(results[rank][1] for rank in survivors) < AMPLE_S
    assert missing == described
    assert missing.keys() == {victim}
    assert missing[victim] == ("gave no sign of life" if how == "SIGKILL" else "has left")
    assert out[1].members == tuple(range(n))
    assert out[2].members == tuple(survivors)
    assert out[2].skipped == missing
    assert out[3].members == out[4].members == members == tuple(survivors)
    assert out[3].payloads == b"".join(payload_of(rank, 64).numpy().tobytes() for rank in survivors)


def stop_one(rank: int) -> Any:
    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    out = [exchange_once(group)]
    if rank == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    expire(group, 6)
    began = time.monotonic()
    pending = begin(group, 1, payload_of(rank, 64))
    out.append(told(pending.wait()))
    seconds = time.monotonic() - began
    expire(group, AMPLE_S)
    out.append(exchange_once(group, 1))
    group.leave()
    return out, seconds, pending.missing


def test_a_stopped_member_costs_one_round_at_the_deadline() -> None:
    results = run_ranks(3, stop_one, killed={2})[:2]
    out = same([result[0] for result in results])
    assert out[0].members == (0, 1, 2)
    assert out[1] is None
    assert out[2].members == (0, 1)
    for _, seconds, missing in results:
        assert seconds < 6
        assert missing == {2: "gave no sign of life"}


def come_back(rank: int) -> Any:
    """Member 2 is stopped in an exchange, is counted as lost, and wakes up again."""
    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    pids = group.gather_bytes(str(os.getpid()).encode())
    if rank == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    expire(group, 6)
    out = [exchange_once(group)]
    expire(group, AMPLE_S)
    out.append(exchange_once(group))
    if rank == 0:
        os.kill(int((pids or [])[2]), signal.SIGCONT)
    error = group.error
    group.leave()
    return out, error


def test_a_member_that_wakes_up_after_it_was_counted_as_lost_takes_no_part() -> None:
    results = run_ranks(3, come_back)
    assert same(results[:2])[0][1].members == (0, 1)
    assert results[2][0] == [None, None]
    assert results[2][1]


def compute_too_long(rank: int) -> Any:
    """Member 1 begins the second round only after the others gave it up; an exchange fails for all of them or for none."""
    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    out: list[Any] = [exchange_once(group)]
    if rank == 1:
        wait_for_keys("gave up 0", "gave up 2")
    else:
        expire(group, 6)
    began = time.monotonic()
    pending = begin(group, 1, payload_of(rank, 64))
    out.append(told(pending.wait()))
    seconds = time.monotonic() - began
    set_key(f"gave up {rank}")
    expire(group, AMPLE_S)
    out.append(exchange_once(group, 1))
    described = group.describe()
    group.leave()
    return out, seconds, pending.error, pending.missing, described.missing


def test_a_late_member_fails_the_round_for_all_and_stays_a_member() -> None:
    results = run_ranks(3, compute_too_long)
    out = same([result[0] for result in results])
    assert out[0].members == out[2].members == (0, 1, 2)
    assert out[1] is None
    assert results[0][1] < 6
    assert results[1][1] < AMPLE_S / 4  # it is told at once, and waits for nobody
    assert results[0][3] == results[2][3] == {1: "is alive, but had not begun this exchange"}
    assert all("by the deadline" in result[2] and not result[4] for result in results)


def die_between_data_and_vote(rank: int) -> Any:
    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    out: list[Any] = [exchange_once(group)]
    if rank == 1:
        Arbiter.vote = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
    began = time.monotonic()
    out += [exchange_once(group, i) for i in (1, 2)]
    group.leave()
    return out, time.monotonic() - began


def test_a_payload_is_not_counted_when_its_sender_died_before_the_vote() -> None:
    results = run_ranks(3, die_between_data_and_vote, killed={1})
    out = same([results[rank][0] for rank in (0, 2)])
    assert [exchange.members for exchange in out] == [(0, 1, 2), (0, 2), (0, 2)]
    assert max(results[rank][1] for rank in (0, 2)) < AMPLE_S / 2  # 4 s on a quiet machine


def dwindle(rank: int) -> Any:
    """Ranks 3, 2 and 1 die one after the other, between rounds, while rank 0 goes on."""
    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    out: list[Any] = []
    for round_ in range(4):
        if rank == 4 - round_:
            os.kill(os.getpid(), signal.SIGKILL)
        pending = begin(group, round_, payload_of(rank, 64))
        out.append((told(pending.wait()), pending.error))
    assert begin(group, 9, payload_of(rank, 64)).done()
    return out, begin(group, 9, payload_of(rank, 64)).error, group.members


def test_the_last_survivor_is_told_that_it_is_alone() -> None:
    out, error, members = run_ranks(4, dwindle, killed={1, 2, 3})[0]
    assert [exchange and exchange.members for exchange, _ in out] == [(0, 1, 2, 3), (0, 1, 2), (0, 1), None]
    assert out[3][1].startswith("alone: ")
    assert error == out[3][1]
    assert members == (0,)


def lose_the_store(rank: int) -> Any:
    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    exchange_once(group)
    if rank == 0:
        wait_for_keys("ready1", "ready2")
        os.kill(os.getpid(), signal.SIGKILL)
    set_key(f"ready{rank}")
    began = time.monotonic()
    pending = begin(group, 1, payload_of(rank, 64))
    assert pending.wait() is None
    seconds = time.monotonic() - began
    group.leave()
    return pending.error, seconds


def test_without_the_store_survivors_fail_fast() -> None:
    for error, seconds in run_ranks(3, lose_the_store, killed={0}, agent_store=False)[1:]:
        assert "store" in error
        assert seconds < AMPLE_S / 2  # at once, but for the name server that torch asks before it says so


def lose_one_of_a_given_group(rank: int, how: str) -> Any:
    dist.init_process_group("gloo")
    group = TorchGroup(dist.new_group([0, 1, 2]), timeout_s=AMPLE_S)
    out: list[Any] = [exchange_once(group)]
    if rank == 2:
        if how == "leave":
            group.leave()
            wait_for_keys("done0", "done1")  # its own group stays open, as it is not ours to close
            return None
        os.kill(os.getpid(), signal.SIGKILL)
    out += [exchange_once(group, i + 1) for i in range(2)]
    set_key(f"done{rank}")
    group.leave()
    return out


@pytest.mark.parametrize("how", ["SIGKILL", "leave"])
def test_survivors_of_a_given_group_go_on_in_a_private_one(how: str) -> None:
    out = same(run_ranks(3, lose_one_of_a_given_group, how, killed={2} if how == "SIGKILL" else ())[:2])
    assert out[0].members == (0, 1, 2)
    assert out[1].members == out[2].members == (0, 1)


# -- bytes that differ by path -------------------------------------------------------------------------------------------------


def receive_differently(rank: int) -> Any:
    """Rank 1 receives other bytes than the rest: once in an all-gather, once in one shard."""
    from thinwire.comms import torch_group

    group = TorchGroup.from_env(timeout_s=AMPLE_S)
    link = torch_group._TorchLink
    plain = {kind: getattr(link, kind) for kind in ("all_gather", "all_to_all")}

    def damaged(kind: str, link: Any, frames: torch.Tensor) -> Any:
        arrivals = plain[kind](link, frames)
        if rank == 1:
            arrivals[2][-1] ^= 1
        return arrivals

    out = []
    for kind, reduce in (("all_gather", False), ("all_to_all", True), ("all_gather", True)):
        setattr(link, kind, lambda link, frames, kind=kind: damaged(kind, link, frames))
        pending = begin(group, 0, payload_of(rank, 64), reduce=reduce)
        out.append((told(pending.wait()), pending.error))
        setattr(link, kind, plain[kind])
    out.append((exchange_once(group), None))
    group.leave()
    return out


def test_when_members_receive_different_bytes_nobody_applies_anything() -> None:
    results = run_ranks(3, receive_differently)
    for i, why in enumerate(["different bytes", "the same shards", "different bytes"]):
        assert all(result[i][0] is None and why in result[i][1] for result in results), [result[i] for result in results]
    assert same([result[3][0] for result in results]).members == (0, 1, 2)
