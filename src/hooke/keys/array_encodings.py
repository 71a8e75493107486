"""Encodings of what array libraries make: NumPy, SciPy and torch values by content, numba's functions by their source.

The libraries are never imported here: a value of theirs proves that they are loaded.
"""

from __future__ import annotations

import sys
from typing import Any

from hooke.keys.encoding import Encoder, NoKey, Walk, compound, digest, integer, raw, text

__all__ = ["array_encoder", "compiled"]

BLOCK_BYTES = 1 << 24
"""Non-contiguous arrays are copied and hashed in blocks of about this size, not as a whole."""


def array_encoder(kind: type) -> Encoder | None:
    """The encoder for instances of this type; None for types of other libraries."""
    for base in kind.__mro__:
        encoder = _ENCODERS.get((base.__module__.partition(".")[0], base.__name__))
        if encoder is not None:
            return encoder
        if base.__module__.startswith("scipy.sparse") and hasattr(kind, "tocoo"):
            return _sparse
    return None


def _ndarray(walk: Walk, value: Any) -> bytes:
    np = sys.modules["numpy"]
    if type(value) in (np.ndarray, np.memmap):
        return _array(walk, value)
    if isinstance(value, np.ma.MaskedArray):
        mask = _array(walk, np.ma.getmaskarray(value))
        return compound(
            b"masked", [_array(walk, value.filled()), mask, walk.encode(value.fill_value.tolist())]
        )
    attributes = walk.fields(sorted(getattr(value, "__dict__", {}).items()))
    return compound(b"subarray", [walk.code(type(value)), _array(walk, value.view(np.ndarray)), *attributes])


def _array(walk: Walk, value: Any) -> bytes:
    head = [_dtype(walk, value.dtype), *(integer(size) for size in value.shape)]
    return compound(b"ndarray", [*head, *_content(walk, value)])


def _content(walk: Walk, value: Any) -> list[bytes]:
    """The elements in C order, whatever the order in memory, without padding between fields."""
    if value.dtype.names is not None:
        return [part for name in value.dtype.names for part in _content(walk, value[name])]
    if value.dtype.hasobject or value.dtype.kind == "T":
        return walk.items(value.ravel(order="C").tolist())
    if value.flags.c_contiguous:
        return [_digest(value)]
    return [digest(*(_bytes(block) for block in _blocks(value)))]


def _digest(value: Any) -> bytes:
    return digest(_bytes(value))


def _bytes(value: Any) -> Any:
    np = sys.modules["numpy"]
    flat = np.ascontiguousarray(value).reshape(-1)
    return flat.view(np.uint8) if flat.dtype.itemsize else flat.tobytes()


