import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.kernels import demo, ours, peers, report
from benchmarks.kernels.__main__ import OPERATIONS, Options
from benchmarks.kernels.index import places
from benchmarks.kernels.operation import Lineup, Operation
from benchmarks.kernels.picture import draw
from benchmarks.kernels.pool import MB, Pool
from thinwire.kernels import dct, native

ROOT = Path(__file__).parents[2]
SHAPE = (128, 192)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def measured(own: list[float], probed: list[list[float]], peer: list[float | None]) -> dict[str, Any]:
    notes = {"operation": "o", "elements": 10, "probed": probed, "peers": {"DeMo": peer}, "ours": True}
    return {"stats": {"data": own}, "extra_info": notes}


def lineup(*_: object) -> Lineup:
    raise AssertionError("not measured here")


def operation(**others: Any) -> Operation:
    return Operation("o", lineup, "mul_", 1.5, {"DeMo": 3.0}, **others)


def only_row(found: list[dict[str, Any]], *, isa: int = 2, authors: bool = True) -> dict[str, Any]:
    [row] = report.rows([operation()], found, isa=isa, authors=authors)
    return row


# The command.


@pytest.mark.slow
def test_the_command_measures_every_row_and_prints_the_table(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    run = [sys.executable, "-m", "benchmarks.kernels", "--quick", "--results", str(path)]
    printed = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    record = json.loads(path.read_text())
    assert {"torch", "numpy", "isa", "cpu", "commit", "DeMo", "rounds"} <= set(record)
    expected = [operation.name for operation in OPERATIONS if native.available() or not operation.alone]
    assert [row["operation"] for row in record["rows"]] == expected
    assert all(name in printed for name in ("fused decode, W=8", "read-sum", "np.packbits"))
    for row in record["rows"]:
        assert ("ours" in row) == native.available()
        assert ("probe" in row) == ("x_probe" in row) or not native.available()
        assert all(peer["median"] >= peer["min"] > 0 for peer in row["peers"].values())
    assert report.markdown(record["rows"]).count("\n") == len(expected) + 1
    draw(tmp_path / "kernels.png", record)
    assert (tmp_path / "kernels.png").exists() == native.available()


def test_a_part_of_the_table_never_replaces_the_whole() -> None:
    assert Options().file == ROOT / "benchmarks/results/kernels.json"
    assert Options(isa=1).file == ROOT / "benchmarks/results/kernels-isa1.json"
    assert Options(only="fused").file is None
    assert Options(quick=True).file is None
    with pytest.raises(ValueError, match="no row contains 'nonsense'"):
        Options(only="nonsense")
    with pytest.raises(ValueError, match="--show prints a whole table"):
        Options(only="fused", show=True)


# The numbers.


def test_a_machine_that_slows_down_for_a_while_changes_no_ratio() -> None:
    steady = measured([3.0, 3.0, 3.0], [[2.0, 2.0]] * 3, [12.0, 12.0, 12.0])
    slowed = measured([3.0, 30.0, 6.0], [[2.0, 2.0], [20.0, 20.0], [4.0, 4.0]], [12.0, 120.0, 24.0])
    assert only_row([steady])["x_probe"]["x"] == only_row([slowed])["x_probe"]["x"] == 1.5
    assert only_row([steady])["peers"]["DeMo"]["x"] == only_row([slowed])["peers"]["DeMo"]["x"] == 4.0


def test_a_row_says_ns_an_element_and_how_far_repetitions_differ() -> None:
    row = only_row([measured([3e-9, 5e-9, 4e-9], [[2e-9, 2e-9]] * 3, [8e-9] * 3), measured([2e-9] * 3, [[2e-9, 2e-9]] * 3, [8e-9] * 3)])
    assert row["ours"] == {"median": 0.25, "min": 0.2}
    assert (row["x_probe"]["least"], row["x_probe"]["most"]) == (1.0, 2.0)


def test_a_slow_peer_counts_in_the_rounds_it_was_measured_in() -> None:
    row = only_row([measured([1.0, 2.0, 4.0], [[1.0, 1.0]] * 3, [8.0, 8.0, None])])
    assert row["peers"]["DeMo"]["x"] == 6.0


@pytest.mark.parametrize(("probe", "peer", "met"), [(1.4, 3.1, True), (1.6, 3.1, False), (1.4, 2.9, False)])
def test_a_row_is_met_when_every_goal_is(probe: float, peer: float, met: bool) -> None:
    assert only_row([measured([probe], [[1.0, 1.0]], [peer * probe])])["met"] is met


def test_goals_leave_room_without_avx512() -> None:
    found = [measured([1.9], [[1.0, 1.0]], [2.5 * 1.9])]
    assert (only_row(found)["met"], only_row(found, isa=1)["met"]) == (False, True)


def test_load_on_one_core_does_not_hide_two_threads() -> None:
    found = measured([5.0, 1.0, 9.0], [], [2.0, 2.0, 3.0])
    [row] = report.rows([Operation("o", lineup, beats={"DeMo": 1.8}, wall=True)], [found], isa=2, authors=True)
    assert (row["peers"]["DeMo"]["x"], row["met"]) == (2.0, True)


def test_only_the_authors_code_counts_against_the_goal() -> None:
    assert only_row([measured([1.0], [[1.0, 1.0]], [1.0])], authors=False)["peers"]["DeMo"]["goal"] is None


def test_no_slice_comes_back_before_the_others() -> None:
    pool = Pool(1)
    slices = pool.slices(MB // 16)
    assert len({s.x.data_ptr() for s in slices}) == len(slices) == 4
    assert sum(s.x.nbytes for s in slices) == MB
    assert len(pool.slices(MB // 16, lambda: {"own": torch.zeros(3)}, cargo_nbytes=MB)) == 2


# What it is compared with computes what it should.


@pytest.mark.parametrize(("pack", "qmax"), [(peers.int8, 127), (peers.int8_stochastic, 127), (peers.int4, 7)])
def test_integer_peers_are_within_a_step(pack: Any, qmax: int) -> None:
    x, back = normal(4096), torch.empty(4096)
    (peers.from_int4 if qmax == 7 else peers.from_int8)(*pack(x), back)
    step = x.view(-1, peers.BLOCK).abs().amax(1, keepdim=True) / qmax
    assert ((back - x).view(-1, peers.BLOCK).abs() <= step * 1.001).all()


def test_fp4_is_the_nearest_value_of_e2m1() -> None:
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    x = normal(2048)
    packed, scale = peers.fp4(x)
    codes = torch.stack((packed & 15, packed >> 4), 2).flatten(1).to(torch.int64)
    errors = (x.view(-1, 1024, 1) / scale[:, :, None] - values).abs()
    assert torch.allclose(errors.gather(2, codes[:, :, None]), errors.amin(2, keepdim=True))


def test_the_sign_of_torch_is_that_of_numpy() -> None:
    x = normal(2048)
    assert peers.sign(x)[0].flatten().tolist() == np.packbits(x.numpy() < 0, bitorder="little").tolist()


def test_the_matrix_product_is_our_transform() -> None:
    x, out = normal(3 * 4096), torch.empty(3 * 4096)
    peers.dct_tiles(x, out)
    mine = dct.dct_tiles(x.view(-1, 4096), 64).view(-1, 64, 64).transpose(1, 2)
    assert torch.allclose(out.view(-1, 64, 64), mine, atol=1e-4)


def test_the_compiled_steps_lose_nothing() -> None:
    gradient, state = normal(*SHAPE), normal(6, 4096) * 0.1
    y = (peers.BASIS @ peers.tiles_of(gradient) @ peers.BASIS.T).reshape(6, 4096)
    left = state.clone()
    codes, index, scale = peers.encode_top_k(gradient, left, 0.9, 0.5, 32)
    sent = torch.zeros(6, 4096).scatter(1, index.to(torch.int64), codes * scale)
    assert torch.allclose(left + sent, state * 0.9 + y * 0.5, atol=1e-5)
    left = state.clone()
    negative, place, size = peers.encode_block_max(gradient, left, 0.9, 64)
    sent = torch.zeros(6, 64, 64).scatter(2, place.to(torch.int64)[:, :, None], torch.where(negative[:, :, None], -size, size))
    assert torch.allclose(left + sent.view(6, 4096), state * 0.9 + gradient.view(6, 4096), atol=1e-5)


def test_a_receiver_ends_with_the_weights_of_ours() -> None:
    starts, weight = [normal(*SHAPE) + i for i in range(3)], normal(*SHAPE)
    expected, plan = weight.clone(), ours.plan("dct-topk32-int8", weight.numel())
    summed = sum(plan.decode(plan.encode(tiled(start, plan))) for start in starts)
    assert isinstance(summed, torch.Tensor)
    update = untiled(plan.inverse(summed / 3))
    sent = [peers.encode_top_k(start, torch.zeros(6, 4096), 0.0, 1.0, 32) for start in starts]
    peers.decode_top_k(*(torch.stack(part) for part in zip(*sent, strict=True)), weight, 0.01, 0.5)
    moved = (weight - expected * 0.5) / 0.01
    assert (torch.sign(-update) == moved.round()).float().mean() > 0.999  # a sum of nearly 0 may go either way


def tiled(x: torch.Tensor, plan: Any) -> torch.Tensor:
    done: torch.Tensor = plan.forward(peers.tiles_of(x).reshape(-1, 4096))
    return done


def untiled(x: torch.Tensor) -> torch.Tensor:
    return x.view(2, 3, 64, 64).transpose(1, 2).reshape(SHAPE)


def test_demo_written_here_sends_the_largest_and_keeps_the_rest() -> None:
    gradient, delta = normal(*SHAPE), torch.zeros(SHAPE)
    here = demo.DeMo(delta, code=None)
    sent = here.encode(delta, gradient)
    whole = here.transform(gradient * demo.LR)
    dense = torch.zeros_like(whole).flatten(2).scatter(2, sent.places, sent.values).view(whole.shape)
    assert torch.allclose(here.transform(delta) + dense, whole, atol=1e-6)
    assert (sent.values.abs().amin(2) >= here.transform(delta).flatten(2).abs().amax(2) - 1e-6).all()
    weight = torch.zeros(SHAPE)
    here.decode(weight, [sent, sent])
    assert set(weight.unique().tolist()) <= {torch.tensor(demo.LR).item(), -torch.tensor(demo.LR).item()}


def test_demo_written_here_is_the_authors() -> None:
    if demo.authors() is None:
        pytest.skip("needs demo.py of github.com/bloc97/DeMo, and einops, on PYTHONPATH")
    theirs, here = demo.DeMo(torch.zeros(SHAPE), demo.authors()), demo.DeMo(torch.zeros(SHAPE), code=None)
    gradients, deltas = [normal(*SHAPE), normal(*SHAPE) - 1], [torch.zeros(SHAPE), torch.zeros(SHAPE)]
    sent = [[one.encode(delta, gradient) for gradient in gradients] for one, delta in zip((theirs, here), deltas, strict=True)]
    assert torch.allclose(*deltas, atol=1e-6)
    weights = [torch.zeros(SHAPE), torch.zeros(SHAPE)]
    theirs.decode(weights[0], sent[0])
    here.decode(weights[1], sent[1])
    assert (weights[0] == weights[1]).float().mean() > 0.999


def test_places_are_ascending_and_below_the_chunk() -> None:
    index = places(3000, 32).to(torch.int64)
    assert index.shape == (3000, 32)
    assert (index[:, 1:] > index[:, :-1]).all()
    assert index.max() < 4096
