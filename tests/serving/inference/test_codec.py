"""Tensors as JSON and as binary data: the same values back, and a refusal that names the tensor for all that does not fit."""

import struct
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hooke.serving.inference.tensors import DATATYPES, datatype_of
from hooke.serving.inference.v2_messages import RequestedOutputs, read_request, write_response
from hooke.serving.problems import Problem

NUMBERS = [one for one in DATATYPES.values() if one.code]
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def objects(elements):
    return shapes.flatmap(lambda shape: hnp.arrays(object, shape, elements=elements))


def numbers(**kind):
    return st.sampled_from(NUMBERS).flatmap(lambda one: hnp.arrays(one.dtype, shapes, elements=kind or None))


def asked_of(outputs, *, binary):
    """What a client sends, of what an answer holds: the two have the same form."""
    written = write_response("m", "1", outputs, RequestedOutputs(None, binary), "7")
    answer = msgspec.json.decode(written.body[: written.header_length])
    header = msgspec.json.encode({"inputs": answer["outputs"], "id": answer["id"]})
    behind = written.body[written.header_length :] if written.header_length is not None else b""
    return header + behind, len(header) if written.header_length is not None else None


def listed(value):
    """Elements with their types, by which NaN is equal to itself and text is the same from JSON and from bytes."""
    return [
        repr(one.decode("utf-8", "surrogateescape") if isinstance(one, bytes) else one)
        for one in value.ravel().tolist()
    ]


class TestRoundTrip:
    """Any array, in and out."""

    @pytest.mark.needs("cpu")
    @settings(max_examples=25, deadline=None)
    @given(st.lists(numbers() | objects(st.binary(max_size=6)), max_size=3))
    def test_binary(self, arrays):
        outputs = {f"x{at}": value for at, value in enumerate(arrays)}
        asked = read_request(*asked_of(outputs, binary=True))
        assert list(asked.tensors) == list(outputs)
        assert asked.id == "7"
        for name, value in outputs.items():
            read = asked.tensors[name]
            assert (read.shape, read.dtype, listed(read)) == (value.shape, value.dtype, listed(value))
            assert read.flags.writeable
            assert read.flags.aligned

    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(numbers(allow_nan=False, allow_infinity=False) | objects(text), max_size=3), st.booleans()
    )
    def test_json(self, arrays, nested):
        outputs = {f"x{at}": value for at, value in enumerate(arrays)}
        body, length = asked_of(outputs, binary=False)
        assert length is None
        if nested:
            request = msgspec.json.decode(body)
            for one, value in zip(request["inputs"], arrays, strict=True):
                one["data"] = value.tolist() if value.ndim else [value.item()]
            body = msgspec.json.encode(request)
        for name, read in read_request(body, None).tensors.items():
            value = outputs[name]
            assert (read.shape, read.dtype, listed(read)) == (value.shape, value.dtype, listed(value))

    def test_text_arrays_and_orders_of_memory(self):
        table = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
        for binary in (False, True):
            outputs = {"t": np.array(["é", ""]), "n": table, "s": table[:, ::2]}
            read = read_request(*asked_of(outputs, binary=binary)).tensors
            assert listed(read["t"]) == ["'é'", "''"]
            assert read["n"].tolist() == table.tolist()
            assert read["s"].tolist() == table[:, ::2].tolist()

    def test_nan_is_null_in_json_alone(self):
        outputs = {"x": np.array([np.nan, np.inf, -0.0])}
        written = write_response("m", "1", outputs, RequestedOutputs(None, False))
        assert msgspec.json.decode(written.body)["outputs"][0]["data"] == [None, None, -0.0]
        with pytest.raises(
            Problem, match=r"input x: Expected `float`, got `null` - at `data\[0\]`; NaN goes as"
        ):
            read_request(*asked_of(outputs, binary=False))


def tensor(**changed):
    return {"name": "rows", "shape": [2, 2], "datatype": "INT16", "data": [1, 2, 3, 4]} | changed


