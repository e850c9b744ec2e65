"""A numba type for a struct that lives in memory owned by Python: fields by name, no reference counting.

Numba's own structs count references with atomic operations at every call, which costs several times what the engine
computes in a layer step (measured). A view is a bare pointer: its maker keeps the memory alive.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.compiler import CompileResult
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, lower_setattr_generic, register_model
from numpy.typing import NDArray

from traces.errors import UserError

if config.DISABLE_JIT:
    raise UserError("NUMBA_DISABLE_JIT=1: must be 0 or not set, since the engines exist as compiled code only")
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def core_jit(function: F) -> F:
    """Compiles engine code, which owns no memory: without numba's reference counting it runs half again as fast."""
    compiled: F = njit(cache=True, _nrt=False)(function)
    return compiled


FUNCTION_WORDS = 3
"""Addresses of a first-class function: as C calls it, its Python object, as compiled code calls it."""


class View(types.Type):  # type: ignore[misc]
    """Type of a pointer to a struct with the given fields; ``writable``: those that may be set, None: all;
    ``hidden``: those that may not even be read."""

    def __init__(
        self,
        name: str,
        fields: dict[str, Any],
        writable: frozenset[str] | None = None,
        hidden: frozenset[str] = frozenset(),
    ) -> None:
        self.fields, self.writable, self.hidden = dict(fields), writable, hidden
        what = ", ".join(f"{field}:{kind}" for field, kind in fields.items())
        limits = "" if writable is None else f" writes {', '.join(sorted(writable))}, not {', '.join(sorted(hidden))}"
        super().__init__(name=f"View[{name}]({what}){limits}")


@register_model(View)
class ViewModel(models.OpaqueModel):  # type: ignore[misc]
    """A pointer that nobody counts."""


@infer_getattr
class ViewFields(AttributeTemplate):  # type: ignore[misc]
    """Types of the fields."""

    key = View

    def generic_resolve(self, view: View, field: str) -> Any:
        return None if field in view.hidden else view.fields.get(field)


def _field(context: Any, builder: Any, view: View, pointer: Any, field: str) -> Any:
    kinds = (types.int64 if kind is types.boolean else kind for kind in view.fields.values())
    layout = ir.LiteralStructType([context.get_value_type(kind) for kind in kinds])
    struct = builder.bitcast(pointer, layout.as_pointer())
    return cgutils.gep_inbounds(builder, struct, 0, list(view.fields).index(field))


@lower_getattr_generic(View)
def _load(context: Any, builder: Any, view: View, pointer: Any, field: str) -> Any:
    value = builder.load(_field(context, builder, view, pointer, field))
    return cgutils.is_true(builder, value) if view.fields[field] is types.boolean else value


@lower_setattr_generic(View)
def _store(context: Any, builder: Any, signature: Any, arguments: Any, field: str) -> None:
    view, kind = signature.args
    if view.writable is not None and field not in view.writable:
        raise TypingError(f"Cannot store to {field}")
    value = context.cast(builder, arguments[1], kind, view.fields[field])
    builder.store(value, _field(context, builder, view, arguments[0], field))


def caster(view: View, described: type[T]) -> Callable[[int], T]:
    """An intrinsic that takes an address for a view of this type, whose fields ``described`` annotates."""

    @intrinsic
    def cast(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return view(address), generate

    to_view: Callable[[int], T] = cast
    return to_view


@intrinsic
def borrow(_: Any, array: Any) -> Any:
    """The same array without a share in its memory, as views hold it. The caller keeps the memory alive."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bare = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0])
        bare.meminfo = cgutils.get_null_value(bare.meminfo.type)
        bare.parent = cgutils.get_null_value(bare.parent.type)
        return bare._getvalue()

    return array(array), generate


class Struct:
    """Memory for one struct: every field takes whole 8-byte words, in order. Numbers, arrays and compiled functions can
    be set by name; arrays are kept alive as long as the struct.
    """

    def __init__(self, view: View, **values: Any) -> None:
        self.fields, self.offsets, size = view.fields, {}, 0
        for field, kind in view.fields.items():
            self.offsets[field] = size
            size += count_words(kind)
        self.memory = np.zeros(size, np.int64)
        self.address = int(self.memory.ctypes.data)
        self.arrays: dict[str, NDArray[Any]] = {}
        self.kept: Any = None  # what else must live as long
        for field, value in values.items():
            self.set(field, value)

    def set(self, field: str, value: float | NDArray[Any]) -> None:
        """Write a number, or let an array field share a numpy array's memory."""
        at = self.offsets[field]
        if isinstance(value, np.ndarray):
            self.arrays[field] = value
            # numba's array: owner, Python object, items, bytes per item, data, shape, strides
            row = (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
            self.memory[at : at + len(row)] = row
        else:
            self.memory[at] = np.float64(value).view(np.int64) if self.fields[field] is types.float64 else value

    def set_function(self, field: str, compiled: CompileResult) -> None:
        """Let a function field call a compiled function.

        Its own signature may name another view where that of the field has one: both are bare pointers.
        """
        at, code = self.offsets[field], compiled.fndesc
        address = compiled.library.get_pointer_to_function
        row = (address(code.llvm_cfunc_wrapper_name), id(compiled.entry_point), address(code.llvm_func_name))
        self.memory[at : at + FUNCTION_WORDS] = row

    def integers(self, first: str, last: str) -> NDArray[np.int64]:
        """A view of the integer fields from ``first`` to ``last``."""
        return self.memory[self.offsets[first] : self.offsets[last] + 1]

    def number_words(self) -> NDArray[np.intp]:
        """Where in ``memory`` the fields lie that are numbers, and no addresses."""
        numbers = (types.int64, types.float64, types.boolean)
        return np.array([self.offsets[field] for field, kind in self.fields.items() if kind in numbers], np.intp)

    def borrowed(self, field: str, kind: Any) -> NDArray[Any]:
        """The array that compiled code has set a field to; its memory is whoever's made it."""
        at, ndim = self.offsets[field], int(self.fields[field].ndim)
        size, _, address, *shape = self.memory[at + 2 : at + 5 + ndim].tolist()
        if size == 0:
            return np.zeros(shape, kind)
        cells = (ctypes.c_char * (size * np.dtype(kind).itemsize)).from_address(address)
        return np.frombuffer(cells, kind).reshape(shape)

    def get(self, field: str) -> int:
        """Read an integer."""
        return int(self.memory[self.offsets[field]])


def count_words(kind: Any) -> int:
    """8-byte words that a value of a numba type takes."""
    if isinstance(kind, types.Array):
        return 5 + 2 * int(kind.ndim)
    if isinstance(kind, types.FunctionType):
        return FUNCTION_WORDS
    return 1
