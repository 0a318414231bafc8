"""One rollout from commitment to verdict: the honest one is accepted, and every lie has its own word."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.comms.verify.tiny import Tiny
from thinwire.comms.verify import session
from thinwire.comms.verify.activations import UnprovableError, cut, measure, prove
from thinwire.comms.verify.beacon import HashChain, HashChainBeacon, NotYetError
from thinwire.comms.verify.challenge import Rollout, commitment
from thinwire.comms.verify.session import REASONS, Committed, Verifier
from thinwire.comms.verify.thresholds import Thresholds, Verdict, calibrate

RUN, PROMPT, COMPLETION = b"run", 8, 128
WEIGHTS, OTHER = b"1" * 32, b"2" * 32
ANN, BOB = b"a" * 32, b"b" * 32
MODEL = Tiny()


def tokens(first: int, count: int) -> Tensor:
    return torch.randint(64, (1000, PROMPT + COMPLETION), generator=torch.Generator().manual_seed(3))[first : first + count]


@pytest.fixture(scope="module")
def thresholds() -> Thresholds:
    said = tokens(0, 20)
    pairs = zip(MODEL.decoded(said)[:, PROMPT:], MODEL.states(said)[:, PROMPT:], strict=True)
    return calibrate([measure(prove(made), [own[rows] for rows in cut(*own.shape)]) for made, own in pairs])


@pytest.fixture(scope="module")
def honest() -> list[Rollout]:
    said = tokens(500, 3)
    pairs = zip(said, MODEL.decoded(said)[:, PROMPT:], strict=True)
    return [Rollout(each.tolist(), [-4.0] * COMPLETION, prove(made)) for each, made in pairs]


class Scene:
    """A verifier, the beacon of one party, and what a worker says."""

    def __init__(self, thresholds: Thresholds, **options: Any) -> None:
        self.chain = HashChain(RUN, 100, bytes(32))
        self.beacon = HashChainBeacon(RUN, {ANN: self.chain.anchor})
        self.verifier = Verifier(RUN, self.beacon, thresholds, width=MODEL.width, **options)
        self.prefilled: list[int] = []

    def commit(self, rollout: Rollout, worker: bytes = ANN, n: int = 0, round_: int = 0, weights: bytes = WEIGHTS) -> Committed:
        digest = commitment(rollout, weights_sha256=weights, worker=worker, run=RUN, n=n)
        return Committed(worker, n, round_ or self.beacon.first_unknown(), digest, weights)

    def tick(self) -> None:
        self.beacon.reveal(ANN, self.chain.link(self.beacon.tick))

    def states(self, said: Sequence[int]) -> Tensor:
        self.prefilled.append(len(said))
        return MODEL.states(said)

    def judge(self, committed: Committed, rollout: Rollout) -> Verdict:
        found = self.verifier.judge(committed, rollout, WEIGHTS, self.states)
        assert found.reason in REASONS
        return found

    def whole(self, rollout: Rollout, **changed: Any) -> Verdict:
        """From commitment to verdict."""
        committed = self.commit(rollout, **changed)
        refused = self.verifier.hear(committed)
        self.tick()
        return refused or self.judge(committed, rollout)


@pytest.fixture
def scene(thresholds: Thresholds) -> Scene:
    return Scene(thresholds)


def test_an_honest_rollout_is_accepted_by_one_prefill(scene: Scene, honest: list[Rollout]) -> None:
    found = scene.whole(honest[0])
    assert (found.accepted, found.reason) == (True, "accepted"), found
    assert scene.prefilled == [PROMPT + COMPLETION]


def test_no_verdict_before_the_challenge_exists(scene: Scene, honest: list[Rollout]) -> None:
    committed = scene.commit(honest[0])
    assert scene.verifier.hear(committed) is None
    with pytest.raises(NotYetError):
        scene.judge(committed, honest[0])
    scene.tick()
    assert scene.judge(committed, honest[0]).accepted


def test_a_commitment_to_a_challenge_that_may_be_known_is_refused(scene: Scene, honest: list[Rollout]) -> None:
    scene.tick()
    for round_ in (1, 2 + session.AHEAD + 1):
        refused = scene.verifier.hear(scene.commit(honest[0], round_=round_))
        assert refused is not None
        assert refused.reason == "known challenge"
    assert scene.judge(scene.commit(honest[0], round_=1), honest[0]).reason == "no commitment"


def test_two_verifiers_draw_the_same_chunks(thresholds: Thresholds, honest: list[Rollout]) -> None:
    one, other = (Scene(thresholds, count=1) for _ in range(2))
    assert other.whole(honest[1], n=77).accepted  # has seen more than the first one
    other.beacon, other.chain = one.beacon, one.chain
    other.verifier._beacon = one.beacon
    committed = [one.commit(honest[0], n=n) for n in range(6)]
    for each in committed:
        assert one.verifier.hear(each) is None
        assert other.verifier.hear(each) is None
    one.tick()
    for each in committed[:1]:
        assert one.judge(each, honest[0]) == other.judge(each, honest[0])
    assert one.prefilled == other.prefilled[1:]


def test_only_the_chunks_that_are_drawn_count_and_only_they_are_prefilled(thresholds: Thresholds, honest: list[Rollout]) -> None:
    zero = b"\xff\xd9" + bytes(256)
    half_made = honest[0]._replace(proofs=[*honest[0].proofs[:3], zero])
    found = set()
    for n in range(24):
        scene = Scene(thresholds, count=1)
        verdict = scene.whole(half_made, n=n)
        found.add((verdict.accepted, scene.prefilled[0] - PROMPT))
    assert found == {(True, 32), (True, 64), (True, 96), (False, 128)}


def test_a_share_of_zero_prefills_is_a_share_of_rollouts_accepted_unseen(thresholds: Thresholds, honest: list[Rollout]) -> None:
    reasons = []
    for n in range(24):
        scene = Scene(thresholds, share=0.2)
        reasons.append(scene.whole(honest[0], n=n).reason)
        assert bool(scene.prefilled) == (reasons[-1] == "accepted")
    assert 0 < reasons.count("accepted") < 14


def test_a_sketch_of_zeros_is_refused(scene: Scene, honest: list[Rollout]) -> None:
    assert scene.whole(honest[0]._replace(proofs=[bytes(258)] * 4), n=0).reason == "malformed"
    assert scene.whole(honest[1]._replace(proofs=[b"\xff\xd9" + bytes(256)] * 4), n=1).reason == "activations"


def test_other_weights_are_refused_named_or_not(scene: Scene, honest: list[Rollout]) -> None:
    assert scene.whole(honest[0], weights=OTHER, n=0).reason == "other weights"
    assert scene.prefilled == []
    said = tokens(500, 1)
    made = MODEL.noisy(0.02).decoded(said)[0, PROMPT:]
    assert scene.whole(honest[0]._replace(proofs=prove(made)), n=1).reason == "activations"


def test_a_replay_is_refused(scene: Scene, honest: list[Rollout]) -> None:
    committed = scene.commit(honest[0])
    assert scene.verifier.hear(committed) is None
    again = scene.verifier.hear(committed)
    assert again is not None
    assert again.reason == "replay"
    scene.tick()
    assert scene.judge(committed, honest[0]).accepted
    assert scene.judge(committed, honest[0]).reason == "no commitment"
    late = scene.verifier.hear(committed)
    assert late is not None
    assert late.reason == "known challenge"
    assert scene.whole(honest[1], n=0).reason == "replay"  # its number
    assert scene.whole(honest[0], n=1).reason == "replay"  # its tokens
    assert len(scene.prefilled) == 1


def test_a_copy_is_refused_and_who_committed_first_is_right(scene: Scene, honest: list[Rollout]) -> None:
    first, second = scene.commit(honest[0]), scene.commit(honest[0], worker=BOB)
    assert scene.verifier.hear(first) is None
    stolen = replace(second, digest=first.digest)
    assert scene.verifier.hear(stolen) is None
    scene.tick()
    assert scene.judge(first, honest[0]).accepted
    assert scene.judge(stolen, honest[0]).reason == "not what was committed"
    assert scene.whole(honest[0], worker=BOB, n=1).reason == "copy"
    early, late = scene.commit(honest[1], n=1), scene.commit(honest[1], worker=BOB, n=2)
    assert scene.verifier.hear(early) is None
    assert scene.verifier.hear(late) is None
    scene.tick()
    scene.judge(late, honest[1])
    assert scene.judge(early, honest[1]).accepted


def test_what_was_revealed_has_to_be_what_was_committed(scene: Scene, honest: list[Rollout]) -> None:
    committed = scene.commit(honest[0])
    assert scene.verifier.hear(committed) is None
    scene.tick()
    for changed in (
        {"tokens": [*honest[0].tokens[:-1], 0 if honest[0].tokens[-1] else 1]},
        {"logprobs": [-3.0, *honest[0].logprobs[1:]]},
        {"proofs": honest[1].proofs},
    ):
        assert scene.judge(committed, honest[0]._replace(**changed)).reason == "not what was committed"
    assert scene.judge(replace(committed, n=1), honest[0]).reason == "no commitment"
    assert scene.judge(committed, honest[0]).accepted  # a false opening by another takes nothing from the worker


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": [-1] * 136},
        {"tokens": ["a"] * 136},
        {"tokens": None},
        {"tokens": list(range(100))},
        {"logprobs": [float("nan")] * 128},
        {"logprobs": ["x"] * 128},
        {"proofs": [None] * 4},
        {"proofs": ["x"]},
        {"proofs": 7},
    ],
)
def test_malformed_rollouts_are_refused_and_nothing_is_computed(scene: Scene, honest: list[Rollout], changed: dict[str, Any]) -> None:
    committed = scene.commit(honest[0])
    assert scene.verifier.hear(committed) is None
    scene.tick()
    assert scene.judge(committed, honest[0]._replace(**changed)).reason == "malformed"
    assert scene.prefilled == []


def test_too_many_or_too_few_proofs_and_too_short_rollouts_are_refused(scene: Scene, honest: list[Rollout]) -> None:
    assert scene.whole(honest[0]._replace(proofs=honest[0].proofs[:3])).reason == "malformed"
    short = Rollout(honest[1].tokens[: PROMPT + 1], [-40.0], [])
    assert scene.whole(short, n=1).reason == "short"
    assert scene.prefilled == []


@pytest.mark.parametrize(
    "changed", [{"worker": b"x"}, {"digest": b""}, {"weights_sha256": None}, {"n": -1}, {"round": 1 << 64}, {"n": "1"}, {"round": 1.0}]
)
def test_a_commitment_that_is_none_is_refused(scene: Scene, honest: list[Rollout], changed: dict[str, Any]) -> None:
    refused = scene.verifier.hear(replace(scene.commit(honest[0]), **changed))
    assert refused is not None
    assert refused.reason == "malformed"


def test_the_verifiers_own_failures_are_not_the_workers(scene: Scene, honest: list[Rollout]) -> None:
    committed = scene.commit(honest[0])
    assert scene.verifier.hear(committed) is None
    scene.tick()
    broken = torch.full((PROMPT + COMPLETION, MODEL.width), torch.nan, dtype=torch.bfloat16)
    with pytest.raises(UnprovableError, match="NaN"):
        scene.verifier.judge(committed, honest[0], WEIGHTS, lambda said: broken)
    with pytest.raises(ValueError, match="hidden_states returned"):
        scene.verifier.judge(committed, honest[0], WEIGHTS, lambda said: broken[1:])
    assert scene.judge(committed, honest[0]).accepted


def test_commitments_that_wait_are_bounded(scene: Scene, honest: list[Rollout], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PENDING", 4)
    monkeypatch.setattr(session, "WORKERS", 3)
    base = scene.commit(honest[0])
    for n in range(10):
        for worker in range(6):
            scene.verifier.hear(replace(base, worker=hashlib.sha256(bytes([worker])).digest(), n=n))
    assert sum(map(len, scene.verifier._heard.values())) <= 3 * 4
    wrong: list[dict[str, Any]] = [{"share": 0.0}, {"count": 0}, {"width": 0}]
    for options in wrong:
        with pytest.raises(ValueError, match="1 or more"):
            Verifier(RUN, scene.beacon, scene.verifier._thresholds, **{"width": 64, **options})