def binary(size, **changed):
    return {k: v for k, v in tensor(parameters={"binary_data_size": size}, **changed).items() if k != "data"}


def refusal(*inputs, behind=b"", header=True, **rest):
    body = msgspec.json.encode({"inputs": inputs, **rest})
    with pytest.raises(Problem) as refused:
        read_request(body + behind, len(body) if header else None)
    return refused.value.status, refused.value.detail


EIGHT = b"\1\0" * 4


@pytest.mark.parametrize(
    ("one", "behind", "said"),
    [
        (tensor(data=[1, 2, 3]), b"", "its shape [2, 2] has 4 elements, but its data has 3"),
        (tensor(data=[[1, 2], [3]]), b"", "its data is not nested as its shape [2, 2] says"),
        (tensor(data=[[[1, 2], [3, 4]]]), b"", "Expected `int`, got `array` - at `data[0][0]`"),
        (tensor(data=[1, 2, 3, 70000]), b"", "one of its numbers does not fit INT16"),
        (tensor(datatype="UINT8", data=[1, 2, 3, -1]), b"", "one of its numbers does not fit UINT8"),
        (tensor(datatype="UINT64", data=[1, 2, 3, 2**64]), b"", "one of its numbers does not fit UINT64"),
        (tensor(datatype="FP16", data=[1, 2, 3, 70000]), b"", "one of its numbers does not fit FP16"),
        (tensor(datatype="FP32", data=[1, 2, 3, 1e39]), b"", "one of its numbers does not fit FP32"),
        (tensor(data=[1, 2, 3, 4.5]), b"", "Expected `int`, got `float` - at `data[3]`"),
        (tensor(data=[1, 2, 3, True]), b"", "Expected `int`, got `bool` - at `data[3]`"),
        (tensor(datatype="BOOL"), b"", "Expected `bool`, got `int` - at `data[0]`"),
        (tensor(datatype="BYTES"), b"", "Expected `str`, got `int` - at `data[0]`"),
        (tensor(datatype="BF16"), b"", "NumPy has no BF16; send FP32, which holds all its values"),
        (tensor(datatype="FP8"), b"", "unknown datatype FP8; datatypes: BYTES, BOOL, INT8"),
        (tensor(data=None), b"", "Expected `array`, got `null`"),
        (tensor(parameters={"binary_data_size": 8}), EIGHT, "it has data and a binary_data_size"),
        (tensor(parameters={"shared_memory_region": "x"}), b"", "shared memory is not supported; send its data"),
        ({k: v for k, v in tensor().items() if k != "data"}, b"", "it has neither data nor a binary_data_size"),
        (binary(8), EIGHT[:7], "its binary_data_size is 8, but 7 bytes of the body are left"),
        (binary(7), EIGHT[:7], "its shape [2, 2] of INT16 needs 8 bytes, but its binary_data_size is 7"),
        (binary(8, shape=[2, 3]), EIGHT, "its shape [2, 3] of INT16 needs 12 bytes, but its binary_data_size is 8"),
        (binary(4, datatype="BOOL"), b"\0\1\2\1", "one of its bytes is neither 0 nor 1"),
        (binary(8, datatype="BYTES"), EIGHT, "its 8 bytes are too few for the lengths of 4 elements"),
        (binary(8, datatype="BYTES", shape=[1]), EIGHT, "element 0 is longer than the rest"),
        (binary(9, datatype="BYTES", shape=[2]), b"\1\0\0\0aabcd", "element 1 is longer than"),
        (binary(8, datatype="BYTES", shape=[2]), b"\2\0\0\0aabb", "ends before the length of element 1"),
        (binary(6, datatype="BYTES", shape=[1]), b"\1\0\0\0aa", "1 bytes of binary data follow"),
        (tensor(shape=[1] * 33), b"", "is larger than any array"),
        (tensor(shape=[0, 2**62, 2**62], data=[]), b"", "is larger than any array"),
        (tensor(shape=[2**63 - 1]), b"", "is larger than any array"),
        (binary(8, shape=[2**39]), EIGHT, "needs 1099511627776 bytes, but its binary_data_size is 8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(one, behind, said):
    status, detail = refusal(one, behind=behind)
    assert status == 422
    assert detail.startswith("input rows: ")
    assert said in detail


@pytest.mark.parametrize(
    ("body", "length", "status", "said"),
    [
        (b"", None, 400, "the body is empty"),
        (b"{", None, 400, "the body is not valid JSON"),
        (b'{"inputs": [NaN]}', None, 400, "send NaN and non-text bytes as binary data"),
        (b"[" * 100_000, None, 400, "expected `object`|nested too deeply|not an inference request"),
        (b'{"x": ' + b"[" * 100_000, None, 400, "nested too deeply"),
        (b'{"inputs": {}}', None, 400, "Expected `array`, got `object` - at `$.inputs`"),
        (b'{"inputs": [{"name": "x", "shape": [-1], "datatype": "FP32"}]}', None, 400, ">= 0"),
        (b'{"inputs": []}', 15, 400, "Inference-Header-Content-Length is 15, but the body has 14 bytes"),
        (b'{"inputs": []}', 0, 400, "Inference-Header-Content-Length is 0"),
        (b'{"inputs": []}', 13, 400, "the body is not valid JSON"),
        (b'{"inputs": []}ab', 14, 422, "2 bytes after the JSON belong to no input"),
        (b'{"inputs": [], "parameters": {"binary_data_output": 1}}', None, 422, "expected true or false"),
        (b'{"inputs": [], "parameters": {"sequence_id": 3}}', None, 422, "parameter sequence_id"),
        (b'{"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}', None, 422, "output y: "),
        (b'{"inputs": [], "outputs": [{"name": "y", "parameters": {"shared_memory_region": ""}}]}', None, 422, "output y"),
    ],
)  # fmt: skip
def test_what_is_no_request(body, length, status, said):
    with pytest.raises(Problem) as refused:
        read_request(body, length)
    assert refused.value.status == status
    assert any(part in refused.value.detail for part in said.split("|"))


def test_given_twice_and_without_the_header():
    assert refusal(tensor(), tensor()) == (422, "input rows: it is given twice")
    said = "input rows: it has a binary_data_size, but the header Inference-Header-Content-Length is missing"
    assert refusal(binary(8), header=False) == (422, said)


def test_values_that_no_tensor_holds():
    for value, said in [
        (np.array([1j]), "the protocol has no datatype for complex128"),
        (np.array(["2026-01-01"], dtype="M8[D]"), "the protocol has no datatype for datetime64[D]"),
        (np.array([None]), "the protocol has no datatype for a NoneType"),
        (np.array([b"\xff"], dtype=object), "its bytes are not text, which JSON needs; request binary data"),
    ]:
        with pytest.raises(Problem, match="output y: ") as refused:
            write_response("m", "1", {"y": value}, RequestedOutputs(None, False))
        assert (refused.value.status, said in refused.value.detail) == (406, True)
    with pytest.raises(Problem, match="output y: its text has characters that UTF-8 cannot encode"):
        write_response("m", "1", {"y": np.array(["\ud800"])}, RequestedOutputs(None, True))


def test_only_the_outputs_that_are_wanted_each_as_it_is_wanted():
    outputs = {"a": np.int8([1]), "b": np.float32([2]), "c": np.array([True])}
    written = write_response("m", "1", outputs, RequestedOutputs({"c": True, "a": False}, False))
    header = msgspec.json.decode(written.body[: written.header_length])
    assert [(one["name"], one.get("data"), one.get("parameters")) for one in header["outputs"]] == [
        ("c", None, {"binary_data_size": 1}),
        ("a", [1], None),
    ]
    assert written.body[written.header_length :] == b"\1"
    with pytest.raises(Problem, match="output d: unknown output; outputs: a, b, c"):
        write_response("m", "1", outputs, RequestedOutputs({"d": False}, False))


def test_a_shape_that_lies_costs_no_memory():
    lies = [
        binary(8, shape=[2**38]),
        tensor(shape=[2**39]),
        binary(8, datatype="BYTES", shape=[2**39]),
        tensor(shape=[2**20, 2**19]),
    ]
    bodies = [msgspec.json.encode({"inputs": [one]}) for one in lies]
    tracemalloc.start()
    try:
        for body in bodies:
            with pytest.raises(Problem, match="input rows"):
                read_request(body + EIGHT, len(body))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_datatypes_and_dtypes_are_each_others():
    assert {one.name for one in NUMBERS} == {
        "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64",
    }  # fmt: skip
    for one in NUMBERS:
        assert datatype_of(one.dtype) is one
        assert datatype_of(one.dtype.newbyteorder(">")) is one
    assert datatype_of(np.dtype(np.longdouble)) is None


WORDS = st.sampled_from(
    [
        "rows",
        "FP32",
        "INT8",
        "BYTES",
        "BOOL",
        "",
        "binary_data_size",
        0,
        1,
        2,
        -1,
        2**63,
        1.5,
        1e300,
        None,
        True,
    ]
)
KEYS = st.sampled_from(
    ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "inputs", "outputs", "id"]
)
ANYTHING = st.recursive(
    WORDS, lambda part: st.lists(part, max_size=4) | st.dictionaries(KEYS, part, max_size=4)
)
ALMOST = st.fixed_dictionaries(
    {"name": st.just("rows"), "shape": st.lists(st.integers(0, 4), max_size=3) | ANYTHING},
    optional={
        "datatype": st.sampled_from(["FP32", "INT8", "BYTES", "BOOL", "FP16"]) | ANYTHING,
        "data": st.lists(WORDS, max_size=5) | ANYTHING,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20)}) | ANYTHING,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(ALMOST, max_size=3) | ANYTHING}, optional={"outputs": ANYTHING}
)


