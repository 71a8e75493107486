"""Random small programs as data: their source, the edits that happen to it, and what each call of a task depends on.

A program has definitions (constants, functions, classes, decorators, registries, ...) in several modules, tasks that use them, and
a pipeline of calls and maps. A definition refers only to later ones, so that everything can be rendered and imported.

The signatures say what must run again. They are made from the program's text and from plain Python's values, and from
nothing of Hooke's: a call whose signature was never computed must run, and one whose signature is stored must not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.fuzzing.choices import Choices

from hooke.base.errors import UsageError

__all__ = [
    "BROKEN",
    "LIB",
    "MAIN",
    "MODULES",
    "VALUES",
    "WITH_BUG",
    "Arg",
    "Definition",
    "Node",
    "Program",
    "TaskDefinition",
    "draw_program",
    "parents",
]

MAIN, LIB = "fuzzed", "fuzzed_lib"
MODULES = (MAIN, "fuzzed_helpers", "fuzzed_pkg", "fuzzed_pkg.deep")
STYLES = ("from", "attribute", "alias", "star", "local")
"""How one module imports from another: `from m import n`, `m.n`, `import m as q`, `from m import *`, or inside the functions."""

LIBRARY = '''
"""Never edited: what every task uses."""


def mix(*values):
    """One number of any nesting of numbers, texts and bytes."""
    total = 7
    for value in values:
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, bytes):
            value = value[:50]
        number = value if isinstance(value, int) else mix(*value)
        total = (total * 31 + number) % 10007
    return total


def opens(path):
    """Whether there is such a file. `exists()` would ask in a way that nothing sees."""
    try:
        with open(path):
            return 1
    except FileNotFoundError:
        return 0
'''

# Kind -> source. {n} is the name, {a} and {b} numbers that edits change, {e} what it uses of later definitions, at the number x,
# {v} the same at import, {c} a class that it uses, {bug} a line that raises.
KINDS: Mapping[str, str] = {
    "constant": "{n} = {a}",
    "function": "def {n}(x):{doc}\n    {bug}return (x * {a} + {b}{e}) % 1009",
    "table": '{n} = {{"a": {a}, "b": [{b}, 1]}}',
    "tuple": "{n} = ({a}, {b})",
    "set": "{n} = frozenset({{{a}, {b} + 1000}})",
    "derived": "{n} = {a} + ({v})",
    "default": "def {n}(x, k={a}, *, m={b}):{doc}\n    {bug}return (x + k * m{e}) % 1009",
    "closure": "def make_{n}(k):\n    def inner(x):{doc2}\n        return (x + k + {b}{e}) % 1009\n\n    return inner\n\n\n{n} = make_{n}({a})",
    "lambda": "{n} = lambda x: (x + {a} * {b}{e}) % 1009",
    "partial": "def base_{n}(k, x):{doc}\n    {bug}return (x * k + {b}{e}) % 1009\n\n\n{n} = functools.partial(base_{n}, {a})",
    "decorated": "def wrap_{n}(f):\n    @functools.wraps(f)\n    def wrapper(x):\n        return f(x) + {a}\n\n    return wrapper\n\n\n"
    "@wrap_{n}\ndef {n}(x):{doc}\n    {bug}return (x + {b}{e}) % 1009",
    "parametrised": "def wrap_{n}(k):\n    def decorator(f):\n        def wrapper(x):\n            return f(x) + k\n\n        return wrapper\n\n"
    "    return decorator\n\n\n@wrap_{n}({a})\ndef {n}(x):{doc}\n    {bug}return (x + {b}{e}) % 1009",
    "cached": "@functools.lru_cache\ndef {n}(x):{doc}\n    {bug}return (x * {a} + {b}{e}) % 1009",
    "nested": "def {n}(x):{doc}\n    def inner(y):\n        return [(y + {a} + i) % 7 for i in range(3)]\n\n    {bug}return sum(inner(x)) + {b}{e}",
    "class": "class {n}:\n    scale = {a}\n\n    def value(self, x):{doc2}\n        return (x * self.scale + {b}{e}) % 1009",
    "property": "class {n}:\n    @property\n    def scale(self):\n        return {a}\n\n    @staticmethod\n    def shift(x):\n        return x + {b}\n\n"
    "    def value(self, x):{doc2}\n        return (self.shift(x) * self.scale{e}) % 1009",
    "dataclass": "@dataclasses.dataclass\nclass {n}:\n    scale: int = {a}\n\n    def value(self, x):{doc2}\n        return (x * self.scale + {b}{e}) % 1009",
    "subclass": "class {n}({c}):\n    extra = {a}\n\n    def value(self, x):{doc2}\n        return (super().value(x) + self.extra + {b}{e}) % 1009",
    "instance": "{n} = {c}()",
    "registry": '{n} = {{"f": lambda x: x + {a}, "g": lambda x: (x * {b}{e}) % 1009}}',
    "registered": "LIST_{n} = []\n\n\ndef register_{n}(f):\n    LIST_{n}.append(f)\n    return f\n\n\n@register_{n}\ndef first_{n}(x):\n    return x + {a}\n\n\n"
    "def {n}(x):{doc}\n    {bug}return sum(f(x) for f in LIST_{n}) + {b}{e}",
    "enum": "class {n}(enum.Enum):\n    ONE = {a}\n    TWO = {b} + 1000",
    "named": "class {n}(typing.NamedTuple):\n    scale: int = {a}\n\n    def value(self, x):{doc2}\n        return (x * self.scale + {b}{e}) % 1009",
    "dispatch": "@functools.singledispatch\ndef {n}(x):{doc}\n    {bug}return (x + {a}{e}) % 1009\n\n\n@{n}.register\ndef text_{n}(x: str):\n    return {b}",
    "generator": "def items_{n}(x):\n    for i in range(3):\n        yield (x + i * {a}{e}) % 1009\n\n\ndef {n}(x):{doc}\n    {bug}return sum(items_{n}(x)) + {b}",
    "slots": "class {n}:\n    __slots__ = ('scale',)\n\n    def __init__(self):\n        self.scale = {a}\n\n    def value(self, x):{doc2}\n        return (x * self.scale + {b}{e}) % 1009",
    "callable": "class Type_{n}:\n    def __init__(self, k):\n        self.k = k\n\n    def __call__(self, x):{doc2}\n        return (x + self.k + {b}{e}) % 1009\n\n\n{n} = Type_{n}({a})",
}  # fmt: skip
BROKEN = object()
"""Stands for the value of a node that raises."""
WITH_BUG = frozenset(kind for kind, text in KINDS.items() if "{bug}" in text)
VALUES = frozenset({"constant", "table", "tuple", "set", "derived"})
"""They count by their value, however it is written."""
LOCAL = frozenset(
    {
        "function",
        "default",
        "partial",
        "decorated",
        "parametrised",
        "cached",
        "nested",
        "registered",
        "dispatch",
    }
)
"""They can import what they use inside."""
CLASSES = frozenset({"class", "property", "dataclass", "subclass", "named", "slots"})
BASES = frozenset({"class", "property", "dataclass", "subclass"})
USED_AS = {
    "constant": "{n}",
    "derived": "{n}",
    "table": '{n}["a"] + {n}["b"][0]',
    "tuple": "sum({n})",
    "set": "sum({n})",
    "instance": "{n}.value({x})",
    "registry": '{n}["f"]({x}) + {n}["g"]({x})',
    "enum": "{n}.ONE.value + {n}['TWO'].value",
    **dict.fromkeys(CLASSES, "{n}().value({x})"),
}
"""Kind -> an expression that uses it at {x}; by default it is called."""


@dataclass(slots=True)
class Definition:
    """A definition. `uses` are later ones; `comment`, `doc` and `blank` are what must not matter."""

    name: str
    kind: str
    module: str
    a: int
    b: int
    uses: tuple[str, ...] = ()
    base: str = ""
    comment: int = 0
    doc: int = 0
    bug: bool = False


@dataclass(slots=True)
class TaskDefinition:
    """A task: `def t(x, y=a)`. `kind` says what it returns: num, list, pair; `file` reads the file that it is given."""

    name: str
    kind: str
    a: int
    b: int
    uses: tuple[str, ...] = ()
    wrapped: bool = False
    cache: bool = True
    retries: int = 0
    comment: int = 0
    doc: int = 0
    reads: str = ""
    """What it reads in passing: `file`, `absent`, `listing` or `variable`; empty for nothing."""

    @property
    def result(self) -> str:
        """The shape of its result."""
        return "num" if self.kind == "file" else self.kind


@dataclass(frozen=True, slots=True)
class Arg:
    """An argument: `number`, `parameter` p, `file`, or `node`: the result, or the part of it at `path`, of an earlier node.

    `nodes` are the results of several in a list.
    """

    kind: str
    value: int = 0
    path: tuple[Any, ...] = ()
    several: tuple[int, ...] = ()


@dataclass(slots=True)
class Node:
    """A call of a task, or a map: over `numbers`, over the items of another map (`over`), or over a list that is a result."""

    kind: str
    task: str
    args: tuple[Arg, ...] = ()
    numbers: tuple[int, ...] = ()
    over: int = -1


@dataclass(slots=True, kw_only=True)
class Program:
    """A program, its data files and its variables. Edits change it in place."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    tasks: dict[str, TaskDefinition] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    styles: dict[tuple[str, str], str] = field(default_factory=dict)
    parameter: int = 1
    files: dict[str, str] = field(default_factory=dict)
    variable: str = "one"

    # -- source ------------------------------------------------------------------------------------

    def sources(self) -> dict[str, str]:
        """File name -> source."""
        found: dict[str, str] = {f"{LIB}.py": LIBRARY.lstrip()}
        for module in MODULES:
            name = {"fuzzed_pkg": "fuzzed_pkg/__init__.py"}.get(module, module.replace(".", "/") + ".py")
            found[name] = self._module(module)
        return found

    def _module(self, module: str) -> str:
        parts = [
            "import dataclasses\nimport enum\nimport functools\nimport os\nimport typing\nfrom pathlib import Path\n"
        ]
        parts += self._imports(module)
        if module == MAIN:
            parts.append(
                "\nfrom hooke import File, pipeline, task\n\nfrom fuzzed_lib import mix, opens\n\nHERE = Path(__file__).parent\n"
            )
        own = [each for each in self.definitions.values() if each.module == module]
        for each in reversed(own):
            parts.append(self.text(each, cosmetic=True))
        if module == MAIN:
            parts += [self.task_text(each, cosmetic=True) for each in self.tasks.values()]
            parts.append(self._pipeline())
        return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"

    def _style(self, module: str, target: str) -> str:
        return self.styles.get((module, target), "from")

    def _imports(self, module: str) -> Iterator[str]:
        used: dict[str, set[str]] = {}
        users: list[Definition | TaskDefinition] = [
            each for each in self.definitions.values() if each.module == module
        ]
        users += self.tasks.values() if module == MAIN else []
        at_import: set[str] = set()
        for user in users:
            for name in self._names(user):
                target = self.definitions[name].module
                if target != module:
                    used.setdefault(target, set()).add(name)
                    if isinstance(user, Definition) and (user.kind not in LOCAL or name == user.base):
                        at_import.add(name)
        for target, names in sorted(used.items()):
            style = self._style(module, target)
            if style == "attribute":
                yield f"import {target}"
            elif style == "alias":
                yield f"import {target} as {_alias(target)}"
            elif style == "star":
                yield f"from {target} import *"
            elif style == "from":
                yield f"from {target} import {', '.join(sorted(names))}"
            elif names & at_import:
                yield f"from {target} import {', '.join(sorted(names & at_import))}"

    def _names(self, user: Definition | TaskDefinition) -> tuple[str, ...]:
        base = user.base if isinstance(user, Definition) else ""
        return (*user.uses, base) if base else user.uses

    def _said(self, name: str, module: str) -> str:
        """How code of `module` says the name of a definition."""
        target = self.definitions[name].module
        style = self._style(module, target) if target != module else ""
        return {"attribute": f"{target}.{name}", "alias": f"{_alias(target)}.{name}"}.get(style, name)

    def _use(self, name: str, module: str, x: str) -> str:
        kind = self.definitions[name].kind
        return USED_AS.get(kind, "{n}({x})").format(n=self._said(name, module), x=x)

    def _local_imports(self, names: Sequence[str], module: str, indent: str) -> str:
        targets: dict[str, list[str]] = {}
        for name in names:
            target = self.definitions[name].module
            if target != module and self._style(module, target) == "local":
                targets.setdefault(target, []).append(name)
        return "".join(
            f"from {target} import {', '.join(each)}\n{indent}" for target, each in sorted(targets.items())
        )

    def text(self, each: Definition, *, cosmetic: bool = False) -> str:
        """The source of a definition, with comments and docstrings if `cosmetic`."""
        local = self._local_imports(each.uses, each.module, "    ")
        bug = "if x % 2:\n        raise ValueError('bug')\n    " if each.bug else ""
        doc = f'\n    """Version {each.doc}."""' if each.doc and cosmetic else ""
        if each.kind in LOCAL:
            bug = local + bug
        made = KINDS[each.kind].format(
            n=each.name,
            a=each.a,
            b=each.b,
            e="".join(f" + {self._use(name, each.module, 'x')}" for name in each.uses),
            v=" + ".join(self._use(name, each.module, "3") for name in each.uses) or "0",
            c=self._said(each.base, each.module) if each.base else "",
            bug=bug,
            doc=doc,
            doc2=doc.replace("    ", "        ") if doc else "",
        )
        if cosmetic and each.comment:
            made = f"# Comment {each.comment}.\n" + "\n" * (each.comment % 3) + made
        return made

    def task_text(self, each: TaskDefinition, *, cosmetic: bool = False) -> str:
        """The source of a task; without its decorator if not `cosmetic`."""
        local = self._local_imports(each.uses, MAIN, "    ")
        doc = f'    """Version {each.doc}."""\n' if each.doc and cosmetic else ""
        comment = f"    # Comment {each.comment}.\n" if each.comment and cosmetic else ""
        start = "mix(Path(x).read_bytes(), y)" if each.kind == "file" else "mix(x, y)"
        more = "".join(f"    m += {self._use(name, MAIN, 'm')}\n" for name in each.uses)
        result = {
            "num": f"(m * {each.a} + {each.b}) % 1009",
            "file": f"(m * {each.a} + {each.b}) % 1009",
            "list": f"[(m + i * {each.a} + {each.b}) % 50 for i in range(m % 4)]",
            "pair": f'{{"a": (m + {each.a}) % 1009, "b": [m % 5, {each.b}], "large": bytes(70_000)}}',
        }[each.kind]
        read = {
            "": "",
            "file": 'mix((HERE / "seen.txt").read_bytes())',
            "absent": 'opens(HERE / "maybe.txt")',
            "listing": 'mix(*sorted(os.listdir(HERE / "listed")))',
            "variable": 'mix(os.environ.get("FUZZ_SEEN", ""))',
        }[each.reads]
        lines = f"def {each.name}(x, y=0):\n{doc}{comment}    {local}m = {start}{' + ' + read if read else ''}\n{more}    return {result}"
        if not cosmetic:
            return lines
        options = [
            *(["cache=False"] if not each.cache else []),
            *([f"retries={each.retries}"] if each.retries else []),
        ]
        return ("@task(" + ", ".join(options) + ")\n" if options else "@task\n") + lines

    def _pipeline(self) -> str:
        lines = [f"@pipeline\ndef job(p={self.parameter}):"]
        lines += [f"    v{at} = {self._call(node)}" for at, node in enumerate(self.nodes)]
        lines.append(f"    return [{', '.join(f'v{at}' for at in self.returned())}]")
        return "\n".join(lines)

    def _call(self, node: Node) -> str:
        args = [self._argument(each) for each in node.args]
        if node.kind == "call":
            return f"{node.task}({', '.join(args)})"
        column = f"v{node.over}" if node.over >= 0 else f"[{', '.join(map(str, node.numbers))}]"
        constant = f", y={args[0]}" if args else ""
        return f"{node.task}.map({column}{constant})"

    def each_value(self, names: dict[str, Any]) -> Iterator[Any]:
        """The values of all nodes, by plain Python; BROKEN for a node that raises, or uses one that does."""
        known = names | {"p": self.parameter}
        for at, node in enumerate(self.nodes):
            try:
                known[f"v{at}"] = eval(self._call(node), known)
            except (ValueError, TypeError, UsageError):  # a bug, or what another one left
                known[f"v{at}"] = BROKEN
            yield known[f"v{at}"]

    def returned(self) -> list[int]:
        """The nodes that no other uses."""
        used = {parent for node in self.nodes for parent in parents(node)}
        return [at for at in range(len(self.nodes)) if at not in used]

    @staticmethod
    def _argument(arg: Arg) -> str:
        if arg.kind == "node":
            return f"v{arg.value}" + "".join(f"[{key!r}]" for key in arg.path)
        if arg.kind == "nodes":
            return "[" + ", ".join(f"v{at}" for at in arg.several) + "]"
        if arg.kind == "file":
            return f'File(HERE / "data{arg.value}.txt")'
        return "p" if arg.kind == "parameter" else str(arg.value)

    # -- signatures --------------------------------------------------------------------------------

    def reached(self, names: Sequence[str]) -> set[str]:
        """The definitions that these names reach."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                each = self.definitions[name]
                if each.kind not in VALUES:
                    waiting += self._names(each)
        return found

    def code(self, task: str, values: Mapping[str, str]) -> tuple[Any, ...]:
        """What the code of a task depends on: texts, and plain Python's `values` of constants."""
        each = self.tasks[task]
        parts = [
            (
                name,
                values[name] if self.definitions[name].kind in VALUES else self.text(self.definitions[name]),
            )
            for name in sorted(self.reached(each.uses))
        ]
        return (self.task_text(each), *parts)


