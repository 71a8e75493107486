"""Every public object shows itself well: in one line as `repr`, and in a notebook as a table, a figure or its text."""

import importlib
import inspect
import re
import typing
from pathlib import Path

import numpy as np
import pytest

import hooke
from hooke.base.table import Tabular

pytestmark = pytest.mark.needs("processes")

PAGES = ("python", "scaling", "data")
"""Pages of the reference with objects that a user holds."""
MOST = 300
"""Characters of a repr."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
EVIL = "<script>"
PLAIN = {"Any", "Callable", "None", "NoReturn", "Path"}
BESIDE = ["hooke.searching.space.LogUniform"]
"""Returned by a public function, and described there."""

JOB = """
from hooke import log_histogram, log_metric, log_text, pipeline, task


@task
def half(x: int, note: str) -> float:
    print(note)
    log_metric("loss", x / 2, step=x)
    log_text(note, "half.txt")
    log_histogram("spread", [1, 2, 3.0])
    return x / 2


@pipeline
def halves(n: int = 2, note: str = "<script>") -> list[float]:
    return half.map(range(n), note=note)


@task
def inverse(x: int) -> float:
    return 1 / x


@task
def score(kind: str) -> float:
    return float(len(kind))


@pipeline
def inverses(note: str = "<script>") -> float:
    return inverse(0)
"""


def class_of(name: str) -> type:
    """The class that a name of the reference means."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def of_users(made: type) -> bool:
    """Whether users write such classes, as a protocol says."""
    return getattr(made, "_is_protocol", False)


def documented() -> list[str]:
    root = Path(__file__).resolve().parents[2] / "docs" / "reference"
    pages = "\n".join((root / f"{page}.md").read_text("utf-8") for page in PAGES)
    found = re.findall(r"^\.\. autoclass:: ([\w.]+)", pages, re.MULTILINE)
    return [name for name in found if not of_users(class_of(name))]


