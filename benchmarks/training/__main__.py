"""Loss against bytes and against wall time: every method on one task, bytes counted by the operating system.

    python -m benchmarks.training                              all rows, three seeds, links as fast as this machine
    python -m benchmarks.training --quick                      a few rows, in a minute or two
    python -m benchmarks.training --rows ddp diloco --seeds 0 1 2 3 4
    python -m benchmarks.training --link 20:80 --rows ddp none diloco --steps-of ddp 40 --until-loss 2.072
    python -m benchmarks.training --show                       print what the results file holds

Each run appends one record to benchmarks/results/training.jsonl; `--keep` skips runs that the file already holds. As root every worker
has a network namespace (needs iproute2 and /dev/net/tun); else the loopback is counted, and no link can be shaped.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from msgspec.structs import replace

from benchmarks.lab.namespaces import LabError
from benchmarks.lab.wan import Lab, Void, open_lab, open_loopback
from benchmarks.suite.command import put
from benchmarks.suite.options import held, one_sentence, parse
from benchmarks.suite.record import ABSENT, VOID, Record
from benchmarks.suite.runs import Due, end, run_all
from benchmarks.training.launch import launch, template
from benchmarks.training.methods import absent
from benchmarks.training.options import Options
from benchmarks.training.setting import Run
from benchmarks.training.table import table


def due(options: Options, lab: Lab) -> list[Due]:
    """All runs that are asked for, one at a time: all cores belong to its workers."""
    return [Due(template(run, lab), partial(measure, run, lab, options.timeout_s)) for run in options.runs()]


def measure(run: Run, lab: Lab, timeout_s: float) -> Record:
    """One run over links that were measured just before; void when they are not what was asked."""
    missing = absent(run.setting.method)
    if missing:
        return replace(template(run, lab), status=ABSENT, reason=missing)
    try:
        link = lab.verify()
    except Void as void:
        return replace(template(run, lab), status=VOID, reason=str(void))
    return replace(launch(run, lab, timeout_s=timeout_s), link=link)


@contextmanager
def lab_of(options: Options) -> Iterator[Lab]:
    """Regions; where there can be none and no link is asked for, the loopback."""
    topology = options.regions(options.workers)
    with ExitStack() as stack:
        try:
            lab = stack.enter_context(open_lab(topology))
        except LabError:
            if topology.shaped:
                raise
            lab = stack.enter_context(open_loopback(options.workers))
        yield lab


def link_of(options: Options, records: list[Record]) -> str:
    """The name that these records have of the links that are asked for."""
    topology = options.regions(options.workers)
    here = topology.shaped or any(record.link and record.link.asked.topology == topology.name for record in records)
    return topology.name if here else "loopback"


def main(argv: list[str] | None = None) -> None:
    made: list[Record] = []
    link = ""
    with one_sentence():
        options = parse(Options, argv, __doc__).effective()
        out = options.output()
        if not options.show:
            with lab_of(options) as lab:
                out.aside.print(f"bytes: {lab.counted_by}")
                link = lab.link().asked.topology
                made = run_all(due(options, lab), options.results, out.aside, keep=options.keep)
        records = held(options.results, "training")
    put(out, "training", records, options.results, lambda found: [table(options, list(found), link or link_of(options, list(found)))])
    end(made)


if __name__ == "__main__":
    main()
