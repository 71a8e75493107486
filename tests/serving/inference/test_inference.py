"""The protocol as a service's methods answer it: metadata, tensors in and out, batches, refusals and compressed bodies."""

import gzip
import zlib
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.serving.answers import wait_until
from tests.serving.inference.services import Columns, Delay, Forms, Tables
from tests.serving.inference.test_codec import ANYTHING, REQUESTS

from hooke import service
from hooke.serving.payloads import DECODE_ON_LOOP
from hooke.serving.replica import Replica
from hooke.serving.service import service_of
from hooke.testing import client


@pytest.fixture(scope="module")
def delay():
    with client(Delay) as made:
        yield made


@pytest.fixture(scope="module")
def forms():
    with client(Forms) as made:
        yield made


@pytest.fixture(scope="module")
def tables():
    with client(Tables) as made:
        yield made


def tensor(name, value, datatype):
    value = np.asarray(value)
    return {"name": name, "shape": list(value.shape), "datatype": datatype, "data": value.ravel().tolist()}


def infer(made, model, request, **headers):
    body = request if isinstance(request, bytes) else msgspec.json.encode(request)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return made.request("POST", f"/v2/models/{model}/infer", body=body, headers=headers)


def outputs(answer):
    assert answer.status == 200, answer.body
    return {one["name"]: (one["datatype"], one["shape"], one["data"]) for one in answer.json()["outputs"]}


def refused(answer):
    said = answer.json()
    assert said["status"] == answer.status
    assert said["error"] == said["detail"], "where clients of the protocol look for it"
    return answer.status, said["error"]


ROWS = tensor("rows", [[1, 2], [3, 4.5]], "FP64")


