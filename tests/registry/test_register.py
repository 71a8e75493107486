"""Registering and loading through a real MLflow: its SQLite store and its server; from scripts, tasks and at once."""

import json
import os
import signal
import time

import psutil
import pytest

import hooke
from hooke.base.errors import UsageError

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(800)]

FITTED = """
import numpy as np
from sklearn.linear_model import LogisticRegression

rows = np.random.default_rng(0).random((60, 3))
fitted = LogisticRegression().fit(rows, rows[:, 0] > 0.5)
"""


class Doubles:
    def predict(self, rows):
        return 2 * rows


@pytest.mark.long
def test_a_script_registers_and_another_loads_without_mlflow(shop):
    out = shop.run(
        FITTED
        + """
import hooke, sys

with hooke.start_run("late") as run:
    hooke.log_metric("auc", 0.7)
    first = hooke.register(fitted, "flights", alias="champion", if_better="auc", input_example=rows[:2])
print(first)
print(hooke.register(fitted, "flights", alias="champion", if_better="auc", metrics={"auc": 0.7}))
print(hooke.register(fitted, "flights", alias="champion", if_better="auc", run=run, metrics={"auc": 0.8}))
print(hooke.register(fitted, "flights", alias="lowest", if_better="-loss", metrics={"loss": 0.5}))
print(first.run == run.id, "mlflow" in sys.modules)
print("torch" in sys.modules, None in sys.modules.values())
"""
    )
    assert out.splitlines() == [
        "flights:1 (skops), now @champion",
        "flights is not registered: auc 0.7 equals 0.7 of version 1",
        "flights:2 (skops), now @champion",
        "flights:3 (skops), now @lowest",
        "True False",
        "False False",
    ]
    out = shop.run(
        FITTED
        + """
import hooke, sys

for name in ("flights@champion", "flights:1", "flights"):
    print((hooke.load_model(name).predict(rows) == fitted.predict(rows)).all())
print("mlflow" in sys.modules, "torch" in sys.modules)
for name in ("flights@champ", "flight", "flights:9"):
    try:
        hooke.load_model(name)
    except hooke.UsageError as error:
        print(error.what, "|", error.fix)
""",
        name="load.py",
    )
    assert out.splitlines() == [
        "True",
        "True",
        "True",
        "False False",
        "model flights has no alias 'champ' | valid: champion (version 2), lowest (version 3); its newest version is 3",
        "no model is called 'flight' | did you mean flights? registered: flights",
        "model flights has no version 9 | valid: 3, 2, 1",
    ]
    plain = """
import warnings
warnings.simplefilter("ignore")
import mlflow
import numpy as np

model = mlflow.pyfunc.load_model("models:/flights@champion")
print(model.predict(np.ones((2, 3))).shape)
first = mlflow.pyfunc.load_model("models:/flights/1")
print(first.metadata.signature.inputs, first.input_example.shape)
"""
    out = shop.run(plain, name="plain.py", MLFLOW_TRACKING_URI=f"sqlite:///{shop.folder}/mlflow.db")
    assert out.splitlines() == ["(2,)", "[Tensor('float64', (-1, 3))] (2, 3)"]
    listed = shop.hooke("models", "ls").stdout.splitlines()
    assert listed[1].split() == ["flights", "3", "3", "champion=2,", "lowest=3"]
    shown = shop.hooke("models", "show", "flights").stdout.splitlines()
    assert shown[2].split()[:4] == ["2", "champion", "auc=0.8", "skops"]
    (facts,) = json.loads(shop.hooke("models", "show", "flights:1", "--json").stdout)
    assert facts["metrics"] == {"auc": 0.7}
    assert facts["run"].startswith("job-")


