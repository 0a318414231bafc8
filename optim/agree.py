"""What members must have in common, compared line by line: settings and model at the start, tensor hashes when replicas differ.

A member's own account of itself is plain text, one fact a line. Nothing a peer sends is parsed: lines are only compared.
"""

from collections.abc import Mapping, Sequence

import xxhash
from torch import Tensor

from thinwire.comms.door import first_difference
from thinwire.comms.door import plan_id as plan_id
from thinwire.comms.group import Group
from thinwire.comms.wire import bytes_of


class ConfigError(ValueError):
    """Members were started with different settings, models or weights; raised at the start, on every member."""


class DivergenceError(RuntimeError):
    """Replicas that must be identical are not; names the member and the first differing tensor."""


def tensor_hash(tensor: Tensor) -> int:
    """xxh3-64 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return xxhash.xxh3_64_intdigest(bytes_of(flat)) if flat.numel() else 0


def agree(group: Group, lines: Sequence[str]) -> bool:
    """Compare `lines` with every member's; False when the network failed.

    Raises `ConfigError` on every member, naming the first line that differs.
    """
    told = _tell(group, lines)
    if told is None:
        return False
    first = min(told)
    for member, theirs in told.items():
        difference = _first_difference(told[first], theirs)
        if difference:
            raise ConfigError(
                f"members {first} and {member} do not match: member {first} has `{difference[0]}`, member {member} has "
                f"`{difference[1]}`; start every member with the same settings, model and initial weights "
                "(same seed or checkpoint, or initial='member0' to take the first member's weights)"
            )
    return True


def explain(group: Group, states: Mapping[int, int], names: Sequence[str], tensors: Sequence[Tensor]) -> DivergenceError:
    """Which members differ from the majority and in which tensor first; every member calls this with its own tensors."""
    told = _tell(group, [f"{name} {tensor_hash(tensor):016x}" for name, tensor in zip(names, tensors, strict=True)])
    counts = list(states.values())
    majority = max(map(counts.count, counts)) * 2 > len(counts)
    agreed = max(dict.fromkeys(counts), key=counts.count)
    odd = [member for member, state in states.items() if state != agreed]
    where = "a tensor that could not be named, as the network failed too"
    if told is not None:
        good = next(member for member, state in states.items() if state == agreed)
        difference = _first_difference(told[good], told[odd[0]])
        where = difference[0].rsplit(" ", 1)[0] if difference else "nothing that is still different"
    if not majority:
        return DivergenceError(
            f"replicas are not identical, first in {where}: members {', '.join(map(str, states))} cannot tell which of them is right, as "
            "none has a majority. Weights were changed outside thinwire, or memory is faulty: restart all from one checkpoint"
        )
    who = f"member {odd[0]} differs" if len(odd) == 1 else f"members {', '.join(map(str, odd))} differ"
    return DivergenceError(
        f"replicas are not identical: {who} from the others, first in {where}. Its weights were changed outside thinwire, or its "
        "memory is faulty: restart it from a checkpoint of another member"
    )


def _tell(group: Group, lines: Sequence[str]) -> dict[int, list[str]] | None:
    told = group.gather_bytes("\n".join(lines).encode())
    if told is None:
        return None
    return {member: blob.decode(errors="replace").split("\n") for member, blob in zip(group.members, told, strict=True)}


def _first_difference(mine: Sequence[str], theirs: Sequence[str]) -> tuple[str, str] | None:
    found = first_difference(mine, theirs)
    return None if found is None else (found[0] or "nothing", found[1] or "nothing")
