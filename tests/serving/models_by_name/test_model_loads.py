"""Real scikit-learn models of one service, loaded by name, on a real replica."""

import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeRegressor
from tests.serving.answers import problem, wait_until

from hooke import UsageError, service
from hooke.serving.models_by_name.model_loads import model_bytes
from hooke.testing import client

ROWS = np.arange(20.0).reshape(10, 2)
KINDS = {"linear": LinearRegression, "tree": DecisionTreeRegressor, "near": KNeighborsRegressor}


@service(max_batch=16, model_memory="1MiB", timeout="60s")
class Fares:
    """A model by name, from files."""

    def setup(self, folder):
        self.folder = folder
        self.loads: list[str] = []
        self.batches: list[tuple[str, int]] = []
        self.gates: dict[str, threading.Event] = {}
        self.held: dict[str, threading.Event] = {}

    def load(self, name: str):
        self.loads.append(name)
        if name in self.gates:
            self.gates[name].wait(60)
        path = self.folder / f"{name}.pkl"
        if not path.exists():
            raise UsageError(f"there is no model {name}")
        return pickle.loads(path.read_bytes())

    def predict(self, model, rows: list[list[float]]) -> list[float]:
        self.batches.append((type(model).__name__, len(rows)))
        return list(model.predict(np.array(rows)))

    def slow(self, model, what: str) -> str:
        self.held[what].wait(60)
        return type(model).__name__

    def each(self, model, to: int):
        for number in range(to):
            yield [number, float(model.predict([[number, number]])[0])]

    async def kind(self, model) -> str:
        return type(model).__name__

    def ping(self) -> str:
        return "pong"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    for name, kind in KINDS.items():
        options = {"n_neighbors": 1} if name == "near" else {}
        (made / f"{name}.pkl").write_bytes(pickle.dumps(kind(**options).fit(ROWS, ROWS.sum(axis=1))))
    for name, count in (("big-a", 50_000), ("big-b", 50_000), ("big-c", 50_000), ("huge", 200_000)):
        far = LinearRegression().fit(ROWS, ROWS.sum(axis=1))
        far.extra = np.zeros(count)  # 400 KB, and 1.6 MB
        (made / f"{name}.pkl").write_bytes(pickle.dumps(far))
    (made / "broken.pkl").write_bytes(b"not a pickle")
    return made


@pytest.fixture
def fares(folder):
    with client(Fares, folder=folder) as made:
        yield made


def predict(fares, name, rows=((2.0, 3.0),)):
    return fares.post("/predict", {"model": name, "rows": rows})


def uses(fares):
    return fares.replica.models.uses


def test_each_request_is_answered_by_its_model_and_each_is_loaded_once(fares):
    for _ in range(3):
        for name in KINDS:
            assert predict(fares, name).json() == pytest.approx([5.0])
    assert fares.service.loads == list(KINDS)
    assert {kind for kind, _ in fares.service.batches} == {kind.__name__ for kind in KINDS.values()}
    assert fares.post("/kind", {"model": "tree"}).json() == "DecisionTreeRegressor"
    assert fares.post("/each", {"model": "linear", "to": 2}).events()[1] == (
        "message",
        [1, pytest.approx(2.0)],
    )
    assert [uses(fares)[name].requests for name in KINDS] == [4, 4, 3]


def test_a_hundred_requests_for_a_cold_model_load_it_once_and_others_go_on(fares):
    assert predict(fares, "linear").status == 200
    fares.service.gates["tree"] = threading.Event()
    with ThreadPoolExecutor(100) as pool:
        cold = [pool.submit(predict, fares, "tree") for _ in range(100)]
        wait_until(lambda: len(fares.replica.models._waiting) == 100)
        assert predict(fares, "linear").status == fares.post("/ping", {}).status == 200
        assert not any(one.done() for one in cold)
        fares.service.gates["tree"].set()
        assert {one.result().status for one in cold} == {200}
    assert fares.service.loads == ["linear", "tree"]
    assert max(rows for kind, rows in fares.service.batches if kind == "DecisionTreeRegressor") > 1


def test_requests_of_different_models_do_not_share_a_batch(fares):
    for name in KINDS:
        predict(fares, name)
    with ThreadPoolExecutor(30) as pool:
        answers = [pool.submit(predict, fares, name) for name in KINDS for _ in range(10)]
        assert {one.result().status for one in answers} == {200}
    assert sum(rows for _, rows in fares.service.batches) == 33


