"""`tritonclient`, the HTTP client of Triton, unchanged, on a service that `hooke serve` runs."""

import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tests.services.test_serve import command
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.needs("processes")

SERVICES = Path(__file__).with_name("services.py")
TOKEN = "a-token-of-the-tests"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
"""Given as a copy: the client writes into it."""


class Token(triton.InferenceServerClientPlugin):
    """As the client's own plugin for basic authentication."""

    def __call__(self, request):
        request.headers.update(AUTH)


@contextmanager
def served(name, folder, *words):
    """A client of the service of this name, which gives its token as a plugin does: with each request."""
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    (folder / "services.py").write_text(SERVICES.read_text())
    asked = command(f"services.py:{name}", "--port", "0", "--token-file", "token", *words)
    process = subprocess.Popen(asked, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        said = ""
        while "answers: POST" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        port = int(re.search(r" on http://127\.0\.0\.1:(\d+)$", said, re.MULTILINE)[1])
        with triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=8) as client:
            client.register_plugin(Token())
            yield client
    finally:
        process.terminate()
        try:
            process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    with served("Forms", tmp_path_factory.mktemp("forms")) as client:
        yield client


@pytest.fixture(scope="module")
def delay(tmp_path_factory):
    with served("Delay", tmp_path_factory.mktemp("delay")) as client:
        yield client


def given(name, value, kind, *, binary=True):
    made = triton.InferInput(name, list(value.shape), kind)
    return made.set_data_from_numpy(value, binary_data=binary)


def test_it_is_live_and_ready_and_says_what_it_has(forms, delay):
    for client, model in ((forms, "Forms.arrays"), (delay, "Delay")):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready(model, "2")
        assert not client.is_model_ready("None")
        assert client.get_server_metadata()["name"] == "hooke"
        assert client.get_model_metadata(model)["inputs"][0]["datatype"] == "FP64"
        assert model in [one["name"] for one in client.get_model_repository_index()]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        "BOOL",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "FP16",
        "FP32",
        "FP64",
    ],
)
def test_arrays_of_every_datatype_come_back(forms, kind, binary):
    value = np.array([[0, 1, 1], [1, 0, 1]]).astype(np.dtype(_dtype(kind)))
    inputs = [given("a", value, kind, binary=binary), given("b", np.int8([5]), "INT8", binary=not binary)]
    result = forms.infer("Forms.arrays", inputs, request_id="seven")
    assert result.get_response()["id"] == "seven"
    for name, expected in (("output_0", value), ("output_1", np.int8([5]))):
        assert result.as_numpy(name).dtype == expected.dtype
        assert np.array_equal(result.as_numpy(name), expected)


def test_text_and_bytes(forms):
    words = np.array(["ab", "é", ""], dtype=object)
    for binary in (True, False):
        result = forms.infer("Forms.text", [given("words", words, "BYTES", binary=binary)])
        assert [one.decode() for one in result.as_numpy("text")] == ["AB", "É", ""]
    parts, one = np.array([b"\xff\0", b""], dtype=object), np.array([b"!"], dtype=object)
    result = forms.infer("Forms.raw", [given("parts", parts, "BYTES"), given("one", one, "BYTES")])
    assert result.as_numpy("raw").tolist() == [b"\xff\0!", b"!"]


def test_outputs_as_they_are_wanted(forms):
    words = given("words", np.array(["ab", "c"], dtype=object), "BYTES")
    wanted = [
        triton.InferRequestedOutput("score", binary_data=True),
        triton.InferRequestedOutput("label", binary_data=False),
    ]
    result = forms.infer("Forms.scored", [words], outputs=wanted)
    assert [one["name"] for one in result.get_response()["outputs"]] == ["score", "label"]
    assert result.as_numpy("score").tolist() == [2.0, 1.0]
    assert result.as_numpy("label").tolist() == ["ab", "c"]
    alone = forms.infer("Forms.scored", [words], outputs=wanted[:1])
    assert alone.as_numpy("label") is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_bodies(forms, coding):
    table = given("a", np.arange(4000.0).reshape(40, 100), "FP64")
    inputs = [table, given("b", np.int8([1]), "INT8", binary=False)]
    result = forms.infer(
        "Forms.arrays", inputs, request_compression_algorithm=coding, response_compression_algorithm=coding
    )
    assert np.array_equal(result.as_numpy("output_0"), np.arange(4000.0).reshape(40, 100))