@pytest.mark.long
def test_a_champion_that_plain_mlflow_registered_is_compared_by_its_runs_metric(shop):
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{shop.folder}/mlflow.db"}
    shop.run(
        FITTED
        + """
import mlflow

with mlflow.start_run():
    mlflow.log_metric("auc", 0.9)
    mlflow.sklearn.log_model(fitted, name="m", registered_model_name="flights", pip_requirements=[])
mlflow.MlflowClient().set_registered_model_alias("flights", "champion", "1")
""",
        name="plain.py",
        **uri,
    )
    out = shop.run(
        FITTED
        + """
import hooke

def tried(**more):
    try:
        print(hooke.register(fitted, "flights", alias="champion", **more))
    except hooke.HookeError as error:
        print(error.what)

tried(if_better="auc", metrics={"auc": 0.8})
tried(if_better="-loss", metrics={"loss": 0.8})
tried(if_better="auc", metrics={"auc": 0.95})
try:
    hooke.load_model("flights:1")
except hooke.HookeError as error:
    print(error.what)
"""
    )
    assert out.splitlines() == [
        "flights is not registered: auc 0.8 is not better than 0.9 of version 1",
        "flights@champion has no metric 'loss' to compare with",
        "flights:2 (skops), now @champion",
        "flights:1 was not registered by Hooke, so its files cannot be verified",
    ]


@pytest.mark.long
def test_torch_onnx_and_pickle_by_plain_mlflow_as_far_as_it_may(shop):
    (shop.folder / "nets.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self, width):\n        super().__init__()\n        self.width = width\n"
        "        self.inner = torch.nn.Linear(3, width)\n\n"
        "    def forward(self, rows):\n        return self.inner(rows).sum(1)\n"
    )
    out = shop.run(
        """
        import numpy as np, torch
        from nets import Net
        from onnx import TensorProto, helper
        import hooke

        rows, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("rows", "out"))
        graph = helper.make_graph([helper.make_node("Add", ["rows", "rows"], ["out"])], "double", [rows], [out])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        ones = np.ones((2, 3), np.float32)
        net = Net(width=2)
        print(hooke.register(net, "net", input_example=ones))
        print(hooke.register(proto, "double", input_example=ones))
        print(hooke.register({"rates": [0.1]}, "rates", alias="champion"))
        print(np.allclose(hooke.load_model("net")(torch.ones(2, 3)).detach(), net(torch.ones(2, 3)).detach()))
        print(hooke.load_model("double").predict(ones).tolist())
        print(hooke.load_model("rates@champion"))
        """
    )
    assert out.splitlines() == [
        "net:1 (safetensors)",
        "double:1 (onnx)",
        "rates:1 (pickle), now @champion",
        "True",
        "[[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]",
        "{'rates': [0.1]}",
    ]
    plain = """
        import warnings
        warnings.simplefilter("ignore")
        import mlflow
        import numpy as np

        ones = np.ones((2, 3), np.float32)
        print(mlflow.pyfunc.load_model("models:/net/1").predict(ones).shape)
        print(list(mlflow.pyfunc.load_model("models:/double/1").predict(ones).values())[0].sum())
        try:
            mlflow.pyfunc.load_model("models:/rates/1")
        except mlflow.MlflowException as error:
            print(error)
        """
    uri = f"sqlite:///{shop.folder}/mlflow.db"
    out = shop.run(plain, name="plain.py", MLFLOW_TRACKING_URI=uri)
    assert out.splitlines() == ["(2,)", "12.0", 'Model does not have the "python_function" flavor']


