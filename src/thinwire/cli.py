"""The `thinwire` command: measure, and make a page of what was measured. The work is done in benchmarks/, which it finds and imports."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import thinwire

SUITES = {name: f"benchmarks.{name}.__main__" for name in ("kernels", "collectives", "training", "utilisation", "scaling")} | {
    "all": "benchmarks.suite.__main__"
}
USAGE, INTERRUPTED = 2, 130  # 1 comes from a suite: a run failed

HELP = """\
usage: thinwire COMMAND ...

  thinwire bench kernels       time of the kernels against the speed of memory and against torch
  thinwire bench collectives   bandwidth, time and bytes of one exchange, for each codec and size
  thinwire bench training      loss against bytes and against wall time, for each method
  thinwire bench utilisation   the share of the time that is training, over links and settings
  thinwire bench scaling       bytes and time of a sync for 2, 4, 8, 16 peers
  thinwire bench all           all of these (--quick: about 5 minutes, --full: about 100), then the report
  thinwire report RESULTS -o report.html
                               one page with tables and pictures of what was measured

`thinwire bench SUITE --help` and `thinwire report --help` tell the options. Results go to ./results, in a checkout to
benchmarks/results. The links of `training`, `utilisation` and `scaling` need root and iproute2.

exit status: 0 all is well; 1 a run failed, or its link was not what was asked; 2 wrong usage, or something that is missing here;
130 interrupted (finished runs are kept; --keep goes on from there).
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
        case ["report", *rest]:
            return "thinwire report", "benchmarks.report.__main__", rest
        case ["bench", suite, *rest] if suite in SUITES:
            return f"thinwire bench {suite}", SUITES[suite], rest
        case ["bench", *_]:
            given = f"there is no suite {words[1]!r}; " if words[1:] and not words[1].startswith("-") else ""
            raise UsageError(f"{given}give `thinwire bench` one of {', '.join(SUITES)}")
    raise UsageError(f"there is no command {words[0]!r}; `thinwire --help` lists them")


def load(module: str) -> ModuleType:
    """A module of the benchmarks, from where they are, which processes that it starts know too."""
    place = str(root())
    if sys.path[0] != place:
        sys.path.insert(0, place)
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in (place, os.environ.get("PYTHONPATH")) if path)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] in ("benchmarks", "examples", "thinwire"):
            raise UsageError(f"this thinwire has no module {missing}: install it whole, from its wheel or a checkout") from None
        raise UsageError(f"no module {missing!r}; pip install 'thinwire[bench]'") from None


def root() -> Path:
    """The folder that holds benchmarks/ and examples/: within the package where a wheel was installed, else the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "suite"
    return installed if installed.is_dir() else package.parents[1]


if __name__ == "__main__":
    main()