class TestMetadata:
    """What there is, before anything is sent to it."""

    def test_of_the_server_and_of_models(self, delay, forms):
        assert delay.get("/v2").json()["name"] == "hooke"
        assert "binary_tensor_data" in delay.get("/v2").json()["extensions"]
        for name in ("Delay", "Delay.predict"):
            for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
                assert delay.get(path).json() == {
                    "name": name,
                    "versions": ["1"],
                    "platform": "hooke",
                    "inputs": [
                        {"name": "rows", "datatype": "FP64", "shape": [-1, -1]},
                        {"name": "scale", "datatype": "FP64", "shape": [1]},
                    ],
                    "outputs": [{"name": "predict", "datatype": "FP64", "shape": [-1]}],
                }
                assert delay.get(f"{path}/ready").json() == {"name": name, "ready": True}
        index = delay.request("POST", "/v2/repository/index").json()
        assert [(one["name"], one["state"]) for one in index] == [
            ("Delay", "READY"),
            ("Delay.predict", "READY"),
        ]
        assert forms.get("/v2/models/Forms").status == 404

    @pytest.mark.parametrize(
        ("method", "inputs", "results"),
        [
            (
                "arrays",
                [("a", "FP64", [-1, -1]), ("b", "INT8", [-1, -1])],
                [("output_0", "FP64", [-1]), ("output_1", "INT8", [-1])],
            ),
            ("same", [("x", "FP64", [-1])], [("same", "FP64", [-1])]),
            ("text", [("words", "BYTES", [-1, -1])], [("text", "BYTES", [-1])]),
            ("raw", [("parts", "BYTES", [-1]), ("one", "BYTES", [1])], [("raw", "FP64", [-1])]),
            ("scored", [("words", "BYTES", [-1])], [("label", "BYTES", [-1]), ("score", "FP32", [-1])]),
            ("pair", [("x", "FP64", [1]), ("how", "BYTES", [1])], [("low", "FP64", [1]), ("high", "INT8", [-1, -1])]),
            ("floats", [("rows", "FP64", [-1, -1])], [("floats", "FP64", [-1])]),
            ("nothing", [("x", "INT64", [1])], []),
        ],
    )  # fmt: skip
    def test_from_annotations(self, forms, method, inputs, results):
        said = forms.get(f"/v2/models/Forms.{method}").json()
        for key, expected in (("inputs", inputs), ("outputs", results)):
            assert [(one["name"], one["datatype"], one["shape"]) for one in said[key]] == expected

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("/v2/models/None", "unknown model None; models: Forms.arrays, "),
            ("/v2/models/Forms.same/versions/2", "Forms.same has no version 2; its version is 1"),
            ("/v2/models/Forms.items", "Forms.items is not a model: it streams, which the protocol does not support; use POST /items"),
            ("/v2/models/Forms.folded/ready", "Forms.folded is not a model: x cannot be given as tensors; use POST /folded"),
            ("/v2/nothing", "no route /v2/nothing"),
        ],
    )  # fmt: skip
    def test_what_is_not_there(self, forms, path, said):
        assert refused(forms.get(path)) == (404, msgspec.json.decode(forms.get(path).body)["detail"])
        assert said in refused(forms.get(path))[1]

    def test_every_route_refuses_the_other_verbs_and_another_host(self, forms):
        routes = [route for route in forms.replica.routes if route.path.startswith("/v2")]
        assert len(routes) == 10
        for route in routes:
            path = route.path.format(name="Forms.same", version="1")
            for verb in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - set(route.verbs):
                assert refused(forms.request(verb, path))[0] == 405
            for verb in route.verbs:
                assert refused(forms.request(verb, path, headers={"host": "elsewhere"}))[0] == 403

    def test_before_and_after_it_is_ready(self):
        made = client(Delay)
        made.replica = Replica(service_of(Delay))
        with client(Delay) as other:
            other.replica.drain()
            assert other.get("/v2/health/live").json() == {"live": True}
            assert (other.get("/v2/health/ready").status, other.get("/v2/health/ready").json()) == (
                503,
                {"ready": False},
            )
            assert other.get("/v2/models/Delay/ready").status == 503
            assert other.request("POST", "/v2/repository/index").json()[0]["state"] == "UNAVAILABLE"
            assert infer(other, "Delay", {"inputs": [ROWS]}).status == 200, "what comes is still answered"

    def test_a_method_may_be_called_as_the_protocol_is(self):
        @service
        class Odd:
            async def v2(self, x: int) -> int:
                return x

        with client(Odd) as made:
            assert made.post("/v2", {"x": 3}).json() == 3
            assert made.get("/v2").json()["name"] == "hooke"
            assert outputs(infer(made, "Odd", {"inputs": [tensor("x", [4], "INT32")]})) == {
                "v2": ("INT64", [1], [4])
            }


