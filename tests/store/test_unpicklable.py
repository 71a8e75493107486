"""The error for what cannot be stored names the part."""

import dataclasses
import threading

import pytest

from hooke.base.errors import StoreError


@dataclasses.dataclass
class Holder:
    name: str
    inner: object


class Plain:
    def __init__(self, inner):
        self.inner = inner


class Refuses:
    def __reduce__(self):
        raise RuntimeError("not me")


def closure(captured):
    return lambda: captured


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        (LOCK, "result", "_thread.lock"),
        ({"model": [1, (2, LOCK)]}, "result['model'][1][1]", "_thread.lock"),
        (Holder("x", {"a": Plain([LOCK])}), "result.inner['a'].inner[0]", "_thread.lock"),
        (closure({"lock": LOCK}), "result.<closure captured>['lock']", "_thread.lock"),
        ([(n for n in range(3))], "result[0]", "generator"),
        ([1, Refuses()], "result[1]", "Refuses"),
    ],
)
def test_it_names_the_way_to_the_part(store, value, path, kind):
    with pytest.raises(StoreError) as caught:
        store.put(value)
    error = caught.value
    assert error.where == path
    assert f"{path} is of type" in error.what
    assert kind in error.what
    assert "made from instead" in error.fix
    assert error.__cause__ is not None