class TestHostile:
    """Whatever comes is read, or refused with a status of the caller's; nothing else is ever raised."""

    @staticmethod
    def read(body, length):
        try:
            asked = read_request(body, length)
        except Problem as problem:
            refused = problem
        else:
            assert all(isinstance(value, np.ndarray) for value in asked.tensors.values())
            return
        assert refused.status in (400, 422)
        assert msgspec.json.decode(refused.body(as_error=True))["error"]

    @pytest.mark.needs("cpu")
    @settings(max_examples=60, deadline=None)
    @given(REQUESTS | ANYTHING, st.binary(max_size=24), st.integers(-2, 2) | st.none())
    def test_json_that_is_almost_a_request(self, request, behind, off):
        body = msgspec.json.encode(request)
        self.read(body + behind, None if off is None else max(0, len(body) + off))

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_a_request_that_was_cut_or_changed(self, data):
        outputs = {"a": np.array([b"ab", b""], dtype=object), "b": np.arange(6, dtype=np.int16).reshape(2, 3)}
        body, length = asked_of(outputs, binary=True)
        cut = data.draw(st.integers(0, len(body)))
        at = data.draw(st.integers(0, len(body) - 1))
        changed = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
        for one in (body[:cut], changed, changed[:cut], body + changed[:cut]):
            self.read(one, length)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, 2**32 - 1), max_size=4), st.binary(max_size=16), st.integers(0, 5))
    def test_lengths_of_bytes_that_lie(self, lengths, rest, count):
        raw = b"".join(struct.pack("<I", length) for length in lengths) + rest
        header = msgspec.json.encode({"inputs": [binary(len(raw), shape=[count], datatype="BYTES")]})
        self.read(header + raw, len(header))
