"""Stand-ins for the CUDA libraries that a torch from PyPI is linked against, so that it imports on a machine without a card.

They take gigabytes and are never called on a CPU. A stand-in has the library's name and every function that torch wants of it; each
returns 100, which is the runtime's word for "no device". For tests alone, in environments that are thrown away: never shipped.
"""

import re
import subprocess
from pathlib import Path

_FOREIGN = re.compile(r"_*(cu|nv|nccl|CUPTI|cupti)\w+")
NO_DEVICE = 100


def put(torch: Path) -> list[str]:
    """Make what the libraries in `torch`/lib lack; the names of what was made.

    Raises `OSError` or `subprocess.CalledProcessError` when binutils or a compiler are missing.
    """
    lib = torch / "lib"
    ours = sorted(lib.glob("*.so*"))
    missing = sorted({name for path in ours for name in _missing(path)})
    if not missing:
        return []
    wanted = {name for path in ours for name in _symbols(path, "--undefined-only")}
    defined = {name for path in ours for name in _symbols(path, "--defined-only")}
    names = sorted(name for name in wanted - defined if _FOREIGN.fullmatch(name))
    for library in missing:  # each has all functions: which library a symbol is looked for in differs between versions of torch
        _compile(lib / library, names)
    return missing


def _missing(path: Path) -> list[str]:
    said = subprocess.run(["ldd", str(path)], capture_output=True, text=True, timeout=60).stdout
    return re.findall(r"^\s*(\S+) => not found", said, re.M)


def _symbols(path: Path, which: str) -> list[str]:
    said = subprocess.run(["nm", "-D", which, str(path)], capture_output=True, text=True, timeout=120, check=True).stdout
    return [line.split()[-1].partition("@")[0] for line in said.splitlines() if line.strip()]


def _compile(path: Path, functions: list[str]) -> None:
    """A library whose functions are all the same one."""
    lines = [f"int thinwire_stand_in(void) {{ return {NO_DEVICE}; }}"]
    lines += [f'int {name}(void) __attribute__((alias("thinwire_stand_in")));' for name in functions]
    command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, capture_output=True, timeout=60)