def _alias(target: str) -> str:
    return "as_" + target.replace(".", "_")


def parents(node: Node) -> Iterator[int]:
    """The nodes whose results this one uses."""
    if node.over >= 0:
        yield node.over
    for arg in node.args:
        if arg.kind == "node":
            yield arg.value
        yield from arg.several


# --- Drawing a program.


def draw_program(choices: Choices, *, observed: bool = False) -> Program:
    """A program. With `observed`, some tasks read files and variables that they do not declare."""
    program = Program(files={"data0.txt": "0", "data1.txt": "1"})
    if observed:
        program.files |= {"seen.txt": "0", "listed/a.txt": ""}
    for at in range(choices.below(7)):
        _draw_definition(program, choices, at)
    for module in MODULES:
        for target in MODULES[MODULES.index(module) + 1 :]:
            program.styles[module, target] = choices.pick(STYLES)
    _link(program, choices)
    for at in range(1 + choices.below(4)):
        uses = _some(list(program.definitions), choices, most=3)
        program.tasks[f"t{at}"] = TaskDefinition(
            name=f"t{at}",
            kind=choices.pick(("num", "list", "pair", "file")) if at else "num",
            a=1 + choices.below(5),
            b=choices.below(5),
            uses=uses,
            cache=not choices.rarely(12),
            reads=choices.pick(("", "", "file", "absent", "listing", "variable")) if observed else "",
        )
    shapes: list[str] = []
    for _ in range(1 + choices.below(6)):
        _draw_node(program, choices, shapes)
    return program


