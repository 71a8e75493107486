"""Keys from labelled parts, the parts of a function's code, what changed between two fingerprints, and what neither covers."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterable, Iterator

import msgspec
from blake3 import blake3

from hooke.base.syntax import parse_python

__all__ = [
    "CHANCE",
    "UNKEYED_WORDS",
    "CodeChange",
    "CodePart",
    "CodePrint",
    "Edge",
    "FingerprintPart",
    "Key",
    "combine",
    "expansion_key",
    "explain",
    "frame",
    "frame_key",
    "unkeyed_uses",
]


# --- Recipe keys from labelled parts.

Key = str
"""32 hex characters: the first 128 bits of a BLAKE3 digest."""


def frame(part: str | int | bytes) -> bytes:
    """A part after its type and length, so that joined parts stay distinct."""
    if isinstance(part, str):
        data, tag = part.encode("utf-8", "surrogatepass"), b"s"
    elif isinstance(part, bytes):
        data, tag = part, b"b"
    else:
        data, tag = b"%d" % part, b"i"
    return tag + len(data).to_bytes(8, "little") + data


_KEY = frame("0" * 32)[:-32]


def frame_key(key: Key) -> bytes:
    """`frame` of a key, whose length is known."""
    return _KEY + key.encode()


def combine(label: str, *parts: str | int | bytes) -> Key:
    """The key of ordered parts under a label. Another label, order, split or type of a part gives another key."""
    return blake3(b"".join(map(frame, (label, *parts)))).hexdigest(length=16)


def expansion_key(key: Key) -> Key:
    """The key of the list of a dynamic map with this key."""
    return combine("expansion", key)


class CodePart(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a function reaches.

    `kind` is function, class, global, closure, default, module, distribution or opaque; `digest` is of its own
    content, not of what it reaches in turn; `where` is "file.py:34" relative to the project; `text` is its normalised
    source or short repr, to show differences with.
    """

    name: str
    kind: str
    digest: str
    where: str = ""
    text: str = ""


class CodePrint(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a function's code with its parts, the function first; `notes` say where static analysis failed.

    `foreign` has the qualified names that it uses from the standard library and from distributions.
    """

    key: Key
    parts: tuple[CodePart, ...]
    notes: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


class Edge(msgspec.Struct, frozen=True):
    """The name by which a part reaches another, and that part's number in the order of discovery."""

    label: str
    qualifier: str
    target: int


class FingerprintPart(msgspec.Struct, kw_only=True):
    """A part while the walk fills it in. `file` is its module's; `text` is called at the end, if at all."""

    kind: str
    name: str
    file: str = ""
    line: int = 0
    digest: bytes = b""
    text: Callable[[], str] = str
    edges: list[Edge] = msgspec.field(default_factory=list)


# --- The changes between two fingerprints of code, for people.


class CodeChange(msgspec.Struct, frozen=True, kw_only=True):
    """A part that changed: `what` is `changed`, `added` or `removed`; `diff` is a unified diff of its text."""

    what: str
    name: str
    kind: str
    where: str
    diff: str

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.kind} {self.name}{place} {self.what}" + (f"\n{self.diff}" if self.diff else "")


def explain(old_parts: Iterable[CodePart], new_parts: Iterable[CodePart]) -> list[CodeChange]:
    """The changes from the old parts to the new: changed first, in the order of the new, then added, then removed."""
    old = {part.name: part for part in old_parts}
    new = {part.name: part for part in new_parts}
    changed = [
        _change("changed", old[name], part)
        for name, part in new.items()
        if name in old and (old[name].digest, old[name].kind) != (part.digest, part.kind)
    ]
    added = [_change("added", None, part) for name, part in new.items() if name not in old]
    removed = [_change("removed", part, None) for name, part in old.items() if name not in new]
    return changed + added + removed


def _change(what: str, old: CodePart | None, new: CodePart | None) -> CodeChange:
    part = new or old
    assert part is not None
    before, after = (part.text.splitlines() if part else [] for part in (old, new))
    lines = difflib.unified_diff(before, after, "before", "after", lineterm="", n=2)
    return CodeChange(
        what=what, name=part.name, kind=part.kind, where=part.where, diff="\n".join(list(lines)[2:])
    )


