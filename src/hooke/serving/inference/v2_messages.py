"""Inference requests and responses: the protocol's JSON objects, and tensors as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from hooke.serving.inference.tensors import (
    BYTES,
    Datatype,
    TensorError,
    datatype_named,
    datatype_of,
    json_data,
    read_binary,
    read_json,
    to_binary,
)
from hooke.serving.problems import FieldError, Problem

__all__ = [
    "BinarySize",
    "InferenceQuery",
    "InferenceRequest",
    "InputTensor",
    "ModelMetadata",
    "OutputTensor",
    "RequestedOutput",
    "RequestedOutputs",
    "Response",
    "ServerMetadata",
    "TensorMetadata",
    "Written",
    "read_request",
    "write_response",
    "wrong_tensor",
]


# --- The protocol's JSON objects.

Count = Annotated[int, msgspec.Meta(ge=0)]


class InputParameters(msgspec.Struct, frozen=True):
    """The parameters of an input that say where its data is; others are ignored."""

    binary_data_size: Count | None = None
    shared_memory_region: str | None = None


class InputTensor(msgspec.Struct, frozen=True):
    """One input. `data` stays undecoded until its datatype is known."""

    name: str
    shape: list[Count]
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


class OutputParameters(msgspec.Struct, frozen=True):
    """The form of an output."""

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class RequestedOutput(msgspec.Struct, frozen=True):
    """One of the requested outputs."""

    name: str
    parameters: OutputParameters | None = None


class InferenceRequest(msgspec.Struct, frozen=True):
    """The JSON of an inference request."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestedOutput] | None = None


class BinarySize(msgspec.Struct, frozen=True):
    """The number of bytes after the JSON that belong to a tensor."""

    binary_data_size: int


class OutputTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output, its data included or behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: BinarySize | None = None
    data: list[Any] | None = None


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON of a response."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class ServerMetadata(msgspec.Struct, frozen=True):
    """The server and its extensions of the protocol."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output of a model; -1 in its shape is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """A model's inputs and outputs."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


_DECODER = msgspec.json.Decoder(InferenceRequest)
_UNKNOWN = frozenset({"sequence_end", "sequence_id", "sequence_start"})
"""Parameters that would change the answer, and are not supported."""


class RequestedOutputs(msgspec.Struct, frozen=True):
    """The requested outputs by name, each with whether it is binary; None: all outputs."""

    outputs: Mapping[str, bool] | None
    binary: bool

    def is_binary(self, name: str) -> bool:
        """Whether this output is sent as binary data."""
        return self.binary if self.outputs is None else self.outputs[name]


class InferenceQuery(msgspec.Struct, frozen=True):
    """A request with its data read. Elements of BYTES are `str` or `bytes`, in an array of objects."""

    tensors: dict[str, np.ndarray]
    parameters: Mapping[str, Any]
    wanted: RequestedOutputs
    id: str | None


