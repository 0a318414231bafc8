"""The rows of the table: how learners of one small policy are fed, and what each row must reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.rl.judged import Judged
from benchmarks.rl.proposed import Family, Proposed


@dataclass(frozen=True)
class Row:
    """`learners` policies from one warm start, each with `groups` groups of its own an update, of weights `staleness` updates old, and
    `foreign` groups of the others. With `codec` they average every `sync_every` updates."""

    name: str
    label: str
    learners: int = 1
    groups: int = 16
    foreign: int = 0
    staleness: int = 0
    ratio: Literal["behaviour", "own"] = "behaviour"
    codec: str | None = None
    sync_every: int = 10
    nesterov: bool = False  # outer momentum, the default of dense codecs, instead of plain averaging
    judged: Judged = "nobody"  # who gives the rewards instead of the environment
    proposed: Proposed = "nobody"  # who names the level of each update, where tasks have levels
    family: Family = "sort"  # of those tasks

    def __post_init__(self) -> None:
        if min(self.learners, self.groups) < 1 or min(self.foreign, self.staleness) < 0:
            raise ValueError(f"{self}; learners and groups are at least 1, foreign and staleness at least 0")
        if self.foreign > self.groups * (self.learners - 1):
            raise ValueError(f"{self.name}: {self.foreign} foreign groups, but the others have {self.groups * (self.learners - 1)}")
        if self.codec is not None and self.learners < 2:
            raise ValueError(f"{self.name}: one learner has nobody to average with")
        if self.proposed != "nobody" and (self.staleness or self.learners > 1):
            raise ValueError(f"{self.name}: levels are named for one learner, on policy")


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("stale-0", "1 learner, on policy"),
        Row("stale-4", "staleness 4", staleness=4),
        Row("stale-16", "staleness 16", staleness=16),
        Row("stale-4-own", "staleness 4, no importance weights", staleness=4, ratio="own"),
        Row("stale-16-own", "staleness 16, no importance weights", staleness=16, ratio="own"),
        Row("alone-8", "2 learners, 8 groups each, nothing shared", learners=2, groups=8),
        Row("average-int4", "2 learners, 8 groups each, averaged every 10, int4", learners=2, groups=8, codec="int4"),
        Row("average-int8", "2 learners, 8 groups each, averaged every 10, int8", learners=2, groups=8, codec="int8"),
        Row("average-int4-nesterov", "the same in int4, Nesterov .7/.9", learners=2, groups=8, codec="int4", nesterov=True),
        Row("share-4+0", "2 learners, 4 groups each, nothing shared", learners=2, groups=4),
        Row("share-4+4", "2 learners, 4 groups each + 4 of the other", learners=2, groups=4, foreign=4),
        Row("share-4+4-own", "the same, no importance weights", learners=2, groups=4, foreign=4, ratio="own"),
        Row("judges-honest", "rewards of 3 honest judges, clipped median", judged="honest"),
        Row("judges-median", "rewards of 3 judges, one adversarial, clipped median", judged="median"),
        Row("judges-mean", "the same, mean of their scores", judged="mean"),
        Row("levels-proposer", "2 to 8 digits, the proposer names how many", proposed="proposer"),
        Row("levels-in-turn", "2 to 8 digits in turn", proposed="in turn"),
        Row("levels-hardest", "8 digits", proposed="hardest"),
        Row("sums-proposer", "sums of 1 to 4 digits, the proposer names how many", proposed="proposer", family="addition"),
        Row("sums-in-turn", "sums of 1 to 4 digits in turn", proposed="in turn", family="addition"),
        Row("sums-hardest", "sums of 4 digits", proposed="hardest", family="addition"),
    )
}
QUICK = ("stale-0", "stale-16", "stale-16-own")


def checks(
    medians: dict[str, dict[int, float]], bytes_ratio: float | None, solve_rates: Mapping[str, Sequence[float | None]]
) -> dict[str, bool]:
    """What had to hold, of the rows that are there: `medians` over seeds of the accuracy after so many updates.

    `solve_rates`: of updates 21 to 30, of each seed, of the rows with a proposer.
    """
    found: dict[str, bool] = {}

    def at(name: str, updates: int) -> float | None:
        return medians.get(name, {}).get(updates)

    def hold(claim: str, *needed: float | None, so: bool) -> None:
        if None not in needed:
            found[claim] = so

    fresh, four, sixteen, own = at("stale-0", 60), at("stale-4", 80), at("stale-16", 80), at("stale-16-own", 80)
    fresh_end, averaged = at("stale-0", 80), at("average-int4", 80)
    shared, alone = at("share-4+4", 80), at("share-4+0", 80)
    judged_median, judged_mean = at("judges-median", 80), at("judges-mean", 80)
    hold("on policy: >= .70 after 60 updates", fresh, so=(fresh or 0) >= 0.70)
    hold("staleness 4 within .05 of on policy", four, fresh_end, so=(four or 0) >= (fresh_end or 0) - 0.05)
    hold("staleness 16 with importance weights >= .65", sixteen, so=(sixteen or 0) >= 0.65)
    hold("staleness 16 without < .4", own, so=(own or 0) < 0.4)
    hold("2 learners averaged in int4 >= .83", averaged, so=(averaged or 0) >= 0.83)
    hold("4 + 4 shared >= 4 + 0 by .05", shared, alone, so=(shared or 0) >= (alone or 0) + 0.05)
    hold("1 of 3 judges adversarial, clipped median: >= .65", judged_median, so=(judged_median or 0) >= 0.65)
    hold("1 of 3 judges adversarial, mean: < .4", judged_mean, so=(judged_mean or 0) < 0.4)
    for name, rates in solve_rates.items():
        hold(f"{name}: .3 to .7 are solved in updates 21 to 30", *rates, so=all(0.3 <= (rate or 0) <= 0.7 for rate in rates))
    hold("int4 averaging sends <= 1/50 of DDP's bytes", bytes_ratio, so=(bytes_ratio or 0) >= 50)
    return found
