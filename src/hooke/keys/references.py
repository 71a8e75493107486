"""What a code object refers to outside itself: globals with their attribute chains, imports, free variables.

Found by reading its instructions and those of the code nested in it, never by running anything.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from hooke.keys.bytecode import Instruction, listing

__all__ = ["Import", "Reference", "References", "references"]

Chain = tuple[str, ...]
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_FREE = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_TAKES_NAME = frozenset({"getattr", "hasattr", "setattr", "delattr"})
_BETWEEN = frozenset({"IMPORT_FROM", "SWAP", "POP_TOP", "ROT_TWO"})
"""What stands between the import and the store in `import a.b as c`."""
_SKIPPED = frozenset({"PUSH_NULL", "COPY_FREE_VARS", "MAKE_CELL"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A global that is read: `chain` are the attributes read from it at once; `fixed` = a constant attribute name."""

    name: str
    chain: Chain
    line: int
    fixed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """An import inside a body: the chains read from the module (`top`: from its top package); () means all of it."""

    module: str
    level: int
    top: bool
    chains: tuple[Chain, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Everything that a code object and the code nested in it refer to, in the order of the instructions."""

    globals: tuple[Reference, ...]
    imports: tuple[Import, ...]
    free: dict[str, tuple[Chain, ...]]


_KNOWN: WeakKeyDictionary[types.CodeType, References] = WeakKeyDictionary()


def references(code: types.CodeType) -> References:
    """The references of a code object, read once."""
    known = _KNOWN.get(code)
    if known is None:
        known = _KNOWN[code] = _read(code)
    return known


def _read(code: types.CodeType) -> References:
    found: list[Reference] = []
    imports: list[Import] = []
    for each in _family(code):
        instructions = [i for i in listing(each).instructions if i.op not in _SKIPPED]
        found += _globals(instructions)
        imports += _imports(each, instructions)
    free = {name: tuple(_chains(code, name)) for name in code.co_freevars}
    return References(globals=tuple(dict.fromkeys(found)), imports=tuple(imports), free=free)


def _family(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for nested in listing(code).nested:
        yield from _family(nested)


def _globals(instructions: Sequence[Instruction]) -> Iterator[Reference]:
    for place, instruction in enumerate(instructions):
        if instruction.op in _GLOBALS:
            name = str(instruction.value)
            fixed = name not in _TAKES_NAME or _names_constant(instructions, place)
            yield Reference(name=name, chain=_chain(instructions, place), line=instruction.line, fixed=fixed)


def _chain(instructions: Sequence[Instruction], place: int) -> Chain:
    names = []
    for following in instructions[place + 1 :]:
        if following.op not in _ATTRIBUTES:
            break
        names.append(str(following.value))
    return tuple(names)


def _names_constant(instructions: Sequence[Instruction], place: int) -> bool:
    """Whether the second argument of the getattr-like call that begins here is a constant text.

    Follows the height of the stack from the function's load to its call; a call with jumps inside is taken as no.
    """
    base, height, second = 0, 0, -1
    for number in range(place + 1, len(instructions)):
        instruction = instructions[number]
        if instruction.op in {"CALL", "CALL_FUNCTION"}:
            count = int(instruction.arg or 0)
            if height == base + count:
                return count in {2, 3} and second >= 0 and _lone(instructions, second, number, count)
        if "JUMP" in instruction.op:
            return False
        before = height
        height += _effect(instruction)
        if before == base + 1 and height == base + 2:
            second = number
        if height < base:
            return False
    return False


def _effect(instruction: Instruction) -> int:
    """How far an instruction moves the stack's height; a call takes callable, self or NULL and its arguments."""
    if instruction.op == "CALL":
        return -(instruction.arg or 0) - 1
    return dis.stack_effect(
        instruction.opcode, instruction.arg if instruction.opcode >= dis.HAVE_ARGUMENT else None
    )


def _lone(instructions: Sequence[Instruction], second: int, call: int, count: int) -> bool:
    load = instructions[second]
    if load.op != "LOAD_CONST" or not isinstance(load.value, str):
        return False
    if count == 2:
        return second == call - 1
    height = 0
    for instruction in instructions[second + 1 : call]:
        height += _effect(instruction)
        if height < 1:
            return False
    return True


def _imports(code: types.CodeType, instructions: Sequence[Instruction]) -> Iterator[Import]:
    for place, instruction in enumerate(instructions):
        if instruction.op == "IMPORT_NAME":
            level, names = _import_arguments(instructions[:place])
            top, chains = _imported(code, instructions, place) if not names else (False, _named(names))
            yield Import(
                module=str(instruction.value), level=level, top=top, chains=chains, line=instruction.line
            )


def _import_arguments(before: Sequence[Instruction]) -> tuple[int, tuple[str, ...]]:
    level, names = (i.value for i in before[-2:])
    return (level if isinstance(level, int) else 0), (names if isinstance(names, tuple) else ())


def _named(names: tuple[str, ...]) -> tuple[Chain, ...]:
    return ((),) if "*" in names else tuple((name,) for name in names)


def _imported(
    code: types.CodeType, instructions: Sequence[Instruction], place: int
) -> tuple[bool, tuple[Chain, ...]]:
    """What `import a.b` (binds `a`) or `import a.b as c` (binds `a.b`) reads from what it binds."""
    store = place + 1
    while store < len(instructions) and instructions[store].op in _BETWEEN:
        store += 1
    top = store == place + 1
    if store == len(instructions) or instructions[store].op not in {"STORE_FAST", "STORE_DEREF"}:
        return False, ((),)
    return top, tuple(_chains(code, str(instructions[store].value)))


def _chains(code: types.CodeType, variable: str) -> Iterator[Chain]:
    """The attribute chains read from a local or free variable, here and in nested code."""
    seen: dict[Chain, None] = {}
    for each in _family(code):
        instructions = [i for i in listing(each).instructions if i.op not in _SKIPPED]
        for place, instruction in enumerate(instructions):
            if _reads(instruction, variable):
                seen[_chain(instructions, place)] = None
    yield from seen


def _reads(instruction: Instruction, variable: str) -> bool:
    if not instruction.op.startswith("LOAD_FAST") and instruction.op not in _FREE:
        return False
    return variable in (instruction.value if isinstance(instruction.value, tuple) else (instruction.value,))