def _blocks(value: Any) -> Any:
    if value.nbytes <= BLOCK_BYTES or value.ndim == 0:
        yield value
        return
    rows = max(1, BLOCK_BYTES // max(1, value.nbytes // len(value)))
    for start in range(0, len(value), rows):
        yield value[start : start + rows]


def _dtype(walk: Walk, dtype: Any) -> bytes:
    if dtype.names is not None:
        fields = [part for name in dtype.names for part in (text(name), _dtype(walk, dtype.fields[name][0]))]
        return compound(b"dtype", fields)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return compound(b"dtype", [_dtype(walk, base), *(integer(size) for size in shape)])
    return text(dtype.str if dtype.kind != "T" else "string")


def _scalar(walk: Walk, value: Any) -> bytes:
    np = sys.modules["numpy"]
    return compound(b"numpy scalar", [_array(walk, np.asarray(value))])


def _ufunc(walk: Walk, value: Any) -> bytes:
    if getattr(sys.modules["numpy"], value.__name__, None) is not value:
        raise NoKey(
            value, "a ufunc made at run time hides its Python function", "pass the Python function itself"
        )
    return compound(b"ufunc", [walk.code(type(value)), text(value.__name__)])


def _vectorized(walk: Walk, value: Any) -> bytes:
    # By its constructor's arguments: a call leaves a compiled ufunc in it.
    names = ("pyfunc", "otypes", "excluded", "signature", "cache")
    return compound(b"vectorize", walk.fields((name, getattr(value, name, None)) for name in names))


def _sparse(walk: Walk, value: Any) -> bytes:
    # As sorted COO: the order of the entries and cached facts are not content.
    coo = value.tocoo(copy=True)
    coo.sum_duplicates()
    parts = [_array(walk, part) for part in (*coo.coords, coo.data)]
    return compound(b"sparse", [walk.code(type(value)), *(integer(size) for size in value.shape), *parts])


def _tensor(walk: Walk, value: Any) -> bytes:
    torch = sys.modules["torch"]
    if value.layout is not torch.strided or value.is_quantized:
        raise NoKey(value, f"a tensor of layout {value.layout} has no encoding", "pass value.to_dense()")
    flat = value.detach().cpu().contiguous().reshape(-1)
    content = digest(flat.view(torch.uint8).numpy()) if flat.numel() else raw(b"")
    facts = [text(str(value.dtype)), text(value.device.type), walk.encode(bool(value.requires_grad))]
    return compound(
        b"tensor", [walk.code(type(value)), *facts, *(integer(size) for size in value.shape), content]
    )


# --- Functions that numba compiles: what it pickles has a random id, and use adds compiled versions.


def compiled(walk: Walk, value: Any) -> bytes:
    """A compiled function by the Python function, the options, and the signatures if they were given."""
    inner = next((each for name in _INNER if (each := getattr(value, name, None)) is not None), value)
    options = [(name, getattr(value, name, None)) for name in ("identity", "mode", "options")]
    facts = [
        ("function", _python_function(inner)),
        ("targetoptions", getattr(inner, "targetoptions", None)),
        ("locals", {name: str(kind) for name, kind in (getattr(inner, "locals", None) or {}).items()}),
        ("signatures", _signatures(value)),
        *options,
    ]
    return compound(b"compiled", [walk.code(type(value)), *walk.fields(facts)])


_INNER = ("_dispatcher", "gufunc_builder")


def _python_function(value: Any) -> Any:
    for name in ("py_func", "_pyfunc", "__wrapped__"):
        if (function := getattr(value, name, None)) is not None:
            return function
    return value.kernel_ir.func_id.func  # of a stencil


def _signatures(value: Any) -> list[str]:
    """The signatures that were given for a function, as text; empty if calls add theirs."""
    if getattr(value, "_can_compile", None) is False:
        return sorted(map(str, value.nopython_signatures))
    if getattr(value, "_frozen", False):
        return sorted(value.types)
    return [text for name in ("_sig", "signature") if (text := str(getattr(value, name, None) or ""))]


def _compiled_class(walk: Walk, value: Any) -> bytes:
    names = ("jit_methods", "jit_props", "jit_static_methods")
    struct = [(name, str(kind)) for name, kind in value.struct.items()]
    return compound(b"jitclass", walk.fields([("struct", struct), *((n, getattr(value, n)) for n in names)]))


def _compiled_type(walk: Walk, value: Any) -> bytes:
    if " at 0x" in (name := str(value)):
        raise NoKey(value, "its name contains an address in memory")
    return compound(b"numba type", [walk.code(type(value)), text(name)])


_ENCODERS: dict[tuple[str, str], Encoder] = {
    ("numba", "Dispatcher"): compiled,
    ("numba", "DUFunc"): compiled,
    ("numba", "GUFunc"): compiled,
    ("numba", "CFunc"): compiled,
    ("numba", "StencilFunc"): compiled,
    ("numba", "ClassType"): _compiled_class,
    ("numba", "Type"): _compiled_type,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "generic"): _scalar,
    ("numpy", "dtype"): lambda walk, value: compound(b"numpy dtype", [_dtype(walk, value)]),
    ("numpy", "ufunc"): _ufunc,
    ("numpy", "vectorize"): _vectorized,
    ("torch", "Tensor"): _tensor,
}
