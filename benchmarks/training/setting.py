"""What is measured: a row of the table is a method and its options; a run is a row with a seed."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.suite.record import key_of

METHODS = ("alone", "ddp", "powersgd", "post-local-sgd", "textbook", "torchft", "demo-textbook", "demo-reference", "diloco", "demo")
EVERY_STEP = ("ddp", "powersgd", "demo-textbook", "demo-reference", "demo")


@dataclass(frozen=True)
class Setting:
    """A method by name and the keyword arguments of its constructor: everything that JSON can carry.

    Raises `ValueError` for an unknown method.

    >>> Setting("diloco", {"codec": "none", "sync_every": 10}).key
    'diloco codec=none sync_every=10'
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; choose one of {', '.join(METHODS)}")

    @property
    def key(self) -> str:
        """What tells two settings apart, in any order of their options."""
        return key_of(self.method, **self.options)

    @property
    def sync_every(self) -> int:
        """Steps between exchanges; 0: never."""
        if self.method == "alone" or self.method in EVERY_STEP:
            return int(self.method != "alone")
        return int(self.options.get("sync_every", self.options.get("period", 10)))


@dataclass(frozen=True)
class Run:
    """One training run: a setting, the seed of its data order, and the task's sizes.

    All runs start from one checkpoint, as the known numbers of this task do: `warm_seed` draws its initial weights and its text.
    """

    setting: Setting
    seed: int
    workers: int = 4
    steps: int = 200
    warm_seed: int = 0
    warm_steps: int = 400
    batch: int = 4  # sequences of CONTEXT bytes per worker and step
    warm_batch: int = 8  # with which DDP comes to the 1.979 known on this task
    curve: int = 10  # steps between the points of the learning curve: of what is judged, not of what is run

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Run":
        fields = json.loads(text)
        return cls(**(fields | {"setting": Setting(**fields["setting"])}))

    @property
    def sizes(self) -> dict[str, int]:
        """Of the task: what tells runs of a setting and seed apart."""
        return {name: value for name, value in asdict(self).items() if name not in ("setting", "seed", "curve")}

    def key(self, link: str) -> str:
        """Of its record, over links of this name."""
        return f"{self.setting.key}, seed {self.seed}, {key_of(**self.sizes)}, {link}"
