"""The `thinwire` command: what it runs, where it finds it, and how it ends."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from thinwire import cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], None]], None]:
    """Puts a function in the place of every suite; leaves path and arguments as they were."""
    monkeypatch.setattr(sys, "argv", ["thinwire"])

    def put(main: Callable[[list[str]], None]) -> None:
        module = ModuleType("made_up")
        vars(module)["main"] = main
        monkeypatch.setattr(cli, "load", lambda name: module)

    return put


def ended(words: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_suite_gets_the_rest_of_the_words_and_its_name(suite: Callable[[Callable[[list[str]], None]], None]) -> None:
    seen: list[list[str]] = []
    suite(lambda words: seen.append([*sys.argv, "|", *words]))
    cli.main(["bench", "training", "--seeds", "0", "--help"])
    assert seen == [["thinwire bench training", "--seeds", "0", "--help", "|", "--seeds", "0", "--help"]]


def test_exit_status(suite: Callable[[Callable[[list[str]], None]], None], capsys: pytest.CaptureFixture[str]) -> None:
    def sentence(_: list[str]) -> None:
        raise SystemExit("error: no root here; sudo helps")

    def failed(_: list[str]) -> None:
        raise SystemExit(1)

    def interrupted(_: list[str]) -> None:
        raise KeyboardInterrupt

    def interrupted_with_a_word(_: list[str]) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit("interrupted: --keep goes on") from None

    for main, code in ((sentence, 2), (failed, 1), (interrupted, 130), (interrupted_with_a_word, 130)):
        suite(main)
        assert ended(["bench", "training"]) == code, main.__name__
    assert capsys.readouterr().err.splitlines() == ["error: no root here; sudo helps", "interrupted", "interrupted: --keep goes on"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bnech"], "error: there is no command 'bnech'; `thinwire --help` lists them"),
        (
            ["bench"],
            "error: give `thinwire bench` one of kernels, collectives, training, utilisation, scaling, swarm, rl, verify, joins, all",
        ),
        (["bench", "nothing"], "error: there is no suite 'nothing'; give `thinwire bench` one of kernels"),
        (["report"], "error: no results given; say `thinwire report FILE_OR_FOLDER -o report.html`"),
    ],
)
def test_wrong_words_are_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["thinwire"])
    assert ended(words) == 2
    assert capsys.readouterr().err.startswith(said)


def test_help_tells_every_suite_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    told = capsys.readouterr().out
    assert all(f"thinwire bench {name} " in told for name in cli.SUITES)
    assert all(f"{code} " in told.partition("exit status:")[2] for code in (0, 1, cli.USAGE, cli.INTERRUPTED))


def test_the_page_tells_every_verb_with_an_example_and_every_suite_and_exit_status() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for verb in cli.VERBS:
        told = page.partition(f"**`thinwire {verb}`**")[2].partition("**`thinwire")[0]
        assert f"\n    thinwire {verb} " in told, verb
        assert ("JSON" in told) is (verb not in cli.SILENT), verb
    for suite in cli.SUITES:
        assert f"| `{suite}` |" in page
        assert f"`thinwire bench {suite} " in page
    assert all(f"\n| {code} | " in page for code in (0, 1, cli.USAGE, cli.INTERRUPTED))


def test_the_help_names_every_verb_and_which_of_them_have_forms() -> None:
    assert all(f"  thinwire {verb} " in cli.HELP for verb in cli.VERBS)
    assert all(form in cli.HELP for form in ("--json", "--plain"))
    assert set(cli.SILENT) < set(cli.VERBS)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lacking(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'tyro'", name="tyro")

    monkeypatch.setattr(sys, "argv", ["thinwire"])
    monkeypatch.setattr(cli.importlib, "import_module", lacking)
    assert ended(["report", "results"]) == 2
    assert capsys.readouterr().err == "error: no module 'tyro'; pip install 'thinwire[bench]'\n"


def test_the_root_of_a_checkout_holds_the_suites() -> None:
    assert cli.root() == ROOT
    assert (cli.root() / "benchmarks" / "report" / "__main__.py").exists()


def test_help_needs_nothing_but_the_package(tmp_path: Path) -> None:
    code = "import sys; from thinwire import cli; cli.main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert not {"tyro", "rich", "matplotlib", "msgspec", "jinja2", "benchmarks"} & set(done.stdout.split())
