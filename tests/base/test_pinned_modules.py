"""Modules are imported as they were kept, also where the file is another one, or gone; all others as they are now."""

import importlib
import linecache
import os
import sys
import textwrap
import time
import traceback
import types
from pathlib import Path

import pytest

from hooke.base.pinned_modules import LARGEST, import_edited, import_pinned, pin_modules

NAMES = ("kept_alone", "kept_package", "kept_package.inner")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "kept_package").mkdir()
    (tmp_path / "kept_alone.py").write_text(
        "VALUE = 1\n\ndef fail():\n    raise ZeroDivisionError  # as it was\n"
    )
    (tmp_path / "kept_package/__init__.py").write_text("VALUE = 2\n")
    (tmp_path / "kept_package/inner.py").write_text("# -*- coding: latin-1 -*-\nVALUE = '\xe9'\n", "latin-1")
    yield tmp_path
    forget()


def forget():
    importlib.invalidate_caches()
    for name in NAMES:
        sys.modules.pop(name, None)


def values():
    return [importlib.import_module(name).VALUE for name in NAMES]


@pytest.mark.needs("cpu")
def test_an_edit_or_the_end_of_a_file_changes_nothing(folder):
    assert values() == [1, 2, "\xe9"]
    kept = pin_modules(lambda file: Path(file).is_relative_to(folder))
    assert [each.name for each in kept] == list(NAMES)
    (folder / "kept_alone.py").write_text("VALUE = 7\n\ndef fail():\n    raise KeyError  # edited\n")
    (folder / "kept_package/__init__.py").write_text("VALUE = = 8\n")
    (folder / "kept_package/inner.py").unlink()
    forget()
    import_pinned(kept)
    assert values() == [1, 2, "\xe9"]
    with pytest.raises(ZeroDivisionError) as failed:
        importlib.import_module("kept_alone").fail()
    assert "raise ZeroDivisionError  # as it was" in "".join(traceback.format_exception(failed.value))
    assert sys.modules["kept_alone"].__file__ == str(folder / "kept_alone.py")
    (folder / "kept_package/other.py").write_text("VALUE = 4\n")
    assert importlib.import_module("kept_package.other").VALUE == 4, "what was not kept is read as it is"
    sys.modules.pop("kept_package.other")


SOURCES = {
    "kept_alone.py": """
        import importlib
        def later(name):
            from kept_space.low import inside
            importlib.import_module("kept_constant")
            importlib.import_module(f"kept_plugins.{name}")
            import json, kept_large, kept_broken
        def other(): import kept_package.one as one; return one
    """,
    "kept_space/low/inside.py": "from .. import beside",
    "kept_space/low/other.py": "",
    "kept_space/beside.py": "raise RuntimeError",
    "kept_constant.py": "",
    "kept_plugins/__init__.py": "",
    "kept_plugins/a.py": "",
    "kept_plugins/below/__init__.py": "",
    "kept_plugins/data/b.py": "",
    "kept_large.py": "# " + "x" * LARGEST,
    "kept_broken.py": "def = 1",
    "kept_package/__init__.py": "",
    "kept_package/one.py": "def far():\n  from .two import name\n  from ... import gone",
    "kept_package/two.py": "import kept_alone",
    "kept_unused.py": "",
}


@pytest.mark.needs("cpu")
def test_what_functions_would_import_is_kept_and_nothing_is_run_for_it(folder):
    for name, source in SOURCES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(source))
    importlib.import_module("kept_alone")
    before = set(sys.modules)
    kept = pin_modules(lambda file: Path(file).is_relative_to(folder))
    assert set(sys.modules) == before
    assert {each.name: each.file for each in kept} == {
        name: str(folder / file)
        for name, file in {
            "kept_alone": "kept_alone.py",
            "kept_broken": "kept_broken.py",
            "kept_constant": "kept_constant.py",
            "kept_package": "kept_package/__init__.py",
            "kept_package.one": "kept_package/one.py",
            "kept_package.two": "kept_package/two.py",
            "kept_plugins": "kept_plugins/__init__.py",
            "kept_plugins.a": "kept_plugins/a.py",
            "kept_plugins.below": "kept_plugins/below/__init__.py",
            "kept_space.beside": "kept_space/beside.py",
            "kept_space.low.inside": "kept_space/low/inside.py",
        }.items()
    }
    assert [each.name for each in kept if each.package] == [
        "kept_package",
        "kept_plugins",
        "kept_plugins.below",
    ]
    (folder / "kept_space/low/inside.py").write_text("VALUE = 'edited'")
    import_pinned(kept)
    assert "VALUE" not in linecache.getline(str(folder / "kept_space/low/inside.py"), 1)
    import_pinned(())
    assert "VALUE" in linecache.getline(str(folder / "kept_space/low/inside.py"), 1)


def test_what_is_not_ones_own_is_not_kept():
    assert pin_modules(lambda _file: False) == ()


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("file", ["_classes.py", "/gone/for/good.py", "", b"a.py", 3, None])
def test_a_module_whose_file_is_no_file_is_not_kept(folder, monkeypatch, file):
    """As torch.classes, whose `__file__` looks like one in the working directory."""
    monkeypatch.chdir(folder)
    made = types.ModuleType("kept_alone")
    made.__file__ = file
    monkeypatch.setitem(sys.modules, "kept_alone", made)
    kept = pin_modules(lambda file: not Path(file).is_file() or Path(file).is_relative_to(folder))
    assert "kept_alone" not in [each.name for each in kept]


@pytest.mark.parametrize("later_s", [0.3, 0.0])
def test_an_edit_within_the_second_that_leaves_the_size_is_imported(tmp_path, monkeypatch, later_s):
    """Python takes the bytecode of the former source: its second and its size are those of the edited one."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.syspath_prepend(str(tmp_path))
    source, second_s = tmp_path / "edited_soon.py", int(time.time()) - 10
    import_edited()

    def imported(number, at_s):
        source.write_text(f"N = {number}\n")
        os.utime(source, (at_s, at_s))
        sys.modules.pop("edited_soon", None)
        return importlib.import_module("edited_soon").N

    compiled = Path(importlib.util.cache_from_source(str(source)))
    assert imported(1, second_s + 0.1) == 1
    os.utime(compiled, (second_s + 0.2, second_s + 0.2))
    assert imported(2, second_s + 0.2 + later_s) == 2
    before = compiled.read_bytes()
    assert imported(2, second_s + 0.2 + later_s) == 2
    assert compiled.read_bytes() == before, "what was written anew is used"
    sys.modules.pop("edited_soon")