def _draw_definition(program: Program, choices: Choices, at: int) -> None:
    modules = list(MODULES)
    last = next(reversed(program.definitions.values())).module if program.definitions else modules[0]
    module = choices.pick(modules[modules.index(last) :])
    kind = choices.pick(list(KINDS))
    name = f"{'C' if kind in CLASSES or kind == 'enum' else 'd'}{at}"
    program.definitions[name] = Definition(name, kind, module, 1 + choices.below(5), 1 + choices.below(5))
    if kind in ("subclass", "instance"):
        base = choices.pick(sorted(BASES))
        module = choices.pick(modules[modules.index(module) :])
        program.definitions[f"C{at}_"] = Definition(
            f"C{at}_", base, module, 1 + choices.below(5), 1 + choices.below(5)
        )


def _link(program: Program, choices: Choices) -> None:
    """Let definitions use later ones."""
    names = list(program.definitions)
    for at, each in enumerate(program.definitions.values()):
        later = names[at + 1 :]
        if each.kind in ("subclass", "instance"):
            fitting = [
                name
                for name in later
                if program.definitions[name].kind in (BASES if each.kind == "subclass" else CLASSES)
            ]
            if not fitting:
                each.kind = "class" if each.kind == "subclass" else "constant"
            else:
                each.base = choices.pick(fitting)
        if "{e}" in KINDS[each.kind] or "{v}" in KINDS[each.kind]:
            each.uses = _some(later, choices, most=2)