def read_request(body: bytes, header_length: int | None) -> InferenceQuery:
    """Read the request in a body, whose first `header_length` bytes are JSON; the whole body if it is None.

    Raises Problem: 400 for invalid JSON, 422 that names the tensor whose data does not match.
    """
    length = len(body) if header_length is None else header_length
    if length > len(body):
        raise Problem(400, f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes")
    whole = memoryview(body)
    request = _decoded(whole[:length])
    tensors: dict[str, np.ndarray] = {}
    left = whole[length:]
    for tensor in request.inputs:
        if tensor.name in tensors:
            raise wrong_tensor(tensor.name, "it is given twice")
        try:
            tensors[tensor.name], left = _tensor(tensor, left, has_binary=header_length is not None)
        except TensorError as misfit:
            raise wrong_tensor(tensor.name, str(misfit)) from None
    if left:
        raise Problem(422, f"{len(left)} bytes after the JSON belong to no input")
    parameters = request.parameters or {}
    return InferenceQuery(tensors, parameters, _wanted(request, parameters), request.id)


def wrong_tensor(name: str, detail: str, *, what: str = "input") -> Problem:
    """The refusal (422) that names the tensor."""
    shown = name[:80]
    return Problem(422, f"{what} {shown}: {detail}", errors=[FieldError(shown, detail)])


def _decoded(header: memoryview) -> InferenceRequest:
    if not header:
        raise Problem(
            400, "the body is empty" if header.obj == b"" else "Inference-Header-Content-Length is 0"
        )
    try:
        return _DECODER.decode(header)
    except msgspec.ValidationError as error:
        raise Problem(400, f"the body is not an inference request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(
            400, f"the body is not valid JSON: {error}; send NaN and non-text bytes as binary data"
        ) from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None


def _tensor(tensor: InputTensor, left: memoryview, *, has_binary: bool) -> tuple[np.ndarray, memoryview]:
    """The input's array, and the binary data after its own. Raises TensorError."""
    datatype = datatype_named(tensor.datatype)
    if isinstance(datatype, str):
        raise TensorError(datatype)
    size = None
    if tensor.parameters is not None:
        if tensor.parameters.shared_memory_region is not None:
            raise TensorError("shared memory is not supported; send its data")
        size = tensor.parameters.binary_data_size
    if size is None:
        if not memoryview(tensor.data):
            raise TensorError("it has neither data nor a binary_data_size")
        return read_json(datatype, tensor.shape, tensor.data), left
    if memoryview(tensor.data):
        raise TensorError("it has data and a binary_data_size; give one of them")
    if not has_binary:
        raise TensorError(
            "it has a binary_data_size, but the header Inference-Header-Content-Length is missing"
        )
    if size > len(left):
        raise TensorError(f"its binary_data_size is {size}, but {len(left)} bytes of the body are left")
    return read_binary(datatype, tensor.shape, left[:size]), left[size:]


def _wanted(request: InferenceRequest, parameters: Mapping[str, Any]) -> RequestedOutputs:
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise Problem(422, "parameter binary_data_output: expected true or false")
    for name in parameters:
        if name in _UNKNOWN:
            raise Problem(422, f"parameter {name}: sequences are not supported")
    if not request.outputs:
        return RequestedOutputs(None, binary)
    outputs: dict[str, bool] = {}
    for one in request.outputs:
        how = one.parameters or _PLAIN
        if how.classification:
            raise wrong_tensor(
                one.name, "classification is not supported; request the output itself", what="output"
            )
        if how.shared_memory_region is not None:
            raise wrong_tensor(one.name, "shared memory is not supported", what="output")
        outputs[one.name] = binary if how.binary_data is None else how.binary_data
    return RequestedOutputs(outputs, binary)


_PLAIN = OutputParameters()


# --- Outputs as the body of a response: JSON, followed by binary data.

_ENCODER = msgspec.json.Encoder()


class Written(msgspec.Struct, frozen=True):
    """A body. Its first `header_length` bytes are JSON; None: all of it."""

    body: bytes
    header_length: int | None = None


def write_response(
    model: str,
    version: str,
    outputs: Mapping[str, np.ndarray],
    wanted: RequestedOutputs,
    request_id: str | None = None,
) -> Written:
    """Write the requested outputs in their order, or else all.

    Raises Problem: 422 for an unknown output, 406 for values that a tensor cannot hold in the requested form.
    """
    written: list[OutputTensor] = []
    raw: list[bytes] = []
    for name in outputs if wanted.outputs is None else wanted.outputs:
        if name not in outputs:
            raise wrong_tensor(name, f"unknown output; outputs: {_listed(outputs)}", what="output")
        try:
            written.append(_output(name, outputs[name], raw if wanted.is_binary(name) else None))
        except TensorError as misfit:
            raise Problem(406, f"output {name}: {misfit}") from None
    header = _ENCODER.encode(Response(model, version, written, request_id))
    if all(one.parameters is None for one in written):
        return Written(header)
    return Written(b"".join((header, *raw)), len(header))


def _output(name: str, value: np.ndarray, raw: list[bytes] | None) -> OutputTensor:
    datatype = _datatype(value)
    if raw is None:
        return OutputTensor(name, datatype.name, value.shape, data=json_data(datatype, value))
    data = to_binary(datatype, value)
    raw.append(data)
    return OutputTensor(name, datatype.name, value.shape, parameters=BinarySize(len(data)))


def _datatype(value: np.ndarray) -> Datatype:
    datatype = datatype_of(value.dtype)
    if datatype is None:
        raise TensorError(f"the protocol has no datatype for {value.dtype}")
    if datatype is BYTES and value.dtype.kind == "O":
        strange = {type(one) for one in value.ravel().tolist() if not isinstance(one, (str, bytes))}
        if strange:
            raise TensorError(f"the protocol has no datatype for a {min(kind.__name__ for kind in strange)}")
    return datatype


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
