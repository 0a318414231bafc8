"""Every block of code in the documentation: Python runs, shells run, configurations load, and commands have the options they are given.

A block that cannot run here is marked, `<!-- not run: why -->` in the line before it; it must be valid code all the same, and its commands
are looked up. What only sets a scene, or looks at the outcome, is `<!-- unseen: code -->`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec.toml
import pytest
from markdown_it import MarkdownIt

from examples.rl.config import load
from thinwire import cli
from thinwire.verbs.completion import commands

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "examples/integrations/README.md")
PAGES = [*(ROOT / name for name in OUTSIDE), *sorted((ROOT / "docs").rglob("*.md"))]
KINDS = {"python", "sh", "toml", "diff", "math", "json", ""}
SUITES = {f"benchmarks.{name}": f"bench {name}" for name in cli.SUITES}


@dataclass(frozen=True)
class Block:
    """`kind`: the language of a fence, "" where it has none or the block is indented; `unseen`: a comment."""

    page: Path
    line: int
    kind: str
    text: str
    runs: bool
    unseen: bool = False

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def blocks(page: Path) -> list[Block]:
    """Of a page, in order."""
    found: list[Block] = []
    runs = True
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            runs = not token.content.startswith("<!-- not run: ")
            if scene := re.fullmatch(r"<!-- unseen:(.*?)-->", token.content.strip(), re.S):
                found.append(Block(page, line, "python", scene[1].strip(), True, unseen=True))
        elif token.type in ("fence", "code_block"):
            found.append(Block(page, line, token.info.strip(), token.content, runs))
            runs = True
        elif token.nesting == 0:
            runs = True
    return found


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_python_runs_from_the_top_of_a_page_to_its_end(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__main__"}
    for block in blocks(page):
        if block.kind == "python":
            code = compile("\n" * (block.line + (not block.unseen) - 1) + block.text, str(page), "exec")
            if block.runs:
                exec(code, scope)


SHELLS = [block for page in PAGES for block in blocks(page) if block.kind == "sh"]


@pytest.mark.parametrize("block", [block for block in SHELLS if block.runs], ids=lambda block: block.place)
def test_shells_run(block: Block, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    bash = ["bash", "-euo", "pipefail", "-c", block.text]
    done = subprocess.run(bash, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{block.place}\n{done.stdout}{done.stderr}"


def test_configurations_load() -> None:
    found = [block for page in PAGES for block in blocks(page) if block.kind == "toml"]
    assert found
    for block in found:
        tables = msgspec.toml.decode(block.text)
        load(ROOT / "examples/rl/tiny.toml", {f"{table}.{name}": value for table, named in tables.items() for name, value in named.items()})


def test_every_fence_says_what_it_is() -> None:
    strange = [f"{block.place}: {block.kind}" for page in PAGES for block in blocks(page) if block.kind not in KINDS]
    assert not strange


@dataclass(frozen=True)
class Line:
    """A command as it is told, with what follows it on its line, such as a remark."""

    place: str
    words: list[str]


def lines() -> Iterator[Line]:
    """Every command in a shell or in a block of no language."""
    for page in PAGES:
        for block in blocks(page):
            if block.kind not in ("sh", ""):
                continue
            for told in block.text.replace("\\\n", " ").splitlines():
                line = re.split(r"\s+#|\s{3,}", told.strip())[0]
                line = re.sub(r"^prints:\s*|\s[|>].*", "", line)
                try:
                    words = shlex.split(line)
                except ValueError:  # a picture
                    continue
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words.pop(0)
                if words:
                    yield Line(block.place, words)


@cache
def verbs() -> Mapping[str, frozenset[str]]:
    """The options of every verb, and of every suite."""
    return {command.name: frozenset(command.options) for command in commands()}


@cache
def help_of(*command: str) -> str:
    return subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout


def lacks(words: list[str]) -> str | None:
    """What a command that is told names and there is not."""
    program, *rest = words
    own = rest[: rest.index("--")] if "--" in rest else rest
    options = [word.partition("=")[0] for word in own if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)]
    if program == "thinwire":
        name = " ".join(rest[: 1 + (rest[:1] == ["bench"])])
        if name not in verbs():
            return name if not name.startswith("-") and not name.isupper() and "|" not in name else None
        return next((option for option in options if option not in verbs()[name] | {"-h", "--help"}), None)
    if program == "make":
        targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
        return next((word for word in rest if re.fullmatch(r"[a-z][a-z0-9-]*", word) and word not in targets), None)
    if program in ("python", "torchrun"):
        if "-m" in own:
            module = own[own.index("-m") + 1]
            if not module.startswith(("benchmarks", "examples", "thinwire")):
                return None
            path = ROOT / module.replace(".", "/")
            if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
                return module
            after = own[own.index("-m") + 2 :]
            options = [option for option in options if option in {word.partition("=")[0] for word in after}]
            if module in SUITES:
                return next((option for option in options if option not in verbs()[SUITES[module]] | {"-h", "--help"}), None)
            role = [word for word in after[:1] if module == "examples.rl"]
            return next((option for option in options if not re.search(rf"{option}(?![\w-])", help_of("-m", module, *role))), None)
        script = next((word for word in own if word.endswith(".py")), "")
        return script if "/" in script and not (ROOT / script).exists() and not script.startswith(("my/", "/")) else None
    if program == "pytest":
        return next((word for word in rest if word.startswith("tests") and not (ROOT / word.partition("::")[0]).exists()), None)
    if program == "pip":
        extras = set(msgspec.toml.decode((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
        return next((extra for word in rest for extra in re.findall(r"[\w-]+", word.partition("[")[2]) if extra not in extras), None)
    return None


def test_commands_have_the_options_that_they_are_told_with() -> None:
    told = list(lines())
    assert sum(line.words[0] == "thinwire" for line in told) > 40
    wrong = [f"{line.place}: {shlex.join(line.words)}: no {missing}" for line in told if (missing := lacks(line.words)) is not None]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ("thinwire sing", "sing"),
        ("thinwire bench scaling --fast", "--fast"),
        ("thinwire join tw1... -- python train.py --whatever", None),
        ("python -m benchmarks.nothing", "benchmarks.nothing"),
        ("python -m benchmarks.training --rows ddp --sideways", "--sideways"),
        ("python -m examples.rl worker --config X.toml --peer", "--peer"),
        ("make tests", "tests"),
        ("torchrun --nproc-per-node 4 examples/gone.py", "examples/gone.py"),
        ("pip install 'thinwire[swarms]'", "swarms"),
    ],
)
def test_what_is_not_there_is_found(told: str, missing: str | None) -> None:
    assert lacks(shlex.split(told)) == missing


def test_pages_use_no_program_that_is_not_here() -> None:
    known = {"thinwire", "torchrun", "python", "pip", "make", "pytest", "export"}
    for block in SHELLS:
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            assert not words or words[0] in known or shutil.which(words[0]), f"{block.place}: {words[0]}"
