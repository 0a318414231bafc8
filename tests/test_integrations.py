"""Adapters for frameworks and loggers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.optim.problem import adamw, learn, model, run_members
from thinwire import DiLoCo, LocalGroup
from thinwire.integrations.scalars import ours, scalars, to


def rounds(on_round: Any) -> DiLoCo:
    """Two rounds of two members, the first of which tells `on_round`."""

    def member(rank: int, group: LocalGroup) -> DiLoCo:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=2, group=group, on_round=on_round if rank == 0 else None)
        for step in range(4):
            learn(net, opt, step, rank)
        return opt

    return run_members(2, member)[0]


def test_an_optimizer_is_found_below_what_frameworks_put_around_it() -> None:
    opt = DiLoCo(torch.optim.SGD(model().parameters(), lr=0.1))
    assert ours(opt) is opt
    assert ours(SimpleNamespace(optimizer=SimpleNamespace(_optimizer=opt))) is opt
    for wrong in (None, adamw(model()), SimpleNamespace(optimizer=adamw(model()))):
        with pytest.raises(TypeError, match=r"exchanges nothing; wrap it: thinwire.DiLoCo\(torch.optim.AdamW"):
            ours(wrong)


def test_curves_go_to_tensorboard_and_to_runs_that_log() -> None:
    points: list[tuple[str, float, int]] = []
    opt = rounds(to(SimpleNamespace(add_scalar=lambda *point: points.append(point))))
    assert {name for name, _, _ in points} == {
        f"thinwire/{name}" for name in ("members", "sent_mb", "received_mb", "delta_norm", "residual_norm")
    }
    assert [at for name, _, at in points if name == "thinwire/members"] == [0, 1]
    told = scalars(opt.stats())
    assert told["thinwire/rounds"] == told["thinwire/members"] == 2
    sent = sum(value for name, value, _ in points if name == "thinwire/sent_mb")
    assert sent == pytest.approx(told["thinwire/sent_mb"])

    lines: list[dict[str, float]] = []
    rounds(to(SimpleNamespace(log=lines.append)))
    assert [line["thinwire/round"] for line in lines] == [0, 1]
    with pytest.raises(TypeError, match="give a SummaryWriter, a wandb run or a trackio run"):
        to(object())


def test_the_end_of_a_run_is_no_point_of_its_curves() -> None:
    lines: list[dict[str, float]] = []

    def member(rank: int, group: LocalGroup) -> DiLoCo:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=2, group=group, on_round=to(SimpleNamespace(log=lines.append)) if rank == 0 else None)
        for step in range(4):
            learn(net, opt, step, rank)
        opt.close()
        return opt

    last = run_members(2, member)[0].stats().last
    assert last is not None
    assert not last.members  # everybody has said that it is done
    assert [line["thinwire/members"] for line in lines] == [2, 2]


def test_a_real_summary_writer_takes_them(tmp_path: Any) -> None:
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(tmp_path)
    rounds(to(writer))
    writer.close()
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(tmp_path))
    reader.Reload()
    assert [event.step for event in reader.Scalars("thinwire/sent_mb")] == [0, 1]
