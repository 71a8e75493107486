"""The behavior of a code object, independent of how it was written.

A listing has the code's instructions with constants and names inline and jumps by instruction number, without
docstrings, line numbers, file names and instructions that only serve the interpreter. Code from `exec`, generated
code and notebooks have one too.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import linecache
import re
import types
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import msgspec
from blake3 import blake3
from msgspec.structs import replace

from hooke.base.syntax import parse_python
from hooke.keys.encoding import SCALARS, compound, integer, raw, text

__all__ = [
    "Import",
    "Instruction",
    "Listing",
    "Reference",
    "References",
    "class_source",
    "code_source",
    "listing",
    "module_code",
    "module_digest",
    "references",
]


_SILENT = frozenset({"NOP", "RESUME", "CACHE", "PRECALL", "EXTENDED_ARG", "NOT_TAKEN"})
_BOOKKEEPING = frozenset({"__doc__", "__firstlineno__", "__static_attributes__", "__module__"})
"""Names under which a class or module body stores facts about its own text."""
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


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction: `value` is its constant, name or jump target (an instruction number), else its raw argument."""

    op: str
    opcode: int
    value: object
    arg: int | None
    line: int


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A code object's instructions, and the digest of its behavior, including nested code."""

    digest: bytes
    instructions: tuple[Instruction, ...]
    nested: tuple[types.CodeType, ...]


_KNOWN: WeakKeyDictionary[types.CodeType, Listing] = WeakKeyDictionary()


def listing(code: types.CodeType) -> Listing:
    """The listing of a code object, computed once for equal code objects."""
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
    """Silent instructions, and the two that store a docstring or similar facts in a class or module body."""
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
    """Byte offset -> number of the instruction there, or of the next one that is kept."""
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
    """A jump with its final target. The compiler does the same, but only between instructions of one line."""
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
    """The operation and the target of a jump to another jump; None if the target is not a jump."""
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


# --- References of a code object: globals with their attribute chains, imports, free variables.

Chain = tuple[str, ...]
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_FREE = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_TAKES_NAME = frozenset({"getattr", "hasattr", "setattr", "delattr"})
_BETWEEN = frozenset({"IMPORT_FROM", "SWAP", "POP_TOP", "ROT_TWO"})
"""Instructions between the import and the store in `import a.b as c`."""
_SKIPPED = frozenset({"PUSH_NULL", "COPY_FREE_VARS", "MAKE_CELL"})


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A global that is read. `chain` has the attributes that are read from it; `fixed`: its attribute name is constant.

    `loads` is the import that a call with one constant text would be, if the global is `import_module` or the like.
    """

    name: str
    chain: Chain
    line: int
    fixed: bool = True
    loads: Import | None = None


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """An import inside a body: the chains read from the module (`top`: from its top package); () means all of it."""

    module: str
    level: int
    top: bool
    chains: tuple[Chain, ...]
    line: int


class References(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a code object and the code nested in it refer to, in the order of the instructions."""

    globals: tuple[Reference, ...]
    imports: tuple[Import, ...]
    free: dict[str, tuple[Chain, ...]]
    texts: tuple[str, ...]
    """`__doc__` and `__annotations__`, if they are read of anything."""


_KNOWN_REFERENCES: WeakKeyDictionary[types.CodeType, References] = WeakKeyDictionary()


def references(code: types.CodeType) -> References:
    """The references of a code object, read once."""
    known = _KNOWN_REFERENCES.get(code)
    if known is None:
        known = _KNOWN_REFERENCES[code] = _read(code)
    return known


def _read(code: types.CodeType) -> References:
    found: list[Reference] = []
    imports: list[Import] = []
    for each in _family(code):
        instructions = [i for i in listing(each).instructions if i.op not in _SKIPPED]
        found += _globals(each, instructions)
        imports += _imports(each, instructions)
    free = {name: tuple(_chains(code, name)) for name in code.co_freevars}
    texts = tuple(name for name in _TEXTS_OF_CODE if any(name in _attributes(each) for each in _family(code)))
    return References(globals=tuple(dict.fromkeys(found)), imports=tuple(imports), free=free, texts=texts)


_TEXTS_OF_CODE = ("__doc__", "__annotations__")


def _attributes(code: types.CodeType) -> Iterator[object]:
    """Names of attributes that are read, and constants, which `getattr` may take."""
    for each in listing(code).instructions:
        if each.op in _ATTRIBUTES or each.op == "LOAD_CONST":
            yield each.value


