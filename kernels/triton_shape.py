"""A `Program` as the powers of two that Triton's tensors need: how many rows one kernel program holds, and where fields of a record lie."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from thinwire.kernels.program import Index, Program, Select, Value

LANES = 64  # lines of a DCT that a program transforms at a time, two threads each
ELEMENTS = 4096  # coefficients of a program that selects
DENSE = 2048  # of one that sends all; rows may be longer
MOST = 16384  # coefficients of a row that a program can hold
BITS = {
    Value.FLOAT32: 32,
    Value.BFLOAT16: 16,
    Value.FLOAT16: 16,
    Value.INT8: 8,
    Value.INT4: 4,
    Value.INT2: 2,
    Value.SIGN: 1,
    Value.VOTE: 1,
    Value.FP8: 8,
    Value.FP4: 4,
}
SHORT = {Value.BFLOAT16: (7, 127), Value.FLOAT16: (10, 15), Value.FP8: (3, 7), Value.FP4: (1, 1)}  # bits of mantissa, bias of exponent
QMAX = {Value.INT8: 127, Value.INT4: 7, Value.INT2: 1, Value.SIGN: 1, Value.FP8: 448, Value.FP4: 6}


@dataclass(frozen=True)
class Shape:
    """What kernels are specialised to: everything but the number of rows. A compile-time constant of theirs."""

    chunk: int
    side: int
    select: int
    k: int
    block: int
    coded: int  # `Program.value`: a constant's attribute `value` is the constant itself to Triton
    index: int
    scale: int
    record: int  # 32-bit words
    seed: int
    lines: int  # rows of a kernel program, a power of two
    flat: bool  # the rows mean nothing: numbers one after another, each by itself

    def __repr__(self) -> str:
        """All that follows from the fields too: Triton keeps compiled kernels on disk under the text of their constants."""
        names = [*vars(type(self)), *self.__annotations__]
        shown = {name: getattr(self, name) for name in names if not name.startswith("_")}
        return f"Shape({', '.join(f'{name}={value}' for name, value in sorted(shown.items()) if not callable(value))})"

    @cached_property
    def width(self) -> int:
        """`chunk`, or the power of two above."""
        return max(32, power_of_two(self.chunk))

    @cached_property
    def sparse(self) -> bool:
        return self.select != Select.ALL

    @cached_property
    def many(self) -> int:
        """`k`, or the power of two above."""
        return max(32, power_of_two(self.k)) if self.sparse else self.width

    @cached_property
    def lanes(self) -> int:
        """`many`, or more if threads were without a coefficient: the compiler loads smaller tensors again for every layout it thinks of."""
        return max(self.many, 32 * self.warps // self.lines)

    @cached_property
    def group(self) -> int:
        """Members whose records are read at a time, a power of two, so that every thread has a coefficient."""
        return max(32 * self.warps // (self.lines * self.many), 1)

    @cached_property
    def bits(self) -> int:
        """Of a value."""
        return BITS[Value(self.coded)]

    @cached_property
    def qmax(self) -> int:
        return QMAX.get(Value(self.coded), 0)

    @cached_property
    def integer(self) -> bool:
        return self.coded in (Value.INT8, Value.INT4, Value.INT2)

    @cached_property
    def mantissa(self) -> int:
        return SHORT.get(Value(self.coded), (0, 0))[0]

    @cached_property
    def bias(self) -> int:
        return SHORT.get(Value(self.coded), (0, 0))[1]

    @cached_property
    def low(self) -> int:
        """Bits of an index that stand in planes."""
        if self.index == Index.ELIAS_FANO:
            return (self.chunk // self.k).bit_length() - 1
        if self.index in (Index.PLANES, Index.OFFSETS):
            return ((self.block if self.index == Index.OFFSETS else self.chunk) - 1).bit_length()
        return 0

    @cached_property
    def upper(self) -> int:
        """Bits before the planes, of which k are set: the upper part of Elias-Fano, or a bitmap."""
        if self.index == Index.ELIAS_FANO:
            return self.k + (self.chunk >> self.low)
        return self.chunk if self.index == Index.BITMAP else 0

    @cached_property
    def upper_words(self) -> int:
        return words(self.upper)

    @cached_property
    def low_words(self) -> int:
        return words(self.k * self.low)

    @cached_property
    def upper_room(self) -> int:
        """`upper_words`, or the power of two above."""
        return max(4, power_of_two(self.upper_words))

    @cached_property
    def step(self) -> int:
        """Words of the upper part that are put together at a time."""
        return max(min(ELEMENTS // (self.lines * self.lanes), power_of_two(self.upper_words)), 1)

    @cached_property
    def low_bits(self) -> int:
        """Bits of all planes, or the power of two above."""
        return power_of_two(32 * self.low_words)

    @cached_property
    def value_words(self) -> int:
        return words(self.k * self.bits)

    @cached_property
    def upper_at(self) -> int:
        """The first word of the field; the scale is word 0 where there is one."""
        return self.scale

    @cached_property
    def low_at(self) -> int:
        return self.upper_at + self.upper_words

    @cached_property
    def value_at(self) -> int:
        return self.low_at + self.low_words

    @cached_property
    def warps(self) -> int:
        if self.side:
            return 4
        return min(max(self.lines * self.width // 512, self.k // 256 if self.sparse else 1, 1), 16)


def words(bits: int) -> int:
    """32-bit words that hold so many bits."""
    return -(-bits // 32)


def power_of_two(n: int) -> int:
    """The smallest that is not less than n."""
    return 1 << (n - 1).bit_length() if n > 0 else 1


def flat(program: Program) -> bool:
    """Whether the rows mean nothing to the payload: it is the numbers one after another, each by itself."""
    whole_words = program.rows == 1 or program.chunk * BITS[Value(program.value)] % 32 == 0
    return program.select == Select.ALL and not program.scale and not program.side and program.value != Value.VOTE and whole_words


@lru_cache(maxsize=256)
def shape_of(program: Program) -> Shape:
    """Raises `ValueError` for programs whose rows no kernel can hold."""
    made = program._replace(record=program.record // 4)
    if flat(program):  # any cut into rows will do
        made = made._replace(chunk=DENSE, k=DENSE, record=DENSE * BITS[Value(program.value)] // 32)
    elif program.chunk > MOST:
        raise ValueError(f"{program}: rows of more than {MOST} coefficients")
    if made.chunk < 1 or made.record != words(made.k * BITS[Value(made.value)]) + made.scale + _index_words(made):
        raise ValueError(f"{program}: the record is not {program.record} bytes")
    width = max(32, power_of_two(made.chunk))
    elements = DENSE if made.select == Select.ALL else ELEMENTS
    lines = LANES // made.side if made.side else max(elements // width, 1)
    return Shape(*made[1:], lines=lines, flat=flat(program))


def _index_words(program: Program) -> int:
    shape = Shape(*program[1:], lines=1, flat=False)
    return shape.upper_words + shape.low_words
