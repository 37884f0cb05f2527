"""A small assembler of vector code: LLVM IR in SSA form, compiled in milliseconds to a function pointer.

numba infers types before it compiles, which takes seconds where LLVM takes milliseconds. The few loops that decide the
speed are therefore built with this module, one `Function` each, and numba code calls them by address, see `caller`. They
need no optimiser: values live in registers because they are SSA values, loops carry them in phi nodes, and fused
multiply-adds are called by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core.compiler_lock import global_compiler_lock

from shiftsearch.backends.cpu.memory import intrinsic

INT: ir.IntType = ir.IntType(64)
INT32: ir.IntType = ir.IntType(32)
Integer: TypeAlias = "int | ir.Value"  # known when the code is built, or only when it runs
Count = int  # under another name, as `int` is a method of `Function`
INT16: ir.IntType = ir.IntType(16)
HALF: ir.HalfType = ir.HalfType()
_ELEMENTS = {"float32": (ir.FloatType(), "f32", 4), "float64": (ir.DoubleType(), "f64", 8)}


@functools.cache
def _features():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.get_host_cpu_features()


def _machine():
    """Return a code generator for this CPU. An engine takes it over, so each gets a new one."""
    # LLVM prefers 256-bit vectors on CPUs that once throttled; what runs here is dense enough for 512
    features = _features().flatten() + (",-prefer-256-bit" if has_compress() else "")
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


@functools.cache
def register_bytes() -> int:
    """Return the bytes of one vector register of this machine."""
    features = _features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


def registers() -> int:
    """Return how many vector registers this machine has."""
    return 16 if register_bytes() == 32 else 32


def has_compress() -> bool:
    return register_bytes() == 64


def has_halves() -> bool:
    """Return whether this processor converts numbers of half precision: old ones of x86 do not."""
    features = _features()
    return features.get("f16c", "sse2" not in features)


def lanes(dtype: str) -> int:
    return register_bytes() // _ELEMENTS[dtype][2]


class Function:
    """A function under construction.

    Arguments come as kinds: "p" pointer to elements, "i" pointer to 32-bit integers, "l" 64-bit
    integer. It returns a 64-bit integer.
    """

    element: ir.Type
    bytes: Count
    lanes: Count
    module: ir.Module
    function: ir.Function
    arguments: Sequence[ir.Value]
    b: ir.IRBuilder

    def __init__(self, name: str, dtype: str, arguments: str):
        self.element, self._suffix, self.bytes = _ELEMENTS[dtype]
        self.lanes = lanes(dtype)
        kinds = {"p": self.element.as_pointer(), "i": INT32.as_pointer(), "l": INT}
        self.module = ir.Module(name)
        self.module.triple = llvm.get_default_triple()
        signature = ir.FunctionType(INT, [kinds[kind] for kind in arguments])
        self.function = ir.Function(self.module, signature, name)
        self.arguments = self.function.args
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    # integers -------------------------------------------------------------------------------
    @staticmethod
    def int(value: Integer) -> ir.Value:
        return value if isinstance(value, ir.Value) else INT(value)

    def add(self, *terms: Integer) -> ir.Value:
        return functools.reduce(self.b.add, map(self.int, terms))

    def mul(self, x: Integer, y: Integer) -> ir.Value:
        return self.b.mul(self.int(x), self.int(y))

    def least(self, x: Integer, y: Integer) -> ir.Value:
        x, y = self.int(x), self.int(y)
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def most(self, x: Integer, y: Integer) -> ir.Value:
        x, y = self.int(x), self.int(y)
        return self.b.select(self.b.icmp_signed(">", x, y), x, y)

    def loop(
        self,
        count: Integer,
        carried: Sequence[ir.Value],
        body: Callable[..., Iterable[ir.Value] | None],
        step: Integer = 1,
        start: Integer = 0,
    ) -> list[ir.Value]:
        """Return the last `carried` of `for i in range(start, count, step): carried = body(i, *carried)`."""
        b, start, count = self.b, self.int(start), self.int(count)
        before, head = b.block, b.append_basic_block("loop")
        inside, after = b.append_basic_block("body"), b.append_basic_block("after")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(INT)
        i.add_incoming(start, before)
        phis = [b.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", i, count), inside, after)
        b.position_at_end(inside)
        results = list(body(i, *phis) or ())
        i.add_incoming(b.add(i, self.int(step)), b.block)
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return phis

    # vectors --------------------------------------------------------------------------------
    def vector(self, n: Count | None = None) -> ir.VectorType:
        return ir.VectorType(self.element, n or self.lanes)

    def zeros(self, n: Count | None = None) -> ir.Constant:
        return ir.Constant(self.vector(n), [0.0] * (n or self.lanes))

    def full(self, value: float, n: Count | None = None) -> ir.Constant:
        return ir.Constant(self.vector(n), [value] * (n or self.lanes))

    @staticmethod
    def integers(values: Iterable[Count]) -> ir.Constant:
        """Return a vector of 32-bit integers."""
        return _integers(tuple(values))

    def count_from(self, start: ir.Value, n: Count) -> ir.Value:
        """Return the vector start, start + 1, ..., start + n - 1 of 32-bit integers."""
        return self.b.add(self.splat(self.b.trunc(start, INT32), n), self.integers(range(n)))

    def splat(self, x: ir.Value, n: Count | None = None) -> ir.Value:
        n = n or self.lanes
        undefined = ir.Constant(ir.VectorType(x.type, n), ir.Undefined)
        return self.shuffle(self.b.insert_element(undefined, x, INT32(0)), undefined, [0] * n)

    def shuffle(self, x: ir.Value, y: ir.Value, lanes: Iterable[Count]) -> ir.Value:
        """Return the vector of these lanes of x and y; those of y are counted behind those of x."""
        return self.b.shuffle_vector(x, y, self.integers(lanes))

    def _at(self, pointer, index, kind=None):
        address = self.b.gep(pointer, [self.int(index)])
        return self.b.bitcast(address, kind.as_pointer()) if kind else address

    def scalar(self, pointer: ir.Value, index: Integer) -> ir.Value:
        return self.b.load(self._at(pointer, index))

    def load(self, pointer: ir.Value, index: Integer, n: Count | None = None) -> ir.Value:
        kind = ir.VectorType(pointer.type.pointee, n or self.lanes)
        return self.b.load(self._at(pointer, index, kind), align=self._bytes(kind))

    def shifted(self, pointer: ir.Value, index: Integer, count: Count, n: Count) -> list[ir.Value]:
        """Return the vectors of n numbers from pointer[index], from pointer[index + 1], ...: `count` of them, at most n + 1."""
        if register_bytes() < 64 or count == 1:
            return [self.load(pointer, self.add(index, i), n) for i in range(count)]
        # nearly every load that is not aligned crosses a cache line and takes two turns: moving lanes takes one
        here, behind = self.load(pointer, index, n), self.load(pointer, self.add(index, n), n)
        return [self.shuffle(here, behind, range(i, i + n)) for i in range(count)]

    def store(self, value: ir.Value, pointer: ir.Value, index: Integer) -> None:
        self.b.store(value, self._at(pointer, index, value.type), align=min(self._bytes(value.type), 4))

    def _bytes(self, kind: ir.Type) -> Count:
        return 2 if getattr(kind, "element", kind) in (HALF, INT16) else self.bytes

    def widened(self, x: ir.Value) -> ir.Value:
        """Return numbers of 16 bits, whole or of half precision, as numbers of the function; such numbers stay."""
        kind = getattr(x.type, "element", x.type)
        if kind == self.element:
            return x
        convert = self.b.fpext if kind == HALF else self.b.sitofp
        return convert(x, self._like(x, self.element))

    def narrowed(self, x: ir.Value, kind: ir.Type) -> ir.Value:
        """Return numbers of the function as numbers of another kind, see `widened`. Fractions are cut off whole ones."""
        if kind == self.element:
            return x
        convert = self.b.fptrunc if kind == HALF else self.b.fptosi
        return convert(x, self._like(x, kind))

    @staticmethod
    def _like(x: ir.Value, kind: ir.Type) -> ir.Type:
        return ir.VectorType(kind, x.type.count) if isinstance(x.type, ir.VectorType) else kind

    def prefetch(self, pointer: ir.Value, index: Integer) -> None:
        """Have memory fetched into the cache, which need not exist."""
        address = self._at(pointer, index, ir.IntType(8))
        function = self._declare("llvm.prefetch.p0", ir.VoidType(), [address.type, INT32, INT32, INT32])
        self.b.call(function, [address, INT32(0), INT32(3), INT32(1)])

    def first(self, count: Integer, n: Count | None = None) -> ir.Value:
        """Return the mask of the first `count` lanes."""
        n = n or self.lanes
        limit = self.splat(self.b.trunc(self.int(count), INT32), n)
        return self.b.icmp_signed("<", self.integers(range(n)), limit)

    def store_masked(self, value: ir.Value, pointer: ir.Value, index: Integer, mask: ir.Value) -> None:
        address = self._at(pointer, index, value.type)
        function = self._declare(
            f"llvm.masked.store.v{self.lanes}{self._suffix}.p0",
            ir.VoidType(),
            [value.type, address.type, INT32, mask.type],
        )
        self.b.call(function, [value, address, INT32(self.bytes), mask])

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        function = self._declare(f"llvm.fma.v{x.type.count}{self._suffix}", x.type, [x.type] * 3)
        return self.b.call(function, [x, y, z])

    def plus(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.fadd(x, y)

    def minus(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.fsub(x, y)

    def tree(self, values: Iterable[ir.Value]) -> ir.Value:
        """Return the sum of `values`, pairwise."""
        values = list(values)
        while len(values) > 1:
            pairs = [self.plus(*values[i : i + 2]) for i in range(0, len(values) - 1, 2)]
            values = pairs + values[len(values) // 2 * 2 :]
        return values[0]

    def shift(self, x: ir.Value, by: Count) -> ir.Value:
        """Return lanes moved down by `by`, zeros behind."""
        n = x.type.count
        return self.shuffle(x, ir.Constant(x.type, [0.0] * n), [min(i + by, n) for i in range(n)])

    def low(self, x: ir.Value, n: Count) -> ir.Value:
        """Return the first n lanes."""
        return self.shuffle(x, x, range(n))

    def lane_sums(self, vectors: list[ir.Value]) -> ir.Value:
        """Return one vector whose lane i is the sum of the lanes of `vectors[i]`; as many vectors as lanes."""
        even, odd = range(0, 2 * self.lanes, 2), range(1, 2 * self.lanes, 2)
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self.plus(self.shuffle(x, y, even), self.shuffle(x, y, odd)) for x, y in pairs]
        return vectors[0]

    def rotate(self, x: ir.Value, by: Count) -> ir.Value:
        """Return lanes moved down by `by`, the first ones behind the last."""
        n = x.type.count
        return self.shuffle(x, x, [(i + by) % n for i in range(n)])

    def has_nan(self, x: ir.Value) -> ir.Value:
        """Return an integer that is 0 if no lane is NaN."""
        return self.b.zext(self.b.bitcast(self.b.fcmp_unordered("uno", x, x), ir.IntType(x.type.count)), INT)

    def compress(self, x: ir.Value, mask: ir.Value) -> ir.Value:
        suffix = self._suffix if x.type.element == self.element else "i32"
        name = f"llvm.experimental.vector.compress.v{x.type.count}{suffix}"
        function = self._declare(name, x.type, [x.type, mask.type, x.type])
        return self.b.call(function, [x, mask, ir.Constant(x.type, ir.Undefined)])

    def _declare(self, name, result, arguments):
        found = self.module.globals.get(name)
        return found or ir.Function(self.module, ir.FunctionType(result, arguments), name)

    def compile(self, result: Integer = 0) -> Count:
        """Return the address of the finished function, which returns `result`."""
        self.b.ret(self.int(result))
        with global_compiler_lock:
            module = llvm.parse_assembly(str(self.module))
            engine = llvm.create_mcjit_compiler(module, _machine())
            engine.finalize_object()
        _ENGINES.append(engine)  # owns the code
        return engine.get_function_address(self.function.name)


@functools.cache
def _integers(values: tuple[int, ...]) -> ir.Constant:
    """Return a vector, always the same one: writing its text for LLVM takes long."""
    return ir.Constant(ir.VectorType(INT32, len(values)), values)


_ENGINES: list = []


def caller(kinds: str) -> Callable[..., Any]:
    """Return a numba function `call(address, *arguments)` for functions with these argument kinds.

    Memory is given as a `pointer` in the place of each "p" and "i", see `after`.
    """

    def generate(context, builder, signature, values):
        native = [
            context.cast(builder, value, given, types.int64) if kind == "l" else value
            for kind, value, given in zip(kinds, values[1:], signature.args[1:], strict=True)
        ]
        kind = ir.FunctionType(INT, [value.type for value in native]).as_pointer()
        return builder.call(builder.inttoptr(values[0], kind), native)

    names = ", ".join(f"a{i}" for i in range(len(kinds)))
    scope: dict[str, Any] = {"types": types, "generate": generate}
    exec(f"def call(context, address, {names}):\n    return types.int64(types.int64, {names}), generate", scope)
    return intrinsic(scope["call"])
