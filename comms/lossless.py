"""Bytes made shorter for the wire, and back, bit for bit: for payloads of fixed size of which much is zero.

    coded    form 1, then by form
      0      section (comms/sections.py)                     deflated by frequencies or with matches
      1      gaps (comms/gaps.py) of the bytes that are not zero, then they as a section

A payload's size is its plan's, whatever is in it; a gate (`thinwire.optim.gate`) or a coarse scale leaves most of its bytes zero. Deflate
alone spends about twice their entropy on places of zeros (measured: 6.5 of 12.0 times at 5 % of int8 codes), gaps come within 2 % of it.

Who decodes knows the size before: no more than that is ever inflated, and `WireError` is all that other bytes can cause.
"""

import numpy as np
from numpy.typing import NDArray

from thinwire.comms import gaps
from thinwire.comms.sections import Reader, deflated, section
from thinwire.comms.wire import WireError

Bytes = NDArray[np.uint8]

MIN_NBYTES = 256  # shorter ones are not worth a look
_FORMS = _SECTION, _SPARSE = 0, 1
_SAMPLES, _SAMPLE_NBYTES = 8, 4 << 10


def promises(data: bytes | bytearray | memoryview) -> bool:
    """Whether at least an eighth of these bytes can be saved, judged by a sample of 32 KiB."""
    if len(data) < MIN_NBYTES:
        return False
    step = len(data) // _SAMPLES
    view = memoryview(data)
    whole = step <= _SAMPLE_NBYTES
    sample = bytes(view) if whole else b"".join(view[i * step : i * step + _SAMPLE_NBYTES] for i in range(_SAMPLES))
    return len(deflated(sample)) < len(sample) * 7 // 8


def shorter(data: bytes | bytearray | memoryview) -> bytes | None:
    """The coded form of `data`, or None when it would not be shorter. Deterministic."""
    raw = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(raw)
    if 4 * len(places) <= len(raw):  # with more, gaps cost as much as frequencies say
        coded = bytes([_SPARSE]) + gaps.write(places, len(raw)) + section(raw[places])
    else:
        coded = bytes([_SECTION]) + section(raw)
    return coded if len(coded) < len(raw) else None


def restored(coded: bytes | bytearray | memoryview, nbytes: int) -> Bytes:
    """The `nbytes` that were coded. Raises `WireError`, and nothing else, for bytes that are no coded form of as many."""
    reader = Reader(memoryview(coded).cast("B"))
    form = reader.take(1)[0]
    if form not in _FORMS:
        raise WireError(f"form {form} of coded bytes is unknown")
    if form == _SPARSE:
        places = gaps.read(reader, nbytes)
        raw = np.zeros(nbytes, np.uint8)
        raw[places] = np.frombuffer(reader.section(len(places)), np.uint8)
    else:
        raw = np.frombuffer(reader.section(nbytes), np.uint8)
    if reader.at != len(reader.data):
        raise WireError(f"{len(reader.data) - reader.at} bytes behind what was coded")
    return raw
