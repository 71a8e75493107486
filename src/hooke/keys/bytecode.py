"""What a code object would do, told apart from how it was written.

A listing is the code's instructions with constants and names inline and jumps by instruction number, without
docstrings, line numbers, file names and what only serves the interpreter. It is what really runs: exec'd, generated
and notebook code has one too.
"""

from __future__ import annotations

import dis
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from blake3 import blake3

from hooke.keys.encoding import compound, raw, text
from hooke.keys.scalars import SCALARS, integer

__all__ = ["Instruction", "Listing", "listing"]

_SILENT = frozenset({"NOP", "RESUME", "CACHE", "PRECALL", "EXTENDED_ARG", "NOT_TAKEN"})
_BOOKKEEPING = frozenset({"__doc__", "__firstlineno__", "__static_attributes__", "__module__"})
"""Names that a class or module body stores about its own text."""
_FLAGS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
    | inspect.CO_ITERABLE_COROUTINE
)
_JUMPS = frozenset(dis.hasjrel + dis.hasjabs)
_CONSTANTS = frozenset(dis.hasconst)
_NAMED = frozenset(dis.hasname + dis.haslocal + dis.hasfree + dis.hascompare)


_DIRECTION = re.compile(r"JUMP_(FORWARD|BACKWARD)(_NO_INTERRUPT)?")
_KEEPING = re.compile(r"JUMP_IF_(TRUE|FALSE)_OR_POP")
_TESTING = re.compile(r"(?:POP_)?JUMP_IF_(TRUE|FALSE)(?:_OR_POP)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction: `value` is its constant, name or jump target (an instruction number), else its raw argument."""

    op: str
    opcode: int
    value: object
    arg: int | None
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A code object's instructions and the digest of all it would do, nested code included."""

    digest: bytes
    instructions: tuple[Instruction, ...]
    nested: tuple[types.CodeType, ...]


_KNOWN: WeakKeyDictionary[types.CodeType, Listing] = WeakKeyDictionary()


def listing(code: types.CodeType) -> Listing:
    """The listing of a code object; made once for equal ones, which a code object's equality makes safe."""
    known = _KNOWN.get(code)
    if known is None:
        known = _KNOWN[code] = _list(code)
    return known


def _list(code: types.CodeType) -> Listing:
    body = dis.Bytecode(code)
    everything = list(body)
    kept = [instruction for number, instruction in enumerate(everything) if not _dropped(everything, number)]
    numbers = _numbers(everything, kept)
    plain = [_plain(instruction, numbers) for instruction in kept]
    instructions = tuple(_threaded(instruction, plain) for instruction in plain)
    handlers: list[tuple[int, ...]] = [
        (
            numbers[entry.start],
            numbers.get(entry.end, len(kept)),
            numbers[entry.target],
            entry.depth,
            entry.lasti,
        )
        for entry in body.exception_entries  # type: ignore[attr-defined] - an attribute since 3.11, not in the stubs
    ]
    nested = tuple(i.value for i in instructions if isinstance(i.value, types.CodeType))
    encoded = compound(b"code", [*_signature(code), *map(_encoded, instructions), *_flat(handlers)])
    return Listing(digest=blake3(encoded).digest(), instructions=instructions, nested=nested)


def _dropped(everything: list[dis.Instruction], number: int) -> bool:
    """Silent instructions, and the two that store a docstring or the like in a class or module body."""
    if everything[number].opname in _SILENT:
        return True
    store = everything[number]
    if store.opname == "LOAD_CONST" and number + 1 < len(everything):
        store = everything[number + 1]
    return store.opname == "STORE_NAME" and store.argval in _BOOKKEEPING and _is_constant(everything, number)


def _is_constant(everything: list[dis.Instruction], number: int) -> bool:
    return (
        everything[number if everything[number].opname == "LOAD_CONST" else number - 1].opname == "LOAD_CONST"
    )


def _numbers(everything: list[dis.Instruction], kept: list[dis.Instruction]) -> dict[int, int]:
    """From a byte offset to the number of the instruction that is there, or of the next one that is kept."""
    places = {instruction.offset: number for number, instruction in enumerate(kept)}
    numbers: dict[int, int] = {}
    following = len(kept)
    for instruction in reversed(everything):
        following = places.get(instruction.offset, following)
        numbers[instruction.offset] = following
    return numbers


def _plain(instruction: dis.Instruction, numbers: dict[int, int]) -> Instruction:
    code = instruction.opcode
    if code in _JUMPS:
        value: object = numbers.get(instruction.argval, len(numbers))
    elif code in _CONSTANTS or code in _NAMED:
        value = instruction.argval
    else:
        value = instruction.arg
    line = instruction.positions.lineno if instruction.positions else None
    return Instruction(op=instruction.opname, opcode=code, value=value, arg=instruction.arg, line=line or 0)


def _threaded(instruction: Instruction, all_of_them: list[Instruction]) -> Instruction:
    """A jump taken to its final target. The compiler does so too, but only between instructions on one line."""
    if instruction.opcode not in _JUMPS:
        return instruction
    op, target, seen = _DIRECTION.sub("JUMP", instruction.op), int(str(instruction.value)), set[int]()
    while target < len(all_of_them) and target not in seen:
        seen.add(target)
        onward = _onward(op, target, all_of_them[target])
        if onward is None:
            break
        op, target = onward
    return replace(instruction, op=op, value=target)


def _onward(op: str, target: int, there: Instruction) -> tuple[str, int] | None:
    """What a jump to another jump amounts to: the operation and the target; None if it stops there."""
    then = _DIRECTION.sub("JUMP", there.op)
    if then == "JUMP":
        return op, int(str(there.value))
    ours, theirs = _KEEPING.fullmatch(op), _TESTING.fullmatch(then)
    if ours is None or theirs is None:
        return None
    popped = f"POP_JUMP_IF_{ours[1]}"
    if ours[1] != theirs[1]:
        return popped, target + 1
    return (op if _KEEPING.fullmatch(then) else popped), int(str(there.value))


def _signature(code: types.CodeType) -> Iterator[bytes]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    yield text(code.co_name)
    facts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS)
    yield from map(integer, facts)
    yield from map(text, (*code.co_varnames[:count], *code.co_freevars))


def _encoded(instruction: Instruction) -> bytes:
    return text(instruction.op) + _constant(instruction.value)


def _constant(value: object) -> bytes:
    if isinstance(value, types.CodeType):
        return raw(listing(value).digest)
    if isinstance(value, tuple):
        return compound(b"tuple", map(_constant, value))
    if isinstance(value, frozenset):
        return compound(b"frozenset", sorted(map(_constant, value)))
    scalar = SCALARS.get(type(value))
    return scalar(value) if scalar else text(repr(value))


def _flat(handlers: list[tuple[int, ...]]) -> Iterator[bytes]:
    for handler in handlers:
        yield from map(integer, handler)
