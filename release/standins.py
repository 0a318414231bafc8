"""Stand-ins for the CUDA libraries that a torch from PyPI is linked against, so that it imports on a machine without a card.

They take gigabytes and are never called on a CPU. A stand-in has the library's name and every function that torch wants of it; each
returns 100, which is the runtime's word for "no device". For tests alone, in environments that are thrown away: never shipped.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

_FOREIGN = re.compile(r"_*(cu|nv|nccl|CUPTI|cupti)\w+")
NO_DEVICE = 100


def put(torch: Path) -> list[str]:
    """Make what the libraries in `torch`/lib lack; the names of what was made.

    Raises `OSError` or `subprocess.CalledProcessError` when binutils or a compiler are missing.
    """
    ours = sorted((torch / "lib").glob("*.so*"))
    missing = sorted({name for path in ours for name in _missing(path)})
    if not missing:
        return []
    # (name, version): some functions are asked for by a version of the library, which the loader insists on
    wanted = {symbol for path in ours for symbol in _symbols(path, "--undefined-only") if _FOREIGN.fullmatch(symbol[0])}
    wanted -= {(name, "") for path in ours for name, _ in _symbols(path, "--defined-only")}
    required = {library: {version for path in ours for version in _versions(path, library)} for library in missing}
    for library in missing:
        versions = {version: sorted(name for name, of in wanted if of == version) for version in sorted(required[library])}
        _compile(torch / "lib" / library, versions, sorted(name for name, of in wanted if not of))
    return missing


def _missing(path: Path) -> list[str]:
    return re.findall(r"^\s*(\S+) => not found", _said("ldd", str(path)), re.M)


def _symbols(path: Path, which: str) -> list[tuple[str, str]]:
    """Names and versions."""
    found = [
        line.split()[-1].replace("@@", "@").partition("@") for line in _said("nm", "-D", which, str(path)).splitlines() if line.strip()
    ]
    return [(name, version) for name, _, version in found]


def _versions(path: Path, library: str) -> list[str]:
    """The versions of a library that another refers to."""
    block = re.search(rf"^\s*required from {re.escape(library)}:\n((?:\s+0x.*\n)+)", _said("objdump", "-p", str(path)), re.M)
    return [line.split()[-1] for line in block[1].splitlines()] if block else []


def _compile(path: Path, versions: dict[str, list[str]], plain: Iterable[str]) -> None:
    """A library whose functions are all the same one; those without a version are in every library, as who has them differs."""
    names = sorted({*plain, *(name for some in versions.values() for name in some)})
    lines = [f"int thinwire_stand_in(void) {{ return {NO_DEVICE}; }}"]
    lines += [f'int {name}(void) __attribute__((alias("thinwire_stand_in")));' for name in names]
    nodes = [f"{version} {{ {' '.join(f'{name};' for name in some)} }};" for version, some in versions.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".map") as script:
        script.write("\n".join(nodes))
        script.flush()
        command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}", "-x", "c", "-", "-o", str(path)]
        command += [f"-Wl,--version-script={script.name}"] * bool(nodes)
        subprocess.run(command, input="\n".join(lines), text=True, check=True, capture_output=True, timeout=60)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