def _family(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for nested in listing(code).nested:
        yield from _family(nested)


def _globals(code: types.CodeType, instructions: Sequence[Instruction]) -> Iterator[Reference]:
    for place, instruction in enumerate(instructions):
        if instruction.op in _GLOBALS:
            name = str(instruction.value)
            fixed = name not in _TAKES_NAME or _names_constant(instructions, place)
            chain = _chain(instructions, place)
            loads = _loaded(code, instructions, place + len(chain) + 1)
            yield Reference(name=name, chain=chain, line=instruction.line, fixed=fixed, loads=loads)


def _loaded(code: types.CodeType, instructions: Sequence[Instruction], place: int) -> Import | None:
    """The import that `...("module")` is, if that is called which stands before `place`, with one constant text."""
    if len(instructions) <= place + 2:
        return None
    argument, call, then = instructions[place : place + 3]
    name = argument.value
    if argument.op != "LOAD_CONST" or not isinstance(name, str) or not _MODULE.fullmatch(name):
        return None
    if call.op not in {"CALL", "CALL_FUNCTION", "CALL_METHOD"} or call.arg != 1:
        return None
    if then.op in {"STORE_FAST", "STORE_DEREF"}:
        chains = tuple(_chains(code, str(then.value)))
    else:
        chains = (_chain(instructions, place + 1),)
    return Import(module=name, level=0, top=False, chains=chains, line=call.line)


_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _chain(instructions: Sequence[Instruction], place: int) -> Chain:
    names = []
    for following in instructions[place + 1 :]:
        if following.op not in _ATTRIBUTES:
            break
        names.append(str(following.value))
    return tuple(names)


def _names_constant(instructions: Sequence[Instruction], place: int) -> bool:
    """Whether the second argument of the getattr-like call that begins here is a constant text.

    Follows the stack's height from the function's load to its call. A call with jumps inside counts as no.
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
    """The attribute chains that are read from the name that `import a.b` or `import a.b as c` binds."""
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


# --- Normalised source for people, without docstrings, comments and layout. Keys never depend on it.

_TEXTS: WeakKeyDictionary[types.CodeType, str] = WeakKeyDictionary()
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def code_source(code: types.CodeType) -> str:
    """The source of a function's code, or its instructions if there is no source."""
    known = _TEXTS.get(code)
    if known is None:
        known = _TEXTS[code] = _definition(
            code.co_filename, code.co_firstlineno, code.co_name
        ) or _instructions(code)
    return known


def class_source(file: str, name: str) -> str:
    """The source of a class by its qualified name; empty if it cannot be found."""
    parts = [part for part in name.split(".") if part != "<locals>"]
    body: list[ast.stmt] = list(_tree(file).body)
    found: ast.AST | None = None
    for part in parts:
        found = next((node for node in body if getattr(node, "name", None) == part), None)
        body = getattr(found, "body", [])
    return _unparse(found) if isinstance(found, ast.ClassDef) else ""


def module_code(file: str) -> types.CodeType | None:
    """The compiled source of a module's file, as it is on disk now; None if it cannot be read or compiled."""
    try:
        return compile("".join(linecache.getlines(file)), file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None


_DIGESTS: dict[str, tuple[list[str], bytes | None]] = {}
"""A module's file -> its lines as they were, and the digest of what they compile to."""


def module_digest(file: str) -> bytes | None:
    """The digest of a module's file, compiled anew only when its lines have changed; None if it cannot be read or compiled.

    Code that can reach any module asks for all of the project's, task after task and run after run.
    """
    lines = linecache.getlines(file)
    known = _DIGESTS.get(file)
    if known is None or known[0] is not lines:  # linecache makes another list when it reads a file again
        code = module_code(file)
        known = _DIGESTS[file] = lines, listing(code).digest if code is not None else None
    return known[1]


def _definition(file: str, line: int, name: str) -> str:
    found = _definitions(file, len(linecache.getlines(file))).get((line, name))
    return _unparse(found) if found is not None else ""


@functools.lru_cache(maxsize=256)
def _definitions(file: str, _lines: int) -> dict[tuple[int, str], _Definition]:
    found: dict[tuple[int, str], _Definition] = {}
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Lambda):
            found.setdefault((node.lineno, "<lambda>"), node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[first, node.name] = node
    return found


def _tree(file: str) -> ast.Module:
    try:
        return parse_python("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def _unparse(node: ast.AST) -> str:
    for each in ast.walk(node):
        body = getattr(each, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:1] = [] if len(body) > 1 else [ast.Pass()]
    return ast.unparse(node)


def _is_docstring(statement: ast.AST) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _instructions(code: types.CodeType) -> str:
    return "\n".join(
        f"{i.op} {i.value!r}" if not isinstance(i.value, types.CodeType) else f"{i.op} {i.value.co_name}"
        for i in listing(code).instructions
    )
