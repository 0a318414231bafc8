"""What is in a file: a checkpoint (torch.save, safetensors), or wire frames.

    thinwire inspect checkpoint.pt
    thinwire inspect optimizer.safetensors --json
    thinwire inspect frame.bin --plain

It shows every tensor with its size and hash, and of our optimizers how far they are. Nothing of the file is executed: what only pickle
could read is refused. Two files hold the same weights when the hashes say so.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
import xxhash
from rich.table import Table
from torch import Tensor

from thinwire.comms import wire
from thinwire.optim.checkpoint import our_numbers
from thinwire.optim.replica import PREFIX
from thinwire.output import Form, Output, one_sentence, parse

MB = 1e6
_OURS = PREFIX.rstrip(".")


@dataclass(frozen=True)
class Options(Form):
    """Which file."""

    file: tyro.conf.Positional[Path]
    """A checkpoint or wire frames."""


@dataclass(frozen=True)
class Held:
    """One tensor; `hash` is the xxh3-64 of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    hash: str


@dataclass
class Found:
    """What a file holds."""

    kind: str
    nbytes: int
    tensors: list[Held] = field(default_factory=list)
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Our numbers (round, steps, codec), by where they are."""
    frames: list[dict[str, Any]] = field(default_factory=list)
    values: int = 0
    """Numbers and strings beside tensors."""


def inspect(path: Path) -> Found:
    """Look into a file. Raises `ValueError` when it is none of those that are known, `OSError` when it cannot be read."""
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; where torch.distributed.checkpoint wrote it, its .metadata is a pickle, which runs what it says and is "
            "not opened here: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE makes a file of it"
        )
    with path.open("rb") as file:
        head = file.read(16)
    nbytes = path.stat().st_size
    if head[:4] == wire.MAGIC:
        return Found("wire frames", nbytes, frames=list(frames(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8))))
    if head[:4] == b"PK\x03\x04":
        return _torch_file(path, nbytes)
    if nbytes > 8 and int.from_bytes(head[:8], "little") < nbytes and head[8:9] == b"{":
        return _safetensors(path, nbytes)
    raise ValueError(
        f"{path} begins with {head[:4]!r}: no wire frame ({wire.MAGIC!r}), no torch checkpoint and no safetensors; histories are for "
        "`thinwire verify`, results for `thinwire report`"
    )


def frames(data: Tensor) -> Iterator[dict[str, Any]]:
    """Frames that lie end to end; the last one may say why it is none."""
    at = 0
    while at < data.numel():
        rest = data[at:]
        claimed = int.from_bytes(bytes(rest[56:64].tolist()), "little") if rest.numel() >= wire.HEADER_NBYTES else -1
        whole = rest[: wire.HEADER_NBYTES + claimed] if 0 <= claimed <= rest.numel() - wire.HEADER_NBYTES else rest
        header = wire.peek(whole)
        if header is None:
            yield {"offset": at, "error": f"{rest.numel()} bytes that are no whole frame of version {wire.VERSION}"}
            return
        sound = bool(torch.equal(wire.with_checksum(whole), whole))
        told = {name: value for name, value in asdict(header).items() if name != "key"}
        yield {"offset": at, **asdict(header.key), **told, "payload_hash": hash_of(whole[wire.HEADER_NBYTES :]), "sound": sound}
        at += whole.numel()


def hash_of(tensor: Tensor) -> str:
    """The xxh3-64 of a tensor's bytes, row by row."""
    return xxhash.xxh3_64_hexdigest(wire.bytes_of(tensor.cpu().reshape(-1)) if tensor.numel() else b"")


def _torch_file(path: Path, nbytes: int) -> Found:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # torch raises whatever its reader stumbles over
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is a zip file that torch.load(weights_only=True) refuses: {said}") from None
    return _tree(Found("torch checkpoint", nbytes), state)


