"""Exported scripts compute what the pipelines do."""

import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.exporters.exported import Exported
from tests.exporters.shapes import NAMES, PLAIN_NAMES

import hooke
from hooke.base.errors import UsageError
from hooke.exporters.targets import ExportOrder, export
from hooke.project.pipeline_file import load_entry
from hooke.running.single_task import ExecOrder, execute_task

HOOKE = Path(sys.executable).with_name("hooke")


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Exported(tmp_path)
    sys.modules.pop("shapes_job", None)


def in_this_process(target, wanted, inputs, timeout=None, *options):
    """What `hooke exec` does, without a process for each task."""
    order = ExecOrder(
        target=target,
        inputs={name: repr(value) for name, value in inputs.items()},
        listed=wanted == "--items",
        on_error="continue" if options == ("--on-error", "continue") else "raise",
    )
    done = execute_task(order)
    return json.dumps(done.items) if wanted == "--items" else done.reference


@pytest.mark.long
@pytest.mark.needs("cpu")
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
    if name == "lossy":
        run = hooke.run(load_entry(f"{shapes.file}:{name}")[0], on="serial")
        assert (run.result(), run.status) == (found, "finished with failures")
    if name == "chain":
        assert "main(n=3)" in text and shapes.value(script["main"](n=2)) == shapes.here(name, n=2)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_without_hooke_it_computes_the_same(shapes, name):
    text = shapes.export("script", name, shapes.folder / "exported.py", flavour="plain")
    imported = [each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Import | ast.ImportFrom)]
    assert not [ast.unparse(each) for each in imported if "hooke" in ast.unparse(each)]
    script = {"__name__": "exported", "__file__": str(shapes.folder / "exported.py")}
    exec(compile(text, "exported.py", "exec"), script)
    assert script["main"]() == shapes.here(name)


MODEL = """
    from dataclasses import dataclass
    import math as m
    from hooke import task
    from plain_part import SCALE, shifted

    @dataclass(frozen=True)
    class Model:
        # the slope of the line
        slope: float

    def area(radius: float) -> float:
        return SCALE * m.pi * radius**2
"""

JOB = """
    from __future__ import annotations
    import functools
    from hooke import pipeline, task
    from model_part import Model, area
    import plain_part

    FACTOR, OTHER = 2, 3

    @functools.lru_cache
    def factor():
        return FACTOR

    @task
    def slope(model: Model, x: float) -> float:
        return model.slope * x * factor() + plain_part.shifted(0)

    @task
    def disc(r: float) -> float:
        return area(r)

    @pipeline
    def job():
        return slope(Model(1.5), 2.0), disc.map([1.0, 2.0])
"""


@pytest.mark.needs("cpu")
def test_what_functions_use_comes_along_and_nothing_else(workshop):
    """From the file itself, from a module that imports Hooke, and, imported, from one that does not."""
    (workshop.folder / "plain_part.py").write_text("SCALE = 0.5\n\ndef shifted(x):\n    return x + 1\n")
    (workshop.folder / "model_part.py").write_text(textwrap.dedent(MODEL))
    workshop.write(JOB)
    pipeline, file = load_entry(str(workshop.file))
    out = workshop.folder / "sub" / "exported.py"
    order = ExportOrder(target="script", pipeline=pipeline, file=file, out=out, flavour="plain")
    text = export(order, workshop.project)
    out.parent.mkdir()
    out.write_text(text)
    done = subprocess.run([sys.executable, "-I", out], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == str(pipeline.function.__globals__["job"]())
    assert "from plain_part import SCALE" in text and "import plain_part" in text and "# the slope" in text
    assert "FACTOR, OTHER = 2, 3" in text and "@functools.lru_cache" in text
    assert "shifted(x)" not in text and "@task" not in text and "@pipeline" not in text


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "from hooke import log_metrics\n@task\ndef one():\n    log_metrics({'a': 1})\n",
            "one uses hooke.log_metrics (job",
        ),
        ("import hooke\n@task\ndef one():\n    return hooke.File('a')\n", "one uses hooke (job"),
        (
            "@task\ndef two(x):\n    return x\n@task\ndef one():\n    return two.map([1])\n",
            "one uses two.map or the like",
        ),
        ("print('hello')\n@task\ndef one():\n    return 1\n", "runs code when it is imported (job"),
        (
            "class A:\n    @task\n    def one(self):\n        return 1\none = A.one\n",
            "one: its function is not at the top",
        ),
        ("def main():\n    return 1\n@task\ndef one():\n    return main()\n", "one uses main of job"),
        ("@task\ndef one(*xs):\n    return 1\n", "one: its parameter xs has no name to be given by"),
    ],
)
def test_what_needs_hooke_is_refused_with_its_place(workshop, code, reason):
    call = "one(None)" if "class A" in code else "one()"
    workshop.write(f"from hooke import pipeline, task\n{code}\n@pipeline\ndef job():\n    return {call}\n")
    pipeline, file = load_entry(str(workshop.file))
    order = ExportOrder(target="script", pipeline=pipeline, file=file, out=Path("x.py"), flavour="plain")
    with pytest.raises(UsageError) as error:
        export(order, workshop.project)
    assert reason in str(error.value)


@pytest.mark.long
@pytest.mark.needs("cpu")
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