def given_by(function: object) -> set[str]:
    """The names of the classes in a function's return annotation."""
    shown = inspect.signature(typing.cast("typing.Any", function)).return_annotation
    return set(re.findall(r"[A-Za-z_]\w*(?=$|[\[\],| ])", str(shown)))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """An object of each class, by the name of the class: real ones, of real runs, with markup in what is the user's."""
    folder = tmp_path_factory.mktemp("displays")
    (folder / "job_of_displays.py").write_text(JOB, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        job = importlib.import_module("job_of_displays")
        made = [*of_runs(job, folder), *of_laws(), *of_services(), *of_data(folder)]
    return {kind.__name__: each for each in reversed(made) for kind in type(each).__mro__}


def of_runs(job, folder):
    run = hooke.run(job.halves, on="serial", progress="none")
    other = hooke.run(job.halves, n=3, on="serial", progress="none")
    with pytest.raises(ZeroDivisionError) as failed:
        hooke.run(job.inverses, on="serial", progress="none")
    found = hooke.search(job.score, {"kind": [EVIL, "b"]}, trials=2, on="serial", progress="none")
    study = hooke.measure(job.halves, workers=[1, 2], repeats=1, progress="none")
    plan = hooke.plan(job.halves, n=40, workers=[1, 2])
    report = hooke.reproduce(run.id)
    logged = run.logged()
    assert plan.rows
    script = hooke.start_run(name="script", params={"note": EVIL})
    script.finish()
    with hooke.attach_run(run.id) as attached:
        hooke.log_param("note", EVIL)
    yield from (run, script, attached, hooke.runs(), hooke.compare(run, other), failed.value)
    yield from (
        run.tasks(),
        run.tasks()[0],
        run.logs()[0],
        run.params,
        logged,
        logged.points[0],
        attached.logged().params[0],
    )
    yield from (run.metrics["loss"], run.artifacts[0], logged.histogram("spread")[0])
    yield from (found, found.trials, found.best, study, study.rows[0])
    yield from (
        plan,
        plan.rows[0],
        plan.rows[0].configuration,
        plan.tasks[0],
        plan.catalogs[0],
        plan.catalogs[0].machines[0],
    )
    yield from (report, report.conditions[0])
    yield from (
        job.half,
        job.half.resources,
        job.halves,
        job.halves.graph(),
        hooke.File(folder / EVIL),
        hooke.Fleet("dask"),
        hooke.loguniform(1e-3, 1),
    )
    yield hooke.ModelVersion(
        name=EVIL,
        number=3,
        alias="champion",
        moved=True,
        why="",
        format="skops",
        digest="0" * 64,
        metrics={"auc": 0.9},
        run=run.id,
    )


def of_laws():
    from hooke.charts import Curve
    from hooke.planning.causes import Bottleneck
    from hooke.running.reproduce.result_comparison import ResultVerdict
    from hooke.scaling import Measurements, cost, fit
    from hooke.scaling.affine import CallBlock, affine
    from hooke.tracking.logged_values import DroppedCalls

    measured = Measurements([1, 2, 4, 8, 16, 32], throughput=[101, 193, 341, 597, 862, 1290])
    law = fit(measured)
    blocks = [[CallBlock(10, 10.0 * rows, 0.1 + 0.2 * rows + 0.01 * (rows % 3))] for rows in range(1, 30)]
    yield from (measured, law, law.knee, law.comparison[0], law.lack_of_fit, law.next_measurement())
    yield from (cost(law, plain_seconds=1 / 250), Curve(measured, name=EVIL), blocks[0][0], affine(blocks))
    yield Bottleneck(name="lock", sentence=EVIL, evidence=(EVIL, "another"))
    yield DroppedCalls(calls=2, first_at=0.0, last_at=1.0, why=EVIL)
    yield ResultVerdict(name=EVIL, equal=3, different=1, first=EVIL)


def of_services():
    from hooke.models.formats.onnx import OnnxModel
    from hooke.serving.request_context import RequestContext
    from hooke.serving.service import service_of

    @hooke.service(middleware=lambda app: app)
    class Echo:
        def say(self, x: int) -> int:
            return x

    yield from (service_of(Echo), RequestContext(id=EVIL))
    yield hooke.TokenLimits(slots=8, step_tokens=256, context=1024)
    yield hooke.TokenPiece(tokens=[1, 2], start=0, pages=[0], gives_token=True)
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [1])], [value("y", 1, [1])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    yield OnnxModel(
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    )


def of_data(folder):
    from hooke.data import Oversampled, PackedFile, Shuffled, Stratified, TokenBuckets, Weighted, pack, scan

    rows = np.arange(100)
    shuffled = Shuffled(rows, seed=7, batch=10)
    stratified = Stratified(rows % 3)
    packed = PackedFile(pack({"x": rows}, folder / "x.packed"))
    (folder / "lines.txt").write_text("a\nb\n", "utf-8")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": rows}), folder / "x.parquet")
    yield from (shuffled, iter(shuffled.batches(0)), shuffled.quality())
    yield from (stratified, Oversampled(rows % 3), Weighted(rows), TokenBuckets(rows + 1, 1000))
    yield Shuffled(rows, seed=7, batch=10, balance=stratified).balance(2)
    yield packed
    yield from (scan(folder / "x.parquet")[0], scan(folder / "lines.txt")[0])


@pytest.mark.parametrize("name", [*documented(), *BESIDE])
def test_an_object_shows_itself(shown, name):
    each = shown.get(class_of(name).__name__)
    assert each is not None, f"{name} is in the reference: give this test an object of it"
    line = repr(each)
    assert "\n" not in line
    assert len(line) <= MOST, line
    assert not ADDRESS.search(line), line
    figure = getattr(each, "_repr_svg_", None)
    page = figure() if figure is not None else getattr(each, "_repr_html_", str)()
    assert "<script" not in page
    if len(str(each).splitlines()) > 1:
        assert page, (
            f"print({name}) has several lines, and a notebook shows one: give it _repr_html_ (hooke.base.table.Printed)"
        )


@pytest.mark.parametrize(
    "function", [name for name in hooke.__all__ if inspect.isfunction(getattr(hooke, name))]
)
def test_what_a_function_returns_is_shown(shown, function):
    """A new class that a public function returns is in the reference, and so in the test above."""
    known = {class_of(name).__name__ for name in [*documented(), *BESIDE]}
    names = {name for name in given_by(getattr(hooke, function)) if name[0].isupper()}
    assert names - PLAIN <= known


CLASSES = [each for each in (getattr(hooke, name) for name in hooke.__all__) if inspect.isclass(each)]


@pytest.mark.parametrize("name", [each.__name__ for each in CLASSES if not of_users(each)])
def test_each_public_class_is_shown_or_an_error(shown, name):
    made = getattr(hooke, name)
    if not issubclass(made, hooke.HookeError):
        assert made.__name__ in shown
        return
    error = made(EVIL, why=EVIL)
    assert "<script" not in error._repr_html_()
    assert f"{name}: " in error._repr_html_()


@pytest.mark.parametrize("name", ["params", "metrics", "artifacts", "failures", "tasks", "logs"])
def test_what_a_run_gives_is_a_table(shown, name):
    found = getattr(shown["Run"], name)
    found = found() if callable(found) else found
    assert isinstance(found, Tabular)
    assert list(found.to_frame().columns) == list(found.to_frame("polars").columns) == list(found.columns())
    assert "<script" not in found._repr_html_()
