"""The same models over the same requests behind MLServer, in an environment of its own, and behind a service."""

import http.client
import json
import socket
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager

import joblib
import numpy as np
import pytest
import tritonclient.http as triton
from benchmarks.environments import environment_python
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from hooke import service
from hooke.testing import client

pytestmark = [pytest.mark.needs("mlserver"), pytest.mark.long, pytest.mark.timeout(600)]

CHANCE = np.random.default_rng(7)
TABLE = CHANCE.normal(size=(200, 4))
WORDS = ["late plane", "plane on time", "late again", "on time"]


@service(max_batch=64)
class Model:
    """As the runtime of MLServer: what the request brings goes to the model as it is."""

    def setup(self, model):
        self.model = model

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.predict(rows)


@pytest.fixture(scope="module")
def mlserver():
    """The command. It shares the libraries of this environment, so that both have the same scikit-learn."""
    return environment_python("mlserver", "mlserver", "mlserver-sklearn").with_name("mlserver")


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def ask(port, verb, path, request=None):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(verb, path, json.dumps(request), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def served(command, folder, models):
    """MLServer with these models, and the port that it answers on."""
    port, grpc, metrics = free_ports(3)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0, "debug": False}  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, model in models.items():
        (folder / name).mkdir()
        joblib.dump(model, folder / name / "model.joblib")
        described = {
            "name": name,
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib"},
        }
        (folder / name / "model-settings.json").write_text(json.dumps(described))
    log = folder / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [command, "start", folder], cwd=folder, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            ends = time.monotonic() + 120
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < ends, log.read_text()
                try:
                    if ask(port, "GET", "/v2/health/ready")[0] == 200:
                        break
                except OSError:
                    time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def tensor(value, kind, **rest):
    value = np.asarray(value)
    return {
        "name": "rows",
        "shape": list(value.shape),
        "datatype": kind,
        "data": value.ravel().tolist(),
    } | rest


REQUESTS = {
    "numbers": [
        {"inputs": [tensor(TABLE[:1], "FP64")]},
        {"inputs": [tensor(TABLE, "FP64")], "id": "all"},
        {"inputs": [tensor(TABLE[:5], "FP64", data=TABLE[:5].tolist())]},
        {"inputs": [tensor(TABLE[:30].astype(np.float32), "FP32")], "outputs": [{"name": "predict"}]},
        {"inputs": [tensor(np.rint(TABLE[:7]).astype(np.int64), "INT64")]},
        {"inputs": [tensor([[0, 1, 1, 0]], "BOOL", data=[False, True, True, False])]},
    ],
    "words": [
        {"inputs": [tensor(WORDS, "BYTES")]},
        {"inputs": [tensor(["unknown", ""], "BYTES")], "id": "x"},
    ],
}


def test_answers_are_the_same(mlserver, tmp_path):
    target = TABLE @ [3.0, -1.0, 0.5, 2.0]
    models = {
        "forest": RandomForestRegressor(20, random_state=1).fit(TABLE, target),
        "classes": LogisticRegression().fit(TABLE, (target > 0) + (target > 3)),
        "text": make_pipeline(CountVectorizer(), LogisticRegression()).fit(
            WORDS, ["late", "punctual", "late", "punctual"]
        ),
    }
    compared = 0
    with served(mlserver, tmp_path, models) as port:
        for name, model in models.items():
            with client(Model, model=model) as ours:
                for request in REQUESTS["words" if name == "text" else "numbers"]:
                    status, body = ask(port, "POST", f"/v2/models/{name}/infer", request)
                    assert status == 200, body
                    answer = ours.request("POST", "/v2/models/Model/infer", body=json.dumps(request).encode())
                    assert answer.status == 200, answer.body
                    [theirs], [mine] = json.loads(body)["outputs"], answer.json()["outputs"]
                    assert (mine["name"], mine["datatype"], mine["data"]) == (
                        theirs["name"],
                        theirs["datatype"],
                        theirs["data"],
                    )
                    # MLServer writes a value for each row as a table of one column.
                    assert [*mine["shape"], 1] == theirs["shape"]
                    assert answer.json().get("id", "") == request.get("id", "")
                    assert json.loads(body)["id"]
                    compared += len(mine["data"])
    assert compared == 2 * (1 + 200 + 5 + 30 + 7 + 1) + 4 + 2


def test_the_json_of_tritons_client_and_what_is_told_are_the_same(mlserver, tmp_path):
    """Its bytes were never compared: MLServer 1.7 reads no binary tensors over HTTP."""
    model = RandomForestRegressor(20, random_state=1).fit(TABLE, TABLE @ [3.0, -1.0, 0.5, 2.0])
    with served(mlserver, tmp_path, {"forest": model}) as port, client(Model, model=model) as ours:
        for value, kind in ((TABLE, "FP64"), (TABLE[:9].astype(np.float32), "FP32")):
            rows = triton.InferInput("rows", list(value.shape), kind)
            rows.set_data_from_numpy(value, binary_data=False)
            wanted = [triton.InferRequestedOutput("predict", binary_data=False)]
            body, _ = triton.InferenceServerClient.generate_request_body([rows], outputs=wanted)
            status, said = ask(port, "POST", "/v2/models/forest/infer", json.loads(body))
            assert status == 200, said
            answer = ours.request("POST", "/v2/models/Model/infer", body=body)
            assert answer.status == 200, answer.body
            theirs, mine = (
                triton.InferenceServerClient.parse_response_body(one).as_numpy("predict")
                for one in (said, answer.body)
            )
            assert mine.dtype == theirs.dtype
            assert mine.tobytes() == theirs.tobytes()
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/{}/ready", "/v2/models/nobody"):
            theirs, _ = ask(port, "GET", path.format("forest"))
            assert ours.get(path.format("Model")).status == theirs, path
        told = [json.loads(ask(port, "GET", "/v2")[1]), ours.get("/v2").json()]
        assert all(one.keys() >= {"name", "version", "extensions"} for one in told)
        for wrong in ({"inputs": [tensor(TABLE[:1], "FP64", shape=[3, 3])]}, {"inputs": 3}, {}):
            theirs, _ = ask(port, "POST", "/v2/models/forest/infer", wrong)
            answer = ours.request("POST", "/v2/models/Model/infer", body=json.dumps(wrong).encode())
            assert theirs >= 400, wrong
            assert answer.status in {400, 422}, (wrong, answer.body)
