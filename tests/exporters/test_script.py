"""Exported scripts compute what the pipelines do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.exporters.exported import Exported
from tests.exporters.shapes import NAMES

from hooke.running.single_task import ExecOrder, execute_task

HOOKE = Path(sys.executable).with_name("hooke")


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Exported(tmp_path)
    sys.modules.pop("shapes_job", None)


def in_this_process(target, wanted, inputs, timeout=None):
    """What `hooke exec` does, without a process for each task."""
    order = ExecOrder(
        target=target,
        inputs={name: repr(value) for name, value in inputs.items()},
        listed=wanted == "--items",
    )
    done = execute_task(order)
    return json.dumps(done.items) if wanted == "--items" else done.reference


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_the_pipeline_does(shapes, name, monkeypatch):
    text = shapes.export("script", name, shapes.folder / "exported.py")
    script = {"__name__": "exported", "__file__": str(shapes.folder / "exported.py")}
    exec(compile(text, "exported.py", "exec"), script)
    script["_hooke"] = in_this_process
    found = shapes.value(script["main"]())
    if name == "gang":  # called as a function it has one rank
        assert found == {"sum": 7, "count": 2}
    else:
        assert found == shapes.here(name)
    if "main(n=3)" in text:
        assert shapes.value(script["main"](n=2)) == shapes.here(name, n=2)


def test_it_runs_as_a_program_by_hooke_exec_and_finds_what_is_stored(shapes):
    shapes.export("script", "chain", shapes.folder / "exported.py")

    def run():
        done = subprocess.run(
            [sys.executable, "exported.py"],
            env=os.environ | {"HOOKE": str(HOOKE)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip(), done.stderr

    first, _ = run()
    assert shapes.value(first) == shapes.here("chain")
    shapes.file.write_text(shapes.file.read_text().replace("return x * by", 'raise ValueError("it ran")'))
    failed = subprocess.run(
        [sys.executable, "exported.py"],
        env=os.environ | {"HOOKE": str(HOOKE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode and failed.stderr.count("double(x=") == 2, "it is tried again once"
    assert "ValueError: it ran" in failed.stderr
    shapes.file.write_text(shapes.file.read_text().replace('raise ValueError("it ran")', "return x * by"))
    assert run()[0] == first