def test_the_model_that_was_used_least_recently_gives_way(fares):
    for name in ("big-a", "big-b", "big-a", "big-c"):
        assert predict(fares, name).status == 200
    assert {name: use.evictions for name, use in uses(fares).items()} == {"big-a": 0, "big-b": 1, "big-c": 0}
    assert sum(use.bytes for use in uses(fares).values()) <= 1 << 20
    assert predict(fares, "big-b").status == 200
    assert fares.service.loads == ["big-a", "big-b", "big-c", "big-b"]
    text = fares.get("/-/metrics").body.decode()
    found = dict(re.findall(r'^hooke_model_(\w+){model="big-b"} (\S+)$', text, re.MULTILINE))
    assert (found["loads_total"], found["evictions_total"], found["requests_total"]) == ("2.0", "1.0", "2.0")
    assert 400_000 < float(found["bytes"]) < 410_000


def test_a_model_in_use_is_not_evicted_and_the_other_waits_for_its_room(fares):
    held = fares.service.held["a"] = threading.Event()
    for name in ("big-a", "big-b", "big-c"):
        predict(fares, name)
    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(fares.post, "/slow", {"model": name, "what": "a"}) for name in ("big-b", "big-c")]
        cache = fares.replica.models._cache
        wait_until(lambda: cache.users("big-b") == cache.users("big-c") == 1)
        waiting = pool.submit(predict, fares, "big-a")
        wait_until(lambda: cache.waiting_models == 1)
        assert set(cache.loaded_sizes) == {"big-b", "big-c"}
        held.set()
        assert waiting.result().status == 200
        assert {one.result().status for one in busy} == {200}
    assert cache.used <= 1 << 20


def test_a_model_that_is_larger_than_the_budget_is_refused_and_loaded_only_once(fares):
    for _ in range(2):
        answer = predict(fares, "huge")
        assert answer.status == 422
        assert "and all models together have 1.00 MiB (model_memory)" in problem(answer)["detail"]
    assert fares.service.loads == ["huge"]
    assert uses(fares)["huge"].bytes == 0


def test_an_unknown_name_a_name_that_is_a_path_and_a_broken_file_are_refused(fares, caplog):
    answer = predict(fares, "nope")
    assert (answer.status, answer.json()["errors"][0]["field"]) == (422, "model")
    assert "there is no model nope" in answer.json()["detail"]
    for name in ("../linear", "/etc/passwd", "", "a/b", ".hidden", 3):
        answer = predict(fares, name)
        assert (answer.status, answer.json()["errors"][0]["field"]) == (422, "model")
    assert fares.service.loads == ["nope"]
    assert predict(fares, "broken").status == 500
    assert "Fares.load raised" in caplog.text
    assert predict(fares, "linear").status == 200
    assert predict(fares, "nope").status == 422
    assert fares.service.loads.count("nope") == 2, "a later request tries again"


def test_load_is_no_route_and_the_document_says_that_the_model_is_a_name(fares):
    assert fares.post("/load", {"name": "linear"}).status == 404
    schema = fares.get("/-/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    field = schema["application/json"]["schema"]["properties"]["model"]
    assert (field["type"], field["description"]) == ("string", "The name of a model.")
    listed = fares.post("/v2/repository/index", {}).json()
    assert "Fares.predict" not in {one["name"] for one in listed}


@service(model_memory="1MiB", timeout="100ms")
class Hasty:
    def setup(self):
        self.gate = threading.Event()

    def load(self, name: str):
        self.gate.wait(60)
        return name

    def say(self, model) -> str:
        return model


def test_a_request_waits_for_a_load_within_its_timeout_and_the_load_goes_on():
    with client(Hasty) as made:
        assert made.post("/say", {"model": "a"}).status == 504
        made.service.gate.set()
        wait_until(lambda: made.post("/say", {"model": "a"}).status == 200)
        assert made.replica.models._cache.users("a") == 0
        assert uses(made)["a"].loads == 1


@pytest.mark.parametrize(
    ("methods", "options", "said"),
    [
        ({"say": lambda self, model: 1}, {}, "has no method load"),
        ({"load": lambda self, name: 1, "say": lambda self, x: 1}, {}, "has a parameter model"),
        ({"load": lambda self, name: 1, "say": lambda self, model: 1}, {"model": "process"}, "leave out one"),
        (
            {"load": lambda self, name: 1, "say": lambda self, model: 1},
            {"model_memory": "lots"},
            "model_memory",
        ),
    ],
)
def test_a_class_that_cannot_load_is_refused(methods, options, said):
    with pytest.raises(UsageError) as raised:
        service(**{"model_memory": "1MiB"} | options)(type("Wrong", (), methods))
    assert said in str(raised.value)


def test_the_size_is_that_of_the_arrays_or_how_much_the_process_grew():
    assert 800_000 < model_bytes({"weights": np.zeros(100_000), "x": np.zeros((10, 10)).T}, grown=5) < 801_500
    assert model_bytes(threading.Lock(), grown=5) == 5