@pytest.mark.long
def test_a_task_registers_for_its_attempt_and_a_script_for_a_run(shop):
    out = shop.run(
        FITTED
        + """
import hooke
from hooke import pipeline, run, task

@task
def fit(depth):
    hooke.log_metric("auc", depth / 10)
    if depth == 3:
        version = hooke.register(fitted, "flights", alias="champion", if_better="auc")
        print(version, flush=True)
        return version.run, version.mlflow_run
    return None

@pipeline
def sweep():
    return fit.map([1, 3])

if __name__ == "__main__":
    r = run(sweep)
    key, mlflow_run = r.result()[1]
    print(key.startswith(r.id + "/"), key.endswith("/1"), len(mlflow_run))
    try:
        hooke.register(fitted, "flights", alias="champion", if_better="auc", run=r)
    except hooke.UsageError as error:
        print(error.what.replace(r.id, "RUN"))
    after = hooke.register(fitted, "flights", run=r)
    print(after, after.run == r.id, len(after.mlflow_run))
""",
        sinks="mlflow",
    )
    assert out.splitlines() == [
        "True True 32",
        "metric 'auc' was logged by 2 tasks or items of run RUN: fit[0], fit[1]",
        "flights:2 (skops) True 32",
    ]
    plain = """
        import mlflow

        client = mlflow.MlflowClient()
        version = client.get_model_version_by_alias("flights", "champion")
        run = client.get_run(version.run_id)
        print(run.info.run_name, run.data.metrics, run.data.tags["hooke.run_id"] == version.tags["hooke.run_id"])
        """
    shop.hooke("sync")
    out = shop.run(plain, name="plain.py", MLFLOW_TRACKING_URI=f"sqlite:///{shop.folder}/mlflow.db")
    assert out == "fit[1] {'auc': 0.3} True\n"


AT_ONCE = (
    FITTED
    + """
import hooke, sys

value = float(sys.argv[1]) if len(sys.argv) > 1 else float(__import__("os").environ["VALUE"])
version = hooke.register(fitted, "flights", alias="champion", if_better="auc", metrics={"auc": value})
print(version)
"""
)


def at_once(shop, values, **environment) -> dict[float, str]:
    started = {
        value: shop.start(AT_ONCE, name=f"job{at}.py", VALUE=str(value), **environment)
        for at, value in enumerate(values)
    }
    ended = {
        value: (*process.communicate(timeout=300), process.returncode) for value, process in started.items()
    }
    assert not any(code for _, _, code in ended.values()), ended
    return {value: out.strip() for value, (out, _, _) in ended.items()}


@pytest.mark.long
def test_of_three_processes_at_once_the_best_has_the_alias(shop):
    said = at_once(shop, [0.6, 0.9, 0.7])
    (champion,) = [
        each
        for each in json.loads(shop.hooke("models", "show", "flights", "--json").stdout)
        if each["aliases"]
    ]
    assert champion["metrics"] == {"auc": 0.9}
    assert said[0.9] == f"flights:{champion['version']} (skops), now @champion"


@pytest.mark.parametrize("how", ["Ctrl-C", "a kill of the process that registers"])
def test_what_is_stopped_on_the_way_registers_nothing_and_says_so(shop, how):
    process = shop.start("import hooke\nprint(hooke.register({'a': 1}, 'm'))")
    deadline, registrar = time.monotonic() + 60, None
    while registrar is None:
        assert time.monotonic() < deadline
        children = psutil.Process(process.pid).children()
        registrar = next((each for each in children if "hooke.models.publish" in each.cmdline()), None)
        time.sleep(0.02)
    if how == "Ctrl-C":
        os.kill(registrar.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGINT)
    else:
        registrar.kill()
    _, err = process.communicate(timeout=180)
    assert process.returncode
    if how != "Ctrl-C":
        assert "m is not registered: the registering process ended with exit code -9" in err
    assert [each.name for each in (shop.folder / ".hooke/models").iterdir()] == ["known"]
    assert json.loads(shop.hooke("models", "ls", "--json").stdout) == {}


