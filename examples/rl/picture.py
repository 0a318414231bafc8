"""The end of the story: one picture and one sentence."""

from __future__ import annotations

from pathlib import Path

from examples.rl.live import View

MB = 1e6


def sentence(view: View, workers: int) -> str:
    """What was learnt, from how far away, and what was refused."""
    (_, before), (updates, _) = view.accuracy[0], view.accuracy[-1]
    after = [float(end["accuracy"]) for end in view.ended.values()]
    sent, received = (sum(view.nbytes[name][way] for name in view.ended) for way in (0, 1))
    seconds = max(float(end["at_s"]) for end in view.ended.values())
    ages = sorted(view.staleness.elements())
    middle = ages[len(ages) // 2] if ages else 0
    who, others = ("the trainer", "") if len(after) == 1 else (f"{len(after)} learners", " and each other")
    return (
        f"Accuracy {before:.2f} -> {' and '.join(f'{one:.2f}' for one in after)} in {updates} updates and {seconds:.0f} s: "
        f"{who} sent {sent / MB:.1f} MB and took {received / MB:.1f} MB from {workers} workers{others}, "
        f"groups were {middle} versions old in the middle; {view.refused.total()} were refused."
    )


def draw(path: Path, view: View) -> None:
    """Accuracy and reward, staleness, mismatch-KL and entropy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    (left, right), (below, last) = figure.subplots(2, 2)
    updates = [each["update"] for each in view.updates]
    left.plot(updates, [each["reward"] for each in view.updates], label="reward of rollouts", color="#9aa0aa")
    left.plot(*zip(*view.accuracy, strict=True), "o-", label="accuracy", color="#0072b2")
    left.set(title="accuracy", xlabel="updates", ylim=(0, 1))
    left.legend(frameon=False)
    ages = sorted(view.staleness)
    right.bar(ages, [view.staleness[age] for age in ages], color="#d55e00")
    right.set(title="staleness of groups trained on", xlabel="versions", xticks=ages)
    below.plot(updates, [max(each["mismatch_kl"], 1e-9) for each in view.updates], color="#00795a")
    below.set(title="mismatch-KL, nats a token", xlabel="updates", yscale="log")
    last.plot(updates, [each["entropy"] for each in view.updates], color="#b0568f")
    last.set(title="entropy, nats a token", xlabel="updates")
    figure.savefig(path)