def _safetensors(path: Path, nbytes: int) -> Found:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ValueError(f"{path} is a safetensors file, and nothing here can read one: pip install safetensors") from None
    try:
        with safe_open(path, "pt") as file:
            state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from None
    found = _tree(Found("safetensors", nbytes), state)
    found.values = len(metadata)
    for name, text in metadata.items():
        if name.startswith(PREFIX):
            _note(found, name, json.loads(text))
    return found


def _tree(found: Found, state: Any, name: str = "") -> Found:
    """Walk through dicts and lists."""
    if isinstance(state, Tensor):
        found.tensors.append(
            Held(name or "tensor", str(state.dtype).removeprefix("torch."), tuple(state.shape), state.nbytes, hash_of(state))
        )
    elif isinstance(state, Mapping):
        _note(found, name, state)
        for key, value in state.items():
            _tree(found, value, f"{name}/{key}" if name else str(key))
    elif isinstance(state, Sequence) and not isinstance(state, str | bytes):
        for i, value in enumerate(state):
            _tree(found, value, f"{name}/{i}")
    else:
        found.values += 1
    return found


def _note(found: Found, name: str, state: Mapping[Any, Any]) -> None:
    groups = state.get("param_groups")
    if isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups):
        numbers = our_numbers({"param_groups": groups})
        if numbers:
            found.optimizers[name or "."] = numbers


# -- shown -------------------------------------------------------------------------------------------------------------------------


def lines(found: Found) -> Iterator[str]:
    """With --plain: one a thing."""
    yield f"{found.kind}, {found.nbytes} bytes, {len(found.tensors)} tensors, {found.values} other values"
    for name, numbers in found.optimizers.items():
        yield f"{_OURS} at {name}: " + ", ".join(f"{key} {value}" for key, value in numbers.items())
    for held in found.tensors:
        yield f"{held.hash} {held.nbytes} {held.dtype} {list(held.shape)} {held.name}"
    for frame in found.frames:
        yield ", ".join(f"{key} {value}" for key, value in frame.items())


def show(found: Found, out: Output) -> None:
    """Tables."""
    out.say(f"{found.kind}, {found.nbytes / MB:.2f} MB")
    for name, numbers in found.optimizers.items():
        told = ", ".join(f"{key} {value}" for key, value in numbers.items())
        out.say(f"optimizer of {_OURS} at {name}: {told}")
    if found.tensors:
        table = Table(title=f"{len(found.tensors)} tensors, {sum(held.nbytes for held in found.tensors) / MB:.2f} MB", title_justify="left")
        for heading in ("tensor", "dtype", "shape", "bytes", "xxh3"):
            table.add_column(heading, justify="right" if heading == "bytes" else "left", overflow="fold")
        for held in found.tensors:
            table.add_row(held.name, held.dtype, "x".join(map(str, held.shape)) or "-", f"{held.nbytes:,}", held.hash)
        out.say(table)
        kinds: dict[str, int] = defaultdict(int)
        for held in found.tensors:
            kinds[f"{PREFIX}{held.name.rpartition(PREFIX)[2]}" if PREFIX in held.name else held.name.split("/")[0]] += held.nbytes
        out.say("  ".join(f"{kind} {nbytes / MB:.2f} MB" for kind, nbytes in kinds.items()))
    if found.frames:
        table = Table(title=f"{len(found.frames)} frames", title_justify="left")
        names = list(dict.fromkeys(name for frame in found.frames for name in frame))
        for name in names:
            table.add_column(name, justify="right", overflow="fold")
        for frame in found.frames:
            table.add_row(*(_short(name, frame.get(name, "")) for name in names))
        out.say(table)


def _short(name: str, value: Any) -> str:
    return f"{value:016x}" if name in ("run", "plan", "state") and isinstance(value, int) else str(value)


def main(argv: list[str]) -> None:
    """Look and print; exit status 1 when a frame is not sound."""
    with one_sentence():
        options = parse(Options, argv, __doc__)
        out, found = options.output(width=160), inspect(options.file)
    if out.plain:
        out.say(*lines(found))
    else:
        show(found, out)
        out.tell(found)
    if any(not frame.get("sound", False) for frame in found.frames):
        raise SystemExit(1)
