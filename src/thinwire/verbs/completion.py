"""Print a script that lets a shell complete verbs, suites, their options and what these may be.

    thinwire completion bash > ~/.local/share/bash-completion/completions/thinwire
    thinwire completion zsh > ~/.zfunc/_thinwire                    a folder of $fpath
    thinwire completion fish > ~/.config/fish/completions/thinwire.fish

Making it takes seconds, since it asks all verbs for their options; completing starts no Python. Make it anew after an upgrade.
"""

import argparse
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from thinwire import cli

PLACE = ""  # in place of an option's name: of what stands without one


@dataclass(frozen=True)
class Command:
    """A verb, or "bench" and a suite; `options` has what each option may be, nothing when that is anything."""

    name: str
    about: str
    options: Mapping[str, tuple[str, ...]]


def commands() -> Iterator[Command]:
    """All of them. What lacks an extra here completes without options, and is told on the standard error."""
    for name, module in (cli.VERBS | {f"bench {suite}": module for suite, module in cli.SUITES.items()}).items():
        try:
            loaded = cli.load(module)
        except cli.UsageError as error:
            print(f"`thinwire {name}` is completed without its options: {error}", file=sys.stderr)
            yield Command(name, "", {})
        else:
            yield Command(name, (loaded.__doc__ or "").partition("\n")[0], options_of(loaded))


def options_of(module: ModuleType) -> dict[str, tuple[str, ...]]:
    """Of a verb's module: it has a function `parser`, or a class `Options`."""
    found: dict[str, tuple[str, ...]] = {}
    for action in _parser(module)._actions:
        values = tuple(value for value in map(str, action.choices or ()) if re.fullmatch(r"[\w.:+-]+", value))
        for name in action.option_strings or ([PLACE] if values else []):
            found[name] = values
    return found


def _parser(module: ModuleType) -> Any:
    """An argparse parser; tyro's is of a copy of argparse."""
    if hasattr(module, "parser"):
        return module.parser()
    import tyro

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tyro would rather complete by itself, which starts Python at every key
        return tyro.extras.get_parser(module.Options)


def script(shell: str, known: list[Command]) -> str:
    """For a shell."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](known)


BASH = """\
# Made by `thinwire completion bash`.
_thinwire() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} name=${COMP_WORDS[1]} words= word
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        words='VERBS'
    elif [[ $name == bench ]] && (( COMP_CWORD == 2 )); then
        words='SUITES'
    else
        if [[ $name == bench ]]; then name="bench ${COMP_WORDS[2]}"; fi
        for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
            if [[ $word == -- ]]; then return; fi
        done
        case "$name $prev" in
VALUES
        esac
        if [[ -z $words ]]; then
            case "$name:$cur" in
OPTIONS
            esac
        fi
    fi
    if [[ -n $words ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); fi
}
complete -o bashdefault -o default -F _thinwire thinwire
"""

ZSH = """\
#compdef thinwire
# Made by `thinwire completion zsh`.
_thinwire() {
    local name=$words[2]
    local -a found
    if (( CURRENT == 2 )); then
        found=(VERBS)
    elif [[ $name == bench ]] && (( CURRENT == 3 )); then
        found=(SUITES)
    elif (( ${words[(i)--]} >= CURRENT )); then
        if [[ $name == bench ]]; then name="bench $words[3]"; fi
        case "$name $words[CURRENT-1]" in
VALUES
        esac
        if (( ! $#found )); then
            case "$name:$words[CURRENT]" in
OPTIONS
            esac
        fi
    fi
    if (( $#found )); then compadd -- $found; else _files; fi
}
if [[ $funcstack[1] == _thinwire ]]; then _thinwire "$@"; else compdef _thinwire thinwire; fi
"""


def _bash(known: list[Command]) -> str:
    return _filled(BASH, known, "words='{}'")


def _zsh(known: list[Command]) -> str:
    return _filled(ZSH, known, "found=({})")


def _filled(template: str, known: list[Command], told: str) -> str:
    """What follows an option comes first, then the options of who begins with a dash, then what may stand without one."""
    values, options = [], []
    for command in known:
        for name, may_be in command.options.items():
            if name and may_be:
                values.append(f"            '{command.name} {name}') {told.format(' '.join(may_be))} ;;")
        names = " ".join(filter(None, command.options))
        options.append(f"                '{command.name}:-'*) {told.format(names)} ;;")
        if PLACE in command.options:
            options.append(f"                '{command.name}:'*) {told.format(' '.join(command.options[PLACE]))} ;;")
    verbs, suites = _words(known)
    for place, text in {"VERBS": verbs, "SUITES": suites, "VALUES": "\n".join(values), "OPTIONS": "\n".join(options)}.items():
        template = template.replace(place, text)
    return template


def _words(known: list[Command]) -> tuple[str, str]:
    names = [command.name for command in known]
    suites = [name.removeprefix("bench ") for name in names if name.startswith("bench ")]
    return " ".join([*(name for name in names if " " not in name), *["bench"] * bool(suites)]), " ".join(suites)


def _fish(known: list[Command]) -> str:
    lines = ["# Made by `thinwire completion fish`.", "complete -c thinwire -n __fish_use_subcommand -f -a bench -d 'measure'"]
    for command in known:
        *bench, word = command.name.split()
        about = shlex.quote(command.about)
        first = "__fish_seen_subcommand_from bench; and not __fish_seen_subcommand_from SUITES" if bench else "__fish_use_subcommand"
        lines.append(f"complete -c thinwire -n '{first}' -f -a {word} -d {about}".replace("SUITES", _words(known)[1]))
        here = f"{'' if bench else 'not '}__fish_seen_subcommand_from bench; and __fish_seen_subcommand_from {word}"
        for name, may_be in command.options.items():
            how = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" if name else "-f"
            values = f" {'-x ' * bool(name)}-a {shlex.quote(' '.join(may_be))}" if may_be else ""
            lines.append(f"complete -c thinwire -n '{here}' {how}{values}")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(sys.argv[0], description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which the script is")
    return made


def main(argv: list[str]) -> None:
    """Print it."""
    shell = parser().parse_args(argv).shell
    print(script(shell, list(commands())), end="")