# --- What code uses that no key covers, so that a repetition may differ.

CLOCK, CHANCE, PROCESS, OUTSIDE = "clock", "randomness", "process", "outside"
_UNKEYED = {
    CLOCK: "time.time time.time_ns time.monotonic time.perf_counter time.process_time time.ctime time.gmtime time.localtime "
    "time.strftime datetime.now datetime.today datetime.utcnow pandas.now pandas.today",
    CHANCE: "os.urandom os.getrandom uuid.uuid1 uuid.uuid4 random.SystemRandom random.Random secrets.token_bytes secrets.token_hex "
    "secrets.token_urlsafe secrets.randbelow secrets.randbits secrets.choice numpy.default_rng numpy.RandomState numpy.SeedSequence",
    PROCESS: "builtins.id builtins.hash os.getpid os.getppid os.uname os.cpu_count os.getcwd platform.node socket.gethostname "
    "threading.get_ident tempfile.mkdtemp tempfile.mkstemp tempfile.NamedTemporaryFile tempfile.TemporaryDirectory",
}
"""Kind -> functions, each with the first part of its module's name."""
_SEEDED_BY_ARGUMENT = frozenset({"default_rng", "RandomState", "SeedSequence", "Random"})
"""Unseeded only without arguments. The generators of `random` and NumPy themselves are seeded for each call."""
_KIND_OF = {name: kind for kind, names in _UNKEYED.items() for name in names.split()}
_ROOTS_OF: dict[str, list[str]] = {}
for _name in _KIND_OF:
    _ROOTS_OF.setdefault(_name.rpartition(".")[2], []).append(_name.partition(".")[0])
_SERVERS = frozenset({
    *("aiohttp", "boto3", "botocore", "fsspec", "ftplib", "http", "httpx", "psycopg", "psycopg2", "pymongo", "redis"),
    *("requests", "s3fs", "socket", "sqlalchemy", "sqlite3", "subprocess", "urllib", "urllib3"),
})  # fmt: skip
"""Modules that reach servers, databases and other programs."""
UNKEYED_WORDS = {
    CLOCK: "it reads the clock",
    CHANCE: "it draws random numbers that are not seeded",
    PROCESS: "it uses what differs between processes",
    OUTSIDE: "it uses a server, a database or another program",
}
"""Kind -> what it says of the code."""


def unkeyed_uses(code: CodePrint) -> dict[str, tuple[str, ...]]:
    """What the code uses that can give another result under the same key: kind -> names, as they are written.

    `clock`, `randomness` (unseeded), `process` (its number, addresses, folders, host) and `outside` (servers, databases, programs).
    The names are candidates: that the code uses one does not say that the result depends on it.
    """
    roots = {"builtins", *(name.partition(".")[0] for name in code.foreign)}
    found: dict[str, set[str]] = {}
    for name in code.foreign:  # also what the code calls by another name: `from time import time as now`
        root, last = name.partition(".")[0], name.rpartition(".")[2]
        short = f"{root}.{last}"
        if "." in name and short in _KIND_OF and last not in _SEEDED_BY_ARGUMENT:
            found.setdefault(_KIND_OF[short], set()).add(name)
    for part in code.parts:
        if part.kind in ("function", "class"):
            for kind, name in _used(part.text, roots):
                found.setdefault(kind, set()).add(name)
    if servers := roots & _SERVERS:
        found.setdefault(OUTSIDE, set()).update(servers)
    return {kind: tuple(sorted(found[kind])) for kind in UNKEYED_WORDS if kind in found}


def _used(source: str, roots: set[str]) -> Iterator[tuple[str, str]]:
    """The kind and the name of each such call in a function or class."""
    try:
        tree = parse_python(source)
    except SyntaxError:  # the lines of a lambda, or the repr of what has no source
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        if name in _SEEDED_BY_ARGUMENT and (node.args or node.keywords):
            continue
        for root in _ROOTS_OF.get(name, ()):
            if root in roots and (root != "builtins" or isinstance(node.func, ast.Name)):
                yield _KIND_OF[f"{root}.{name}"], ast.unparse(node.func)