def _some(names: Sequence[str], choices: Choices, *, most: int) -> tuple[str, ...]:
    found = {names[choices.below(len(names))] for _ in range(choices.below(most + 1))} if names else set()
    return tuple(sorted(found))


def _draw_node(program: Program, choices: Choices, shapes: list[str]) -> None:
    tasks = [each for each in program.tasks.values() if each.kind != "file"]
    lists = [at for at, shape in enumerate(shapes) if shape == "list"]
    maps = [at for at, shape in enumerate(shapes) if shape.startswith("map")]
    files = [each for each in program.tasks.values() if each.kind == "file"]
    kinds = [
        "call",
        "numbers",
        *(["over"] if maps else []),
        *(["dynamic"] if lists else []),
        *(["file"] if files else []),
    ]
    kind = choices.pick(kinds)
    if kind == "file":
        task = choices.pick(files)
        program.nodes.append(Node("call", task.name, (Arg("file", choices.below(2)),)))
        shapes.append("num")
        return
    task = choices.pick(tasks)
    if kind == "call":
        args = tuple(_draw_arg(choices, shapes) for _ in range(1 + choices.below(2)))
        program.nodes.append(Node("call", task.name, args))
        shapes.append(task.result)
        return
    constant = (_draw_arg(choices, shapes),) if choices.rarely(3) else ()
    if kind == "numbers":
        # Nothing needs a result that only a map without items takes: it fails in plain Python alone.
        least = 1 if any(arg.kind not in ("number", "parameter") for arg in constant) else 0
        numbers = tuple(choices.below(6) for _ in range(least + choices.below(4 - least)))
        program.nodes.append(Node("map", task.name, constant, numbers=numbers))
        shapes.append(f"map{len(numbers)}")
    else:
        over = choices.pick(maps if kind == "over" else lists)
        constant = () if shapes[over] == "map0" else constant
        program.nodes.append(Node("map", task.name, constant, over=over))
        shapes.append(shapes[over] if kind == "over" else "map")


def _draw_arg(choices: Choices, shapes: list[str]) -> Arg:
    kind = choices.pick(
        ("number", "parameter", "node", "part", "nodes") if shapes else ("number", "parameter")
    )
    if kind == "number":
        return Arg("number", choices.below(6))
    if kind == "parameter":
        return Arg("parameter")
    at = choices.below(len(shapes))
    if kind == "nodes":
        return Arg("nodes", several=tuple(sorted({at, choices.below(len(shapes))})))
    path: tuple[Any, ...] = ()
    if kind == "part" and shapes[at] == "pair":
        path = choices.pick((("a",), ("b",), ("b", 0)))
    elif kind == "part" and shapes[at][3:].isdigit() and int(shapes[at][3:]):
        path = (choices.below(int(shapes[at][3:])),)
    return Arg("node", at, path)