def test_many_at_once_each_with_its_own_rows(delay):
    tables = [np.float32([[at, 1], [at, 2]]) for at in range(100)]
    asked = [
        delay.async_infer("Delay", [given("rows", table, "FP32", binary=at % 2 == 0)])
        for at, table in enumerate(tables)
    ]
    for table, one in zip(tables, asked, strict=True):
        assert np.array_equal(one.get_result().as_numpy("predict"), table.sum(axis=1))
    scaled = delay.infer("Delay", [given("rows", tables[1], "FP32")], parameters={"scale": 10})
    assert scaled.as_numpy("predict").tolist() == [20.0, 30.0]


def test_what_is_wrong_is_said_where_the_client_looks(forms):
    one = given("a", np.int8([1]), "INT8")
    for name, inputs, status, said in [
        ("None", [one], "404", "unknown model None; models: Forms.arrays"),
        ("Forms.arrays", [one], "422", "input b: missing"),
        ("Forms.items", [], "404", "it streams"),
    ]:
        with pytest.raises(InferenceServerException, match=re.escape(said)) as raised:
            forms.infer(name, inputs)
        assert raised.value.status() == status
    shared = triton.InferInput("a", [1], "INT8")
    shared.set_shared_memory("region", 1)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        forms.infer("Forms.arrays", [shared])
    with pytest.raises(InferenceServerException, match="sequences are not supported"):
        forms.infer("Forms.arrays", [one], sequence_id=3, sequence_start=True)


def _dtype(kind):
    return {"BOOL": "bool", "FP": "float", "UINT": "uint", "INT": "int"}[
        kind.rstrip("0123456789")
    ] + kind.lstrip("BOLFPUINT")


def test_a_token_goes_by_its_headers_too(delay):
    delay.unregister_plugin()
    try:
        inputs = [given("rows", np.float64([[1, 2]]), "FP64")]
        assert delay.is_server_live(headers=dict(AUTH))
        assert delay.infer("Delay", inputs, headers=dict(AUTH)).as_numpy("predict").tolist() == [3.0]
        assert not delay.is_server_ready()
        with pytest.raises(
            InferenceServerException, match="the bearer token is missing; send authorization: Bearer TOKEN"
        ):
            delay.infer("Delay", inputs)
        with pytest.raises(InferenceServerException, match="the bearer token is wrong"):
            delay.get_model_metadata("Delay", headers={"Authorization": "Bearer another"})
    finally:
        delay.register_plugin(Token())


@pytest.mark.long
def test_through_envoy_to_two_replicas(tmp_path):
    with served("Forms", tmp_path, "--replicas", "2") as client:
        table = np.arange(4000.0).reshape(40, 100)
        inputs = [given("a", table, "FP64"), given("b", np.int8([1]), "INT8")]
        assert client.is_model_ready("Forms.arrays")
        for coding in (None, "gzip", "deflate"):
            codings = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
            assert np.array_equal(client.infer("Forms.arrays", inputs, **codings).as_numpy("output_0"), table)
        asked = [client.async_infer("Forms.arrays", inputs) for _ in range(50)]
        assert all(np.array_equal(one.get_result().as_numpy("output_0"), table) for one in asked)
        huge = given("a", np.zeros((2100, 1000)), "FP64")
        with pytest.raises(
            InferenceServerException, match="the body is larger than 16777216 bytes"
        ) as raised:
            client.infer("Forms.arrays", [huge, inputs[1]])
        assert (raised.value.status(), raised.value.message()[:8]) == ("413", "the body")
