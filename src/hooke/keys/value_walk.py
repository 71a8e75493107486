"""The walk over a value: encoders by type, cycles, shared parts, and the path to a part without a key."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from weakref import WeakKeyDictionary

import msgspec

from hooke.base.errors import HookeError, NotFingerprintable
from hooke.keys.encoding import CONTAINERS, SCALARS, SHORT, Encoder, NoKey, shrink, text
from hooke.keys.fingerprint_parts import Key
from hooke.keys.object_encodings import object_encoder

__all__ = ["KeptEncodings", "Leaf", "ValuePrinter", "unkeyable_error"]

Leaf = Callable[[object], Key | None]
"""Called first for every object. A key that it returns stands for the object, such as a promise."""

_ENCODERS: WeakKeyDictionary[type, Encoder] = WeakKeyDictionary()
_NEVER = 1 << 62


class KeptEncodings(msgspec.Struct, frozen=True):
    """What walks over several values share, none of which changes meanwhile."""

    shared: Mapping[int, object]
    """Identity -> a value that is in several of them."""
    encodings: dict[int, bytes] = msgspec.field(default_factory=dict)
    """Those of the shared values that no leaf is in."""
    codes: dict[int, tuple[object, bytes]] = msgspec.field(default_factory=dict)


class ValuePrinter:
    """One walk, or several that share their results, so values must not change between them.

    `code` encodes functions, classes and modules; `leaf` is called first for every object. If the result of `code`
    depends on the order of its calls, `shallow` encodes the same objects by name, to sort sets by their content.
    With `kept` the leaf is called for other objects than plain scalars and containers only, and walks share what is kept there.
    Raises NoKey.
    """

    __slots__ = ("_code", "_codes", "_depths", "_kept", "_known", "_leaf", "_outermost", "_shallow", "leaves")

    def __init__(
        self,
        *,
        code: Callable[[object], bytes],
        leaf: Leaf | None = None,
        shallow: Callable[[object], bytes] | None = None,
        kept: KeptEncodings | None = None,
    ) -> None:
        self._code = code
        self._shallow = shallow
        self._leaf = leaf
        self._kept = kept
        self.leaves = 0
        """How many objects a leaf has stood for."""
        self._codes: dict[int, tuple[object, bytes]] = {} if kept is None else kept.codes
        self._known: dict[int, tuple[object, bytes]] = {}
        self._depths: dict[int, int] = {}
        self._outermost = _NEVER

    def encode(self, value: object) -> bytes:
        """The encoding of a value; at most 73 bytes, except for a long text or integer."""
        scalar = SCALARS.get(type(value))
        if self._kept is None or (scalar is None and type(value) not in CONTAINERS):
            key = self._leaf(value) if self._leaf is not None else None
            if key is not None:
                self.leaves += 1
                return b"k" + text(key)
        return scalar(value) if scalar is not None else self._compound(value)

    def items(self, values: Iterable[object]) -> list[bytes]:
        """See `encoding.Walk`."""
        encodings: list[bytes] = []
        encode = self.encode
        try:
            for value in values:
                encodings.append(encode(value))  # noqa: PERF401 - the length says where it failed
        except NoKey as lack:
            lack.path.append(f"[{len(encodings)}]")
            raise
        return encodings

    def fields(self, pairs: Iterable[tuple[str, object]]) -> list[bytes]:
        """See `encoding.Walk`."""
        encodings: list[bytes] = []
        for name, value in pairs:
            try:
                encodings += (text(name), self.encode(value))
            except NoKey as lack:
                lack.path.append(f".{name}")
                raise
        return encodings

    def unordered(self, values: Iterable[object]) -> list[bytes]:
        """See `encoding.Walk`."""
        return sorted(self.encode(value) for value, _ in self._settled((value, None) for value in values))

    def pairs(self, pairs: Iterable[tuple[object, object]]) -> list[bytes]:
        """See `encoding.Walk`. Values are walked in the order of their keys' encodings, not in the dict's order."""
        keyed = [(self.encode(key), key, value) for key, value in self._settled(pairs)]
        keyed.sort(key=lambda entry: entry[0])
        encodings = []
        for encoded, key, value in keyed:
            try:
                encodings.append(encoded + self.encode(value))
            except NoKey as lack:
                lack.path.append(f"[{_short(key)}]")
                raise
        encodings.sort()
        return encodings

    def _settled(self, pairs: Iterable[tuple[object, object]]) -> Iterable[tuple[object, object]]:
        """Pairs in an order of their first parts that does not depend on hashes, if the order of calls matters."""
        if self._shallow is None:
            return pairs
        blind = ValuePrinter(code=self._shallow, leaf=self._leaf)
        return sorted(pairs, key=lambda pair: blind.encode(pair[0]))

    def code(self, target: object) -> bytes:
        """See `encoding.Walk`; each target is fingerprinted once a walk."""
        known = self._codes.get(id(target))
        if known is None:
            known = self._codes[id(target)] = (target, self._code(target))
        return known[1]

    def _compound(self, value: object) -> bytes:
        ident = id(value)
        if (known := self._known.get(ident)) is not None:
            return known[1]
        if self._kept is not None and (kept := self._kept.encodings.get(ident)) is not None:
            return kept
        leaves = self.leaves
        depth = len(self._depths)
        if (above := self._depths.get(ident)) is not None:
            self._outermost = min(self._outermost, above)
            return b"^" + (depth - above).to_bytes(8, "little")
        encoder = _encoder_of(type(value))
        outer, self._outermost = self._outermost, _NEVER
        self._depths[ident] = depth
        try:
            encoding = encoder(self, value)
        except (NoKey, RecursionError, HookeError):
            raise
        except Exception as error:
            raise NoKey(value, f"reading its content failed: {type(error).__name__}: {error}") from error
        finally:
            del self._depths[ident]
        closed = self._outermost >= depth
        self._outermost = outer if closed else min(outer, self._outermost)
        if len(encoding) <= SHORT:
            return encoding
        encoding = shrink(encoding)
        if closed:
            self._known[ident] = (value, encoding)
            if self._kept is not None and ident in self._kept.shared and self.leaves == leaves:
                self._kept.encodings[ident] = encoding
        return encoding


def _encoder_of(kind: type) -> Encoder:
    encoder = CONTAINERS.get(kind) or _ENCODERS.get(kind)
    if encoder is None:
        encoder = _ENCODERS[kind] = object_encoder(kind)
    return encoder


def _short(key: object) -> str:
    shown = repr(key) if isinstance(key, str | int | float | bool) else f"<{type(key).__name__}>"
    return shown if len(shown) <= 40 else shown[:37] + "..."


def unkeyable_error(lack: NoKey, where: str) -> NotFingerprintable:
    """The error that a user reads for a value without a key. `where` names the value, such as "argument `x` of `g`"."""
    part = "".join(reversed(lack.path))
    kind = f"{lack.kind.__module__}.{lack.kind.__qualname__}".removeprefix("builtins.")
    is_file = issubclass(lack.kind, io.IOBase)
    return NotFingerprintable(
        f"cannot build a cache key for {where}: {f'its part {part}' if part else 'it'} is of type {kind}",
        where=f"{where}, part {part}" if part else where,
        why=lack.why,
        fix=lack.fix
        or (is_file and "pass the path of the file, or hooke.File(path), and open it inside the task")
        or "pass the plain data that it is made from, create it inside the task, "
        "or give its class a method `__hooke_key__(self) -> str` that returns 32 hex characters for its content",
    )
