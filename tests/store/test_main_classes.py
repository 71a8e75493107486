"""Values of classes that a script or a notebook defines."""

import subprocess
import sys
import textwrap

import pytest

from hooke.store import main_classes
from hooke.store.store import Store

SCRIPT = textwrap.dedent(
    """
    import dataclasses, enum, sys
    from hooke.store.store import Entry, Store

    @dataclasses.dataclass
    class Model:
        depth: int = {depth}

        def predict(self, x):
            return shifted(x) * self.depth

    class Color(enum.Enum):
        RED = 1

    def shifted(x):
        return x + {offset}

    store = Store.open(sys.argv[1])
    found = store.find("m" * 32)
    if found is None:
        ref = store.put({{"model": Model(3), "color": Color.RED, "function": lambda x: shifted(x)}})
        store.commit(Entry(key="m" * 32, ref=ref, task="t", run="r", seconds=1.0, at=0.0))
        print("stored")
    else:
        value = store.get(found.ref)
        print(type(value["model"]) is Model, value["model"].predict(1), value["color"], value["function"](1))
    """
)


def run(path, text, store):
    path.write_text(text)
    done = subprocess.run([sys.executable, path, store], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.needs("cpu")
def test_a_later_run_of_the_script_gets_its_own_class(tmp_path):
    script = SCRIPT.format(depth=1, offset=10)
    assert run(tmp_path / "script.py", script, tmp_path / "store") == "stored"
    assert run(tmp_path / "script.py", script, tmp_path / "store") == "True 33 Color.RED 11"


@pytest.mark.needs("cpu")
def test_a_class_that_was_edited_since_stays_what_it_was(tmp_path):
    assert run(tmp_path / "script.py", SCRIPT.format(depth=1, offset=10), tmp_path / "store") == "stored"
    edited = SCRIPT.format(depth=2, offset=10)
    assert run(tmp_path / "script.py", edited, tmp_path / "store") == "False 33 Color.RED 11"


@pytest.mark.needs("cpu")
def test_another_program_reads_the_value(tmp_path):
    run(tmp_path / "script.py", SCRIPT.format(depth=1, offset=10), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    value = store.get(store.find("m" * 32).ref)
    assert value["model"].predict(1) == 33
    assert value["model"] == value["model"]
    assert type(value["model"]).__name__ == "Model"
    again = store.get(store.put(value))
    assert type(again["model"]) is type(value["model"])


@pytest.mark.needs("cpu")
def test_what_was_stored_before_is_found_where_it_names_its_functions():
    """The bytes of a stored class name them, so they are found there by all later versions."""
    class_of_a_script = "from hooke.store.codecs import encode\nclass Point:\n    pass\n"
    shown = "print(b''.join(encode(Point())._stream).count(b'hooke.store.main_classes'))\n"
    done = subprocess.run(
        [sys.executable, "-c", class_of_a_script + shown], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 0
    assert callable(main_classes._make)
    assert callable(main_classes._set_state)