def test_a_changed_file_is_refused_and_a_foreign_pickle_until_it_is_trusted(shop, tmp_path):
    shop.run("import hooke\nhooke.register({'rates': [0.1]}, 'rates', alias='champion')")
    load = "import hooke\ntry:\n    print(hooke.load_model('rates@champion'))\nexcept hooke.HookeError as e:\n    print(type(e).__name__, e)"
    (copy,) = [each for each in (shop.folder / ".hooke/models").iterdir() if len(each.name) == 64]
    file = copy / "model.pkl"
    whole = file.read_bytes()
    file.write_bytes(whole + b".")
    out = shop.run(load)
    assert out.startswith("CorruptObject a model differs from what was registered: model.pkl was changed")
    file.write_bytes(whole)
    assert shop.run(load) == "{'rates': [0.1]}\n"

    other = type(shop)(tmp_path / "other")
    other.folder.mkdir()
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{shop.folder}/mlflow.db"}
    out = other.run(load, **uri)
    assert out.startswith("UntrustedModel rates:1 is a pickle that this project does not trust")
    assert "next: hooke models trust rates:1" in out
    asked = other.hooke("models", "trust", "rates@champion", **uri)
    assert asked.returncode == 2
    assert "may refer to another version tomorrow" in asked.stderr
    done = other.hooke("models", "trust", "rates:1", **uri)
    assert done.stdout.startswith("trusted: rates:1, pickle, ")
    assert other.run(load, **uri) == "{'rates': [0.1]}\n"

    third = type(shop)(tmp_path / "third")
    third.folder.mkdir()
    (artifact,) = (shop.folder / "mlruns").rglob("model.pkl")
    artifact.write_bytes(whole + b".")
    assert third.run(load, **uri).startswith(
        "CorruptObject a model differs from what was registered: model.pkl was changed"
    )
    artifact.unlink()
    assert third.run(load, **uri).startswith("MissingObject the file model.pkl of rates:1 is missing")


@pytest.mark.long
def test_a_server_that_other_projects_share(shop, server, tmp_path):
    uri = {"MLFLOW_TRACKING_URI": server}
    said = at_once(shop, [0.6, 0.9], **uri)
    shown = json.loads(shop.hooke("models", "show", "flights", "--json", **uri).stdout)
    (champion,) = [each for each in shown if each["aliases"]]
    assert champion["metrics"] == {"auc": 0.9}
    assert said[0.9].endswith("now @champion")
    other = type(shop)(tmp_path / "other")
    other.folder.mkdir()
    load = (
        FITTED
        + "import hooke, sys\nprint((hooke.load_model('flights@champion').predict(rows) == fitted.predict(rows)).all(), 'mlflow' in sys.modules)"
    )
    assert other.run(load, **uri) == "True False\n"
    assert other.hooke("models", "ls", **uri).stdout.split()[-1] == f"champion={champion['version']}"
    gone = other.hooke("models", "ls", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert gone.returncode == 1
    assert "MLflow's server does not answer" in gone.stderr
    strange = other.hooke("models", "show", "nothing", **uri)
    assert "registered: flights" in strange.stderr


def test_what_is_wrong_is_said_before_anything_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong, said in [
        ({"name": "a b"}, "is not a valid model name"),
        ({"name": "a", "alias": "latest"}, "is not a valid alias"),
        ({"name": "a", "if_better": "auc"}, "needs an alias to compare with"),
        ({"name": "a", "alias": "c", "if_better": "-"}, "names no metric"),
        ({"name": "a", "alias": "c", "if_better": "auc"}, "this process is not in a run, and none was given"),
        (
            {"name": "a", "alias": "c", "if_better": "auc", "metrics": {"auc": float("nan")}},
            "no metric 'auc'",
        ),
        ({"name": "a", "metrics": {"auc": "high"}}, "metrics: 'auc' is 'high', which is not a number"),
        ({"name": "a", "run": "last"}, "run='last' is not a run"),
        ({"name": "a", "format": "joblib"}, "there is no format named 'joblib'"),
    ]:
        with pytest.raises(UsageError, match=said.replace("(", r"\(")):
            hooke.register(Doubles(), **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_pipelines_body_has_no_model_yet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @hooke.task
    def fit():
        return Doubles()

    @hooke.pipeline
    def body():
        model = fit()
        hooke.register(model, "m")
        return model

    with pytest.raises(UsageError, match="traced before there is a model"):
        hooke.run(body, on="serial")
