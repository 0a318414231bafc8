"""A lab and workers that are opened for the first row that needs them and kept for the next ones."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, Void, open_lab, open_loopback
from benchmarks.suite.fleet import Fleet
from benchmarks.suite.record import ABSENT, VOID, Link, Record
from benchmarks.suite.runs import RunError

K = TypeVar("K", bound="Kept")


@dataclass(frozen=True)
class Opened:
    """A lab with its workers, and its link: verified where one was asked for."""

    lab: Lab
    link: Link
    fleet: Fleet


class Kept:
    """A lab of `topology` and a worker of `python -m module` in each of its regions, from row to row; close it with `with`."""

    def __init__(self, topology: Topology, module: str) -> None:
        self.topology, self._module = topology, module
        self._stack = ExitStack()
        self._opened: Opened | Exception | None = None

    def in_regions(self, template: Record, ask: Callable[[Opened], Record]) -> Record:
        """What `ask` makes of the workers; absent or void where they, or the links that were asked for, cannot be had.

        Raises `RunError` or `LabError` when a worker or the links failed: the next row gets new ones.
        """
        try:
            opened = self._open()
        except LabError as error:
            return replace(template, status=ABSENT, reason=str(error))
        except Void as error:
            return replace(template, status=VOID, reason=str(error))
        with self.renewed_after_failure():
            return ask(opened)

    @contextmanager
    def renewed_after_failure(self) -> Iterator[None]:
        """Whoever comes after a failure finds nothing kept."""
        try:
            yield
        except (RunError, LabError):
            self.forget()
            raise

    def forget(self) -> None:
        """Close what is kept; the next row opens it anew."""
        self._stack.close()
        self._opened = None

    def _open(self) -> Opened:
        if self._opened is None:
            try:
                self._opened = open_fleet(self._stack, self.topology, self._module)
            except (LabError, Void, RunError) as error:  # it would be the same for the next row
                self._opened = error
        if isinstance(self._opened, Exception):
            raise self._opened
        return self._opened

    def __enter__(self: K) -> K:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def open_fleet(stack: ExitStack, topology: Topology, module: str) -> Opened:
    """A worker of `python -m module` in each region; `stack` closes it.

    Where nothing is shaped and this user or machine cannot have regions, workers are on the loopback. Raises `LabError` when a link is
    asked for that cannot be had, `Void` when it is not what was asked, and `RunError` when it cannot be
    measured or a worker does not start.
    """
    try:
        lab = stack.enter_context(open_lab(topology))
    except LabError:
        if topology.shaped:
            raise
        lab = stack.enter_context(open_loopback(len(topology.regions)))
    try:
        link = lab.verify() if topology.shaped else lab.link()
    except LabError as error:  # there are regions, so that this is a failure
        raise RunError(str(error)) from None
    return Opened(lab, link, stack.enter_context(fleet_in(lab, module, rtt_s=topology.asked()["rtt_ms"] / 1000)))


def fleet_in(lab: Lab, module: str, *, rtt_s: float) -> Fleet:
    """A worker in each place of a lab."""

    def start(rank: int, argv: list[str], env: dict[str, str], **pipes: Any) -> "subprocess.Popen[bytes]":
        return lab.start(rank, argv, env=env, **pipes)

    return Fleet(module, len(lab.places), start, interface=lab.interface, rtt_s=rtt_s, check=lab.check)