class TestBatches:
    """Rows of both protocols meet in one batch."""

    def test_with_those_of_json(self):
        with client(Delay) as made, ThreadPoolExecutor(9) as threads:
            model = made.service
            model.hold.clear()
            first = threads.submit(made.post, "/predict", {"rows": [[1, 1]]})
            wait_until(lambda: made.replica.dispatch.batcher.running is not None)
            plain = threads.submit(made.post, "/predict", {"rows": [[1.5, 2]]})
            tensors = [
                threads.submit(infer, made, "Delay", {"inputs": [tensor("rows", rows, kind)], "id": str(at)})
                for at, (rows, kind) in enumerate(
                    [([[1.5, 2]], "FP32"), ([[-1.0, 0.0]], "FP64"), ([[1, 2], [3, 4]], "INT8")]
                )
            ]
            wrong = threads.submit(infer, made, "Delay", {"inputs": [ROWS], "outputs": [{"name": "risk"}]})
            wait_until(lambda: made.replica.dispatch.batcher.waiting_rows == 7)
            model.hold.set()
            assert (first.result().json(), plain.result().json()) == ([2.0], [3.5])
            fractions, guilty, wholes = [one.result() for one in tensors]
            assert outputs(fractions) == {"predict": ("FP64", [1], [3.5])}
            assert outputs(wholes) == {"predict": ("FP64", [2], [3.0, 7.0])}
            assert [fractions.json()["id"], wholes.json()["id"]] == ["0", "2"]
            status, said = refused(guilty)
            assert (status, "secret" in said) == (500, False)
            assert refused(wrong.result()) == (422, "output risk: unknown output; outputs: predict")
            assert model.calls[:2] == [1, 7]

    def test_more_rows_than_a_batch(self, delay):
        rows = np.arange(300.0).reshape(150, 2)
        answer = outputs(infer(delay, "Delay", {"inputs": [tensor("rows", rows, "FP64")]}))
        assert answer == {"predict": ("FP64", [150], rows.sum(axis=1).tolist())}

    def test_what_is_not_rows_comes_as_a_tensor_or_as_a_parameter(self, delay):
        for request in (
            {"inputs": [ROWS, tensor("scale", [2.0], "FP32")]},
            {"inputs": [ROWS], "parameters": {"scale": 2, "priority": 1, "unknown": "x"}},
        ):
            assert outputs(infer(delay, "Delay", request)) == {"predict": ("FP64", [2], [6.0, 15.0])}

    def test_columns(self):
        tables = [np.arange(2.0 * rows).reshape(rows, 2) + at for at, rows in enumerate([1, 2, 3, 9, 1, 2])]
        with client(Columns) as made, ThreadPoolExecutor(12) as threads:
            plain = threads.map(lambda table: made.post("/judge", {"rows": table.tolist()}), tables)
            tensors = threads.map(
                lambda table: infer(made, "Columns.judge", {"inputs": [tensor("rows", table, "FP64")]}),
                tables,
            )
            for table, one, other in zip(tables, plain, tensors, strict=True):
                total, names = table.sum(axis=1).tolist(), [f"{row.sum():g}" for row in table]
                assert one.json() == {"total": total, "name": names}
                assert outputs(other) == {
                    "total": ("FP64", [len(table)], total),
                    "name": ("BYTES", [len(table)], names),
                }

    def test_columns_that_are_none(self, caplog):
        with client(Columns) as made:
            for path, rows, said in [
                (
                    "uneven",
                    [1, 2],
                    "uneven returned, as 'first', 1 rows for 2; with max_batch it returns one for each",
                ),
                (
                    "turning",
                    [1, 2, 3, 4, 5],
                    "parts of one request came back with different columns",
                ),
                (
                    "none",
                    [1],
                    "none returned a dict; with max_batch it returns an array or list of rows, or a dict",
                ),
            ]:
                assert made.post(f"/{path}", {"rows": rows}).status == 500
                assert said in caplog.text

    def test_none_of_them(self, delay):
        empty = {"name": "rows", "shape": [0, 2], "datatype": "FP64", "data": []}
        assert refused(infer(delay, "Delay", {"inputs": [empty]})) == (422, "rows: no rows")


