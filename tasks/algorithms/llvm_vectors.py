"""What kernels written in LLVM's own vectors share, for where numba's loops leave a processor's instructions unused.

numba's cache on disk looks at the kernels' own files alone: after a change here, touch those (md5.py, for one).
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

I32, I64 = ir.IntType(32), ir.IntType(64)
_WORDS = 16  # of 32 bits, in a block of 64 bytes


def constant(vector: ir.VectorType, value: int) -> ir.Constant:
    """A vector of one number."""
    return ir.Constant(vector, [ir.Constant(vector.element, value)] * vector.count)


def array_data(context: Any, builder: ir.IRBuilder, kind: Any, value: Any, element: ir.Type) -> Any:
    """Pointer to the first number of a numba array, as a pointer to `element`."""
    data = context.make_array(kind)(context, builder, value).data
    return builder.bitcast(data, element.as_pointer())


def rotated_left(builder: ir.IRBuilder, value: Any, bits: int) -> Any:
    """Every number of a vector turned left: one instruction where the processor has it."""
    kind = value.type
    return called(builder, f"llvm.fshl.v{kind.count}i32", kind, value, value, constant(kind, bits))


def called(builder: ir.IRBuilder, name: str, returns: ir.Type, *arguments: Any) -> Any:
    """What one of LLVM's intrinsics makes of these."""
    kind = ir.FunctionType(returns, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def shuffled(builder: ir.IRBuilder, one: Any, other: Any, places: list[int]) -> Any:
    """Elements of `one` and, counted on from its end, of `other`."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(I32, len(places)), places))


def transposed_words(builder: ir.IRBuilder, addresses: Any, lanes: int) -> list[Any]:
    """Word w of the 64-byte blocks at `lanes` addresses (a multiple of 16), for each w: vectors [lanes] of 32 bits."""
    row = ir.VectorType(I32, _WORDS)
    groups = []
    for first in range(0, lanes, _WORDS):
        rows = []
        for lane in range(first, first + _WORDS):
            address = builder.load(builder.gep(addresses, [I32(lane)]))
            rows.append(builder.load(builder.inttoptr(address, row.as_pointer()), align=1))
        groups.append(_transposed(builder, rows))
    return [_joined(builder, [group[word] for group in groups]) for word in range(_WORDS)]


def _transposed(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """16 vectors of 16 the other way round, by four perfect shuffles: each turns the 8 bits of (row, place) by one."""
    half = _WORDS // 2
    low = [place for pair in range(half) for place in (pair, _WORDS + pair)]
    high = [place + half for place in low]
    for _ in range(4):
        rows = [
            shuffled(builder, rows[pair], rows[pair + half], places) for pair in range(half) for places in (low, high)
        ]
    return rows


def _joined(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """Vectors of equal length one after the other."""
    while len(vectors) > 1:
        count = vectors[0].type.count
        vectors = [
            shuffled(builder, one, other, list(range(2 * count)))
            for one, other in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]
