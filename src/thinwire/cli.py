"""The `thinwire` command: take part in a swarm, measure, and make a page of what was measured.

A verb imports its module only when it is called: those of the swarm lie in thinwire.comms.swarm.cli, all others in benchmarks/.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import thinwire

_OWN = ("kernels", "collectives", "training", "utilisation", "scaling", "swarm", "rl", "verify")
SUITES = {name: f"benchmarks.{name}.__main__" for name in _OWN} | {
    "joins": "benchmarks.swarm.joins",
    "all": "benchmarks.suite.__main__",
}
SWARM = ("keygen", "serve", "invite", "join", "status", "doctor", "verify")
PLAIN = ("inspect", "run", "completion")
VERBS = (
    {verb: f"thinwire.comms.swarm.cli.{verb}" for verb in SWARM}
    | {verb: f"thinwire.verbs.{verb}" for verb in PLAIN}
    | {verb: f"benchmarks.{verb}.__main__" for verb in ("chaos", "demo", "report")}
)
SILENT = {"join": "its script's", "run": "its script's", "completion": "a script for a shell"}  # what the output of these is
USAGE, INTERRUPTED = 2, 130  # 1 comes from a verb: a run failed, a law is broken

HELP = """\
usage: thinwire COMMAND ...

  thinwire demo                four peers on this machine train over thin links, one is killed and comes back; a minute, a picture
  thinwire serve RUN           start a swarm's first peer; prints the one line that another machine pastes
  thinwire join INVITE -- python train.py
                               run a training script as a member of that swarm
  thinwire invite RUN --peers ADDRESS ...
                               an invite, from addresses of peers that are up
  thinwire status INVITE       who takes part, rounds, loss, bytes, lag and what was rejected; live (--web: as a page)
  thinwire doctor              what of this machine would stop you: versions, ports, NAT, clock; with the remedy
  thinwire keygen [PATH]       make a member's key
  thinwire verify FOLDER       prove a run from the histories that its members wrote
  thinwire run -- torchrun ... train.py
                               torchrun over several machines, the WAN kept out of WORLD_SIZE
  thinwire inspect FILE        what is in a checkpoint or a wire frame: sizes, rounds, hashes
  thinwire completion SHELL    a script with which bash, zsh or fish completes all of these
  thinwire chaos --events N    kill, freeze and cut members of a swarm on this machine, then verify

  thinwire bench kernels       time of the kernels against the speed of memory and against torch
  thinwire bench collectives   bandwidth, time and bytes of one exchange, for each codec and size
  thinwire bench training      loss against bytes and against wall time, for each method
  thinwire bench utilisation   the share of the time that is training, over links and settings
  thinwire bench scaling       bytes and time of a sync for 2, 4, 8, 16 peers
  thinwire bench swarm         a round of a swarm over thin links, against what no protocol beats
  thinwire bench joins         what a newcomer to a swarm costs those that train, 200 times
  thinwire bench rl            reinforcement learning: stale rollouts, averaged learners, shared rollouts
  thinwire bench verify        what activation proofs accept and refuse on a real model, and what verifying costs
  thinwire bench all           the first five of these (--quick: about 5 minutes, --full: about 70), then the report
  thinwire report RESULTS -o report.html
                               one page with tables and pictures of what was measured

`thinwire --version` tells the version, `thinwire COMMAND --help` the options. Every command that says something itself takes --json
(one object on the standard output, `serve` and `status` one a line, nothing else) and --plain (lines for grep and diff); progress and
errors go to the standard error. Results go to ./results, in a checkout to benchmarks/results. All links but those of `kernels` and
`collectives` need root and iproute2.

exit status:
  0    all is well
  1    it was done, and something is wrong: a run failed, its link was not what was asked, a law is broken (verify, chaos), something
       would stop a member (doctor), a frame is damaged (inspect)
  2    it was not done: wrong usage, or something is missing here; one sentence on the standard error says what to do
  130  interrupted: finished runs are kept, --keep goes on from there
`join` and `run` end with the status of their script.
"""


class UsageError(ValueError):
    """A command that cannot run as it was given, or not here; one sentence."""


def main(argv: list[str] | None = None) -> None:
    """The console script; ends with `SystemExit` unless all is well."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
    elif words == ["--version"]:
        print(f"thinwire {thinwire.__version__}")
    else:
        code, message = run(words)
        if message:
            print(message, file=sys.stderr)
        if code:
            raise SystemExit(code)


def run(words: list[str]) -> tuple[int, str]:
    """Run a command; its exit status, and what is left to say."""
    try:
        name, module, rest = command(words)
        sys.argv = [name, *rest]  # what a record keeps as the command that made it, and what --help calls it
        load(module).main(rest)
    except UsageError as error:
        return USAGE, f"error: {error}"
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted"
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            return INTERRUPTED, str(ended.code)
        if isinstance(ended.code, str):
            return USAGE, ended.code
        return int(ended.code or 0), ""
    return 0, ""


def command(words: list[str]) -> tuple[str, str, list[str]]:
    """Of a command: its name, the module that does it, and the words that are the module's."""
    match words:
        case [verb, *rest] if verb in VERBS:
            refuse_form(verb, rest)
            return f"thinwire {verb}", VERBS[verb], rest
        case ["bench", suite, *rest] if suite in SUITES:
            return f"thinwire bench {suite}", SUITES[suite], rest
        case ["bench", *_]:
            given = f"there is no suite {words[1]!r}; " if words[1:] and not words[1].startswith("-") else ""
            raise UsageError(f"{given}give `thinwire bench` one of {', '.join(SUITES)}")
    raise UsageError(f"there is no command {words[0]!r}; `thinwire --help` lists them")


def refuse_form(verb: str, rest: list[str]) -> None:
    """Raises `UsageError` for --json and --plain of a verb that says nothing itself."""
    own = rest[: rest.index("--")] if "--" in rest else rest
    for form in ("--json", "--plain"):
        if verb in SILENT and form in own:
            raise UsageError(f"`thinwire {verb}` has no {form}: its output is {SILENT[verb]}, and nothing of its own")


def load(module: str) -> ModuleType:
    """A verb's module; for those of the benchmarks the path leads to where they are, also in processes that it starts."""
    if module.startswith("thinwire."):
        return imported(module, "cli" if module.startswith("thinwire.verbs.") else "swarm,cli")
    place = str(root())
    if sys.path[0] != place:
        sys.path.insert(0, place)
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in (place, os.environ.get("PYTHONPATH")) if path)
    return imported(module, "swarm,bench" if module.startswith(("benchmarks.chaos", "benchmarks.demo", "benchmarks.swarm")) else "bench")


def imported(module: str, extras: str) -> ModuleType:
    """The module; raises `UsageError` naming the extras that bring what it lacks."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] in ("benchmarks", "examples", "thinwire"):
            raise UsageError(f"this thinwire has no module {missing}: install it whole, from its wheel or a checkout") from None
        raise UsageError(f"no module {missing!r}; pip install 'thinwire[{extras}]'") from None


def root() -> Path:
    """The folder that holds benchmarks/ and examples/: within the package where a wheel was installed, else the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "suite"
    return installed if installed.is_dir() else package.parents[1]


if __name__ == "__main__":
    main()
