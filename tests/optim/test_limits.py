"""In a limit each method is a known one."""

import pytest
import torch

from tests.optim.problem import adamw, backward, learn, model, run_members, weights
from thinwire import DeMo, DiLoCo, LocalGroup, RoundInfo
from thinwire.comms import CODECS


def textbook_diloco(members: int, rounds: int, sync_every: int, lr: float, momentum: float) -> torch.Tensor:
    """DiLoCo, arXiv:2311.08105 algorithm 1, in one process with torch.optim.SGD as outer optimizer."""
    nets = [model() for _ in range(members)]
    opts = [adamw(net) for net in nets]
    anchor = torch.nn.Parameter(weights(nets[0]))
    outer = torch.optim.SGD([anchor], lr=lr, momentum=momentum, nesterov=momentum > 0)
    for round_ in range(rounds):
        for step in range(round_ * sync_every, (round_ + 1) * sync_every):
            for rank, (net, opt) in enumerate(zip(nets, opts, strict=True)):
                learn(net, opt, step, rank)
        anchor.grad = sum(anchor.detach() - weights(net) for net in nets) / members
        outer.step()
        for net in nets:
            torch.nn.utils.vector_to_parameters(anchor.detach().clone(), net.parameters())
    return anchor.detach()


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("members", [2, 3, 4])
def test_the_dense_codec_is_textbook_diloco(members: int, lr: float, momentum: float) -> None:
    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=3, codec="none", outer_lr=lr, outer_momentum=momentum, group=group)
        for step in range(12):
            learn(net, opt, step, rank)
        return weights(net)

    results = run_members(members, member)
    wanted = textbook_diloco(members, 4, 3, lr, momentum)
    for result in results:
        assert torch.equal(result, results[0])
        assert float((result - wanted).abs().max()) <= 1e-6


def test_identity_codec_every_step_is_data_parallel_sgd_bit_for_bit() -> None:
    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model()
        opt = DeMo(net.parameters(), lr=0.1, codec="none", decay=0.0, sign=False, group=group)
        for step in range(6):
            learn(net, opt, step, rank)
        return weights(net)

    nets = [model() for _ in range(3)]
    for step in range(6):
        for rank, net in enumerate(nets):
            net.zero_grad()
            backward(net, step, rank)
        for params in zip(*(net.parameters() for net in nets), strict=True):
            total = params[0].grad
            for p in params[1:]:
                total = total + p.grad
            with torch.no_grad():
                for p in params:
                    p.sub_(total / 3.0 * 0.1)
    for result in run_members(3, member):
        assert torch.equal(result, weights(nets[0]))


def test_demo_is_the_published_method() -> None:
    """Two members, one 64 x 64 tensor: decoupled momentum, DCT, top-k, mean over hits, sign, by the letter of 2411.19870."""
    from thinwire.kernels import dct

    steps, k, decay, lr = 20, 16, 0.9, 0.01
    gradients = torch.randn(2, steps, 64, 64, generator=torch.Generator().manual_seed(0))
    p, momenta = torch.zeros(64, 64), [torch.zeros(1, 4096), torch.zeros(1, 4096)]
    for t in range(steps):
        hits, total = torch.zeros(1, 4096), torch.zeros(1, 4096)
        for rank in range(2):
            m = momenta[rank].mul(decay).add(dct.dct_tiles(gradients[rank, t].reshape(1, 4096), 64))
            index = m.abs().topk(k).indices
            sent = torch.zeros_like(m).scatter(1, index, m.gather(1, index))
            momenta[rank] = m - sent
            total, hits = total + sent, hits + (sent != 0)
        p = p - lr * dct.idct_tiles(total / hits.clamp(min=1), 64).sign().view(64, 64)

    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.zeros(64, 64))
        opt = DeMo([weight], lr=lr, codec=f"dct-topk{k}-fp32", decay=decay, group=group)
        for t in range(steps):
            weight.grad = gradients[rank, t].clone()
            opt.step()
        return weight.detach()

    for result in run_members(2, member):
        assert torch.equal(result, p)


@pytest.mark.parametrize("method", ["diloco", "demo"])
@pytest.mark.parametrize("name", list(CODECS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_members_hold_the_same_bits_after_every_round(method: str, name: str, dtype: torch.dtype) -> None:
    def member(rank: int, group: LocalGroup) -> list[torch.Tensor]:
        net, seen = model(dtype=dtype), []
        if method == "diloco":
            opt = DiLoCo(adamw(net), sync_every=2, codec=name, group=group)
        else:
            opt = DeMo(net.parameters(), lr=1e-2, codec=name, group=group, verify_every=1)
        for step in range(6):
            learn(net, opt, step, rank)
            if step % 2:
                seen.append(weights(net))
        assert opt.stats().nothing_averaged == 0
        return seen

    first, *others = run_members(3, member)
    assert not torch.equal(first[0], first[-1])
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_order_of_arrival_does_not_matter() -> None:
    import threading

    def run(late: int) -> torch.Tensor:
        gate = threading.Event()

        def member(rank: int, group: LocalGroup) -> torch.Tensor:
            net = model()
            opt = DiLoCo(adamw(net), sync_every=2, group=group)
            for step in range(4):
                if step == 1 and rank == late:
                    assert gate.wait(20)
                learn(net, opt, step, rank)
                if step == 0 and rank == (late + 1) % 3:
                    gate.set()
            return weights(net)

        return run_members(3, member)[0]

    assert torch.equal(run(0), run(2))


def test_the_ledger_adds_up() -> None:
    told: dict[int, list[RoundInfo]] = {0: [], 1: [], 2: []}

    def member(rank: int, group: LocalGroup) -> DiLoCo:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=3, codec="topk", group=group, on_round=told[rank].append)
        for step in range(9):
            learn(net, opt, step, rank)
        return opt

    opt = run_members(3, member)[0]
    stats, rounds = opt.stats(), told[0]
    assert [info.round for info in rounds] == [0, 1, 2]
    assert stats.rounds == 3
    assert stats.last == rounds[-1]
    assert stats.wire_sent == sum(info.wire_sent for info in rounds)
    assert [info.wire_sent for info in rounds[1:]] == [2 * (72 + rounds[0].payload_sent // 2)] * 2
    assert rounds[0].wire_sent > rounds[1].wire_sent  # what members compared before the first round
    for info in rounds:
        assert info.members == (0, 1, 2)
        assert info.error is None
        assert info.steps == 3
        assert info.delta_norm > 0
        assert info.residual_norm > 0
        assert info.state_hash
        assert set(info.seconds) == {"compute", "encode", "exchange", "decode", "apply"}
        assert all(seconds >= 0 for seconds in info.seconds.values())
        assert info.ratio == info.dense_nbytes / info.wire_sent > 5
        assert info.dense_nbytes == int(2 * 2 / 3 * 4 * sum(p.numel() for p in model().parameters()))
    assert {info.state_hash for infos in told.values() for info in infos if info.round == 2} == {rounds[2].state_hash}