class TestForms:
    """Parameters and returned values."""

    @pytest.mark.parametrize(
        ("method", "inputs", "expected"),
        [
            ("arrays", [tensor("a", [[1.5]], "FP16"), tensor("b", [3.0], "FP64")], None),
            (
                "arrays",
                [tensor("a", [[True]], "BOOL"), tensor("b", [3], "UINT64")],
                {"output_0": ("BOOL", [1, 1], [True]), "output_1": ("INT8", [1], [3])},
            ),
            ("same", [tensor("x", [[1, 2]], "INT16")], {"same": ("INT64", [1, 2], [1, 2])}),
            ("same", [tensor("x", ["é", "x"], "BYTES")], {"same": ("BYTES", [2], ["é", "x"])}),
            ("text", [tensor("words", ["ab", "é"], "BYTES")], {"text": ("BYTES", [2], ["AB", "É"])}),
            (
                "raw",
                [tensor("parts", ["ab", "é"], "BYTES"), tensor("one", ["!"], "BYTES")],
                {"raw": ("BYTES", [2], ["ab!", "é!"])},
            ),
            (
                "scored",
                [tensor("words", ["ab", "c"], "BYTES")],
                {"label": ("BYTES", [2], ["ab", "c"]), "score": ("FP32", [2], [2.0, 1.0])},
            ),
            ("pair", [tensor("x", 1.5, "FP32")], {"low": ("FP64", [1], [1.5]), "high": ("INT8", [1, 2], [1, 2])}),
            ("floats", [tensor("rows", [[1, 2]], "INT64")], {"floats": ("FP64", [1], [3.0])}),
        ],
    )  # fmt: skip
    def test_both_ways(self, forms, method, inputs, expected):
        answer = infer(forms, f"Forms.{method}", {"inputs": inputs})
        if expected is None:
            assert refused(answer) == (422, "input b: Expected whole numbers (int8), got numbers")
        else:
            assert outputs(answer) == expected

    @pytest.mark.parametrize(
        ("method", "request_", "status", "said"),
        [
            ("arrays", {"inputs": [tensor("a", [1], "INT8")]}, 422, "input b: missing"),
            ("arrays", {"inputs": [tensor("c", [1], "INT8")]}, 422, "input c: unknown input; inputs: a, b"),
            ("arrays", {"inputs": [tensor("a", [1], "INT8"), tensor("b", [300], "INT16")]}, 422, "that a int8 can hold"),
            ("arrays", {"inputs": [tensor("a", [1], "INT8"), tensor("b", ["x"], "BYTES")]}, 422, "(int8), got text"),
            ("text", {"inputs": [tensor("words", ["a"], "BYTES") | {"data": ["a\0"]}]}, 422, "input words: an array of text drops zeros"),
            ("text", {"inputs": [tensor("words", [1], "INT8")]}, 422, "input words: Expected text"),
            ("floats", {"inputs": [tensor("rows", [1], "FP64")]}, 422, "Expected `array`, got `float` - at `rows[0]`"),
            ("pair", {"inputs": [tensor("x", [1, 2], "FP64")]}, 422, "input x: expected one value, got 2"),
            ("pair", {"inputs": [tensor("x", [1], "FP64"), tensor("how", ["c"], "BYTES")]}, 422, "input how: Invalid enum"),
            ("pair", {"inputs": [], "parameters": {"x": "y"}}, 422, "input x: Expected `float | null`, got `str`"),
            ("table", {"inputs": [tensor("rows", [1, 2], "FP32")]}, 422, "input rows: Expected an array of 2 dimensions, got 1"),
            ("nothing", {"inputs": []}, 422, "input x: missing"),
            ("nothing", {"inputs": [tensor("x", [1], "INT8"), tensor("skip", [1], "INT8")]}, 422, "input skip: unknown input; inputs: x"),
            ("nothing", {"inputs": [tensor("x", [1], "INT8")]}, 406, "output nothing is a NoneType, which a tensor cannot hold"),
            ("ragged", {"inputs": [tensor("n", [3], "INT8")]}, 406, "unequal or mixed values, which a tensor cannot hold; POST /ragged"),
            ("same", {"inputs": [tensor("x", [1], "INT8")], "outputs": [{"name": "y"}]}, 422, "output y: unknown output"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit(self, forms, method, request_, status, said):
        told, error = refused(infer(forms, f"Forms.{method}", request_))
        assert (told, said in error) == (status, True), error

    def test_the_number_of_dimensions_holds_in_json_too(self, forms):
        assert forms.post("/table", {"rows": [[1, 2]]}).json() == [3.0]
        (fault,) = forms.post("/table", {"rows": [1, 2]}).json()["errors"]
        assert fault == {"field": "rows", "detail": "Expected an array of 2 dimensions, got 1"}

    def test_bytes_that_are_no_text(self, forms):
        raw = b"\2\0\0\0\xff\xfe"
        header = msgspec.json.encode(
            {
                "inputs": [
                    {
                        "name": "parts",
                        "shape": [1],
                        "datatype": "BYTES",
                        "parameters": {"binary_data_size": 6},
                    }
                ]
            }
        )
        length = {"inference-header-content-length": str(len(header))}
        answer = infer(forms, "Forms.raw", header + raw, **length)
        assert refused(answer) == (
            406,
            "output raw: its bytes are not text, which JSON needs; request binary data",
        )
        wanted = header[:-1] + b',"parameters":{"binary_data_output":true}}'
        answer = infer(
            forms, "Forms.raw", wanted + raw, **{"inference-header-content-length": str(len(wanted))}
        )
        assert answer.body[int(answer.headers["inference-header-content-length"]) :] == raw
        assert answer.headers["content-type"] == "application/octet-stream"
        words = header.replace(b"parts", b"words")
        answer = infer(
            forms, "Forms.text", words + raw, **{"inference-header-content-length": str(len(words))}
        )
        assert refused(answer) == (422, "input words: its bytes are not UTF-8 text")


FLIGHTS = [
    {"carrier": "UA", "delay": 3, "wind": 1.5},
    {"carrier": "é", "delay": 0, "wind": None, "late": True},
    {"carrier": "", "delay": -7, "wind": 0.0},
]


class TestTables:
    """Rows that are objects come as columns, and meet those of JSON."""

    @staticmethod
    def columns(**changed):
        made = {
            "carrier": tensor("carrier", ["UA", "é", ""], "BYTES"),
            "delay": tensor("delay", [[3], [0], [-7]], "INT32"),
            "late": tensor("late", [False, True, False], "BOOL"),
        }
        return [one for one in (made | changed).values() if one is not None]

    def test_they_are_told_as_inputs(self, tables):
        said = tables.get("/v2/models/Tables").json()
        assert [(one["name"], one["datatype"], one["shape"]) for one in said["inputs"]] == [
            ("carrier", "BYTES", [-1]),
            ("delay", "INT64", [-1]),
            ("wind", "FP64", [-1]),
            ("late", "BOOL", [-1]),
            ("scale", "FP64", [1]),
        ]
        assert refused(tables.get("/v2/models/Tables.twice"))[1].endswith(
            "scale would be two inputs; use POST /twice"
        )

    def test_the_same_as_json(self, tables):
        expected = tables.post("/predict", {"flights": FLIGHTS, "scale": 2.0}).json()
        wind = np.array([1.5, np.nan, 0.0], dtype=np.float32)
        raw = {
            "name": "wind",
            "shape": [3, 1],
            "datatype": "FP32",
            "parameters": {"binary_data_size": wind.nbytes},
        }
        header = msgspec.json.encode({"inputs": [*self.columns(), raw], "parameters": {"scale": 2.0}})
        length = {"inference-header-content-length": str(len(header))}
        answer = infer(tables, "Tables", header + wind.tobytes(), **length)
        assert outputs(answer) == {"predict": ("BYTES", [3], expected)}
        assert expected == ["UA 6.0 1.5 False", "é 0.0 None True", " -14.0 0.0 False"]

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"delay": None}, "input delay: missing"),
            ({"delay": tensor("delay", [1, 2], "INT8")}, "input delay: it has 2 rows, and carrier has 3"),
            ({"delay": tensor("delay", [[1, 2, 3]], "INT8")}, "input delay: a column has the shape [rows] or [rows, 1]"),
            ({"delay": tensor("delay", [1, 2.5, 3], "FP64")}, "input delay: Expected `int`, got `float`, in row 0"),
            ({"late": tensor("late", [1, 0, 1], "INT8")}, "input late: Expected `bool`, got `int`, in row 0"),
            ({"more": tensor("more", [1, 0, 1], "INT8")}, "input more: unknown input; inputs: carrier, delay, wind"),
            ({"flights": tensor("flights", [1], "INT8")}, "input flights: unknown input; inputs: carrier, delay"),
            ({name: tensor(name, np.zeros(0), kind) for name, kind in
              (("carrier", "BYTES"), ("delay", "INT8"), ("late", "BOOL"))}, "flights: no rows"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit(self, tables, changed, said):
        status, error = refused(infer(tables, "Tables", {"inputs": self.columns(**changed)}))
        assert (status, said in error) == (422, True), error


class TestBodies:
    """What HTTP adds."""

    def test_compressed_both_ways(self, forms):
        body = msgspec.json.encode({"inputs": [tensor("n", [5000], "INT64")]})
        for name, pack, unpack in (
            ("gzip", gzip.compress, gzip.decompress),
            ("deflate", zlib.compress, zlib.decompress),
        ):
            answer = infer(forms, "Forms.wide", pack(body), content_encoding=name, accept_encoding=name)
            assert (answer.status, answer.headers["content-encoding"]) == (200, name)
            assert msgspec.json.decode(unpack(answer.body))["outputs"][0]["data"] == list(range(5000))
            assert len(answer.body) < 20_000

    def test_a_list_of_what_a_client_could_read_is_no_wish(self, forms):
        body = {"inputs": [tensor("n", [5000], "INT64")]}
        for accepted in ("gzip, deflate, br", "br", "*", "identity"):
            assert (
                "content-encoding" not in infer(forms, "Forms.wide", body, accept_encoding=accepted).headers
            )
        small = infer(forms, "Forms.same", {"inputs": [tensor("x", [1], "INT8")]}, accept_encoding="gzip")
        assert outputs(small) == {"same": ("INT64", [1], [1])}

    @pytest.mark.needs("cpu")
    def test_a_large_one_is_read_while_others_are_answered(self, delay):
        rows = np.arange(100_000.0).reshape(50_000, 2)
        body = msgspec.json.encode({"inputs": [tensor("rows", rows, "FP64")]})
        assert len(body) > DECODE_ON_LOOP
        answer = outputs(infer(delay, "Delay", body))
        assert answer["predict"][2] == rows.sum(axis=1).tolist()
        status, said = refused(infer(delay, "Delay", body.replace(b'"shape":[50000', b'"shape":[50001')))
        assert (status, said) == (
            422,
            "input rows: its shape [50001, 2] has 100002 elements, but its data has 100000",
        )

    @pytest.mark.needs("cpu")
    def test_what_is_wrong_with_them(self, forms):
        whole = gzip.compress(b'{"inputs": []}')
        for coding, body, status, said in [
            (
                "br",
                b"x",
                415,
                "the content encoding br is not supported; send the body uncompressed, or as gzip or deflate",
            ),
            ("gzip", b"x", 400, "the body is not valid gzip: "),
            ("gzip", whole[:-3], 400, "the body is not valid gzip: its end is missing"),
            ("gzip", whole + whole, 400, "the body is not valid gzip: data follows its end"),
            (
                "deflate",
                zlib.compress(b" " * (20 << 20)),
                413,
                "larger than 16777216 bytes after decompression",
            ),
        ]:
            told, error = refused(infer(forms, "Forms.same", body, content_encoding=coding))
            assert (told, said in error) == (status, True), error
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            assert refused(infer(forms, "Forms.same", b"{}", content_type=kind))[0] == 415
        for length in ("x", "-1", "9" * 30):
            answer = infer(forms, "Forms.same", b"{}", inference_header_content_length=length)
            assert refused(answer) == (400, "Inference-Header-Content-Length is not a number of bytes")

    @pytest.mark.needs("cpu")
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(request=REQUESTS | ANYTHING)
    def test_hostile_ones_are_the_callers_fault(self, forms, request):
        for model in ("Forms.same", "Forms.arrays", "Forms.raw"):
            answer = infer(forms, model, {"inputs": [request]})
            assert answer.status == 200 or 400 <= refused(answer)[0] < 500
            body = msgspec.json.encode(request).replace(b'"rows"', b'"x"')
            answer = infer(forms, model, body)
            assert answer.status == 200 or 400 <= refused(answer)[0] < 500
