"""What Python asks of an object and a promise cannot answer: special method -> what it needs, and the mend."""

from __future__ import annotations

__all__ = ["CARRY", "CHANGE", "DYNAMIC", "INSIDE", "ITERATE", "JOIN", "REFUSED"]

INSIDE = "put it inside a task, or use .map to do it for each item of a list"
ITERATE = (
    "task.map(result) runs a task for each item; to unpack a result of fixed length, annotate the task "
    "with -> tuple[A, B]; else put the loop inside a task"
)
DYNAMIC = (
    "the list that this map goes over is itself a result: hand the whole map to a task, map another task over "
    "it, or put the loop inside a task"
)
CHANGE = "return the changed value from a task"
JOIN = "join lists of results as [*one, *other]; add values inside a task"

CARRY = (
    "pass it to a task as an argument, in a list, tuple, set, dict or dataclass; closures and objects of your "
    "own cannot carry it"
)

_TEXT = "print or format it inside a task; repr(result) is allowed here"

_ARITHMETIC = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "floordiv": "//",
    "mod": "%",
    "divmod": "divmod",
    "pow": "**",
    "matmul": "@",
    "lshift": "<<",
    "rshift": ">>",
    "and": "&",
    "or": "|",
    "xor": "^",
}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_NUMBERS = {
    "neg": "-",
    "pos": "+",
    "abs": "abs",
    "invert": "~",
    "round": "round",
    "trunc": "trunc",
    "floor": "floor",
    "ceil": "ceil",
    "int": "int",
    "float": "float",
    "complex": "complex",
    "index": "as an index, a count or a size",
}

REFUSED: dict[str, tuple[str, str]] = {
    "__bool__": ("the truth value (if, while, and, or, not, assert)", INSIDE),
    "__reversed__": ("the items", ITERATE),
    "__contains__": ("to look (in) among the items", INSIDE),
    "__next__": ("the next item", ITERATE),
    "__str__": ("the text (str, print)", _TEXT),
    "__format__": ("the text (an f-string, format)", _TEXT),
    "__bytes__": ("the bytes", INSIDE),
    "__fspath__": ("the path", "open or join it inside a task"),
    "__call__": ("to call", "call it inside a task"),
    "__enter__": ("to enter (with)", "use `with` inside a task"),
    "__exit__": ("to leave (with)", "use `with` inside a task"),
    "__aenter__": ("to enter (async with)", "use `async with` inside a task"),
    "__aexit__": ("to leave (async with)", "use `async with` inside a task"),
    "__await__": ("to await", "Hooke awaits tasks by itself: use the result as it is"),
    "__aiter__": ("the items (async for)", ITERATE),
    "__setitem__": ("to set an item", CHANGE),
    "__delitem__": ("to delete an item", CHANGE),
    "__array__": ("the array (NumPy)", INSIDE),
    "__array_ufunc__": ("the array (NumPy)", INSIDE),
    "__array_function__": ("the array (NumPy)", INSIDE),
    "__copy__": ("a copy", CARRY),
    "__deepcopy__": ("a deep copy", CARRY),
    "__reduce_ex__": ("a pickle", CARRY),
    **{f"__{name}__": (f"a comparison ({sign})", INSIDE) for name, sign in _COMPARISONS.items()},
    **{f"__{name}__": (f"the number ({sign})", INSIDE) for name, sign in _NUMBERS.items()},
    **{
        f"__{prefix}{name}__": (f"arithmetic ({sign})", INSIDE)
        for name, sign in _ARITHMETIC.items()
        for prefix in ("", "r", "i")
    },
}
"""Completes "the pipeline needs ... of the result"."""
