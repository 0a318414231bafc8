"""The counters of an optimizer, in one object (wrappers such as Lightning's proxy attribute writes)."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Clock:
    """`round` is agreed by the group; `window` counts steps since the last round began, `steps` all of this member's; `open` says that
    work was done from the anchor; `behind` that weights have yet to follow the anchor; `met` that members have compared what they start
    from."""

    round: int = 0
    window: int = 0
    steps: int = 0
    open: bool = False
    behind: bool = False
    met: bool = False

    def tick(self) -> None:
        """Count one step."""
        self.window += 1
        self.steps += 1
        self.open = True

    def forget_window(self) -> None:
        """Start a new window without a round: there is nobody to agree with, or nothing worth keeping."""
        self.window = 0
        self.open = False

    def next_round(self, *, since: int = 0, open: bool = False) -> None:
        """Start a new window with the steps `since` the last round began; an open one begins with work that it did not count."""
        self.round += 1
        self.window = since
        self.open = open or since > 0

    def export(self) -> dict[str, int]:
        """Plain numbers for a checkpoint."""
        return {name: int(getattr(self, name)) for name in ("round", "window", "steps", "open", "behind", "met")}

    def restore(self, saved: Mapping[str, int]) -> None:
        """Set from `export`; what is missing starts at zero."""
        self.round, self.window, self.steps = (int(saved.get(name, 0)) for name in ("round", "window", "steps"))
        self.open, self.behind, self.met = (bool(saved.get(name, 0)) for name in ("open", "behind", "met"))
