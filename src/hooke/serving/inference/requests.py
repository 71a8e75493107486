"""An inference request as values: its tensors as arrays, and what is wanted back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from hooke.serving.inference.datatypes import named
from hooke.serving.inference.messages import InputTensor, OutputParameters, Request
from hooke.serving.inference.tensors import Misfit, read_binary, read_json
from hooke.serving.problems import FieldFault, Problem

__all__ = ["Query", "Wanted", "read_request", "wrong_tensor"]

_DECODER = msgspec.json.Decoder(Request)
_UNKNOWN = frozenset({"sequence_end", "sequence_id", "sequence_start"})
"""Parameters that would change the answer, and cannot be heeded."""


class Wanted(msgspec.Struct, frozen=True):
    """What the answer is to hold. `outputs` are names, each with whether it goes as binary data; None: all that there are."""

    outputs: Mapping[str, bool] | None
    binary: bool

    def is_binary(self, name: str) -> bool:
        """Whether this output goes as binary data."""
        return self.binary if self.outputs is None else self.outputs[name]


class Query(msgspec.Struct, frozen=True):
    """A request whose data has been read. Elements of BYTES are `str` or `bytes`, in an array of objects."""

    tensors: dict[str, np.ndarray]
    parameters: Mapping[str, Any]
    wanted: Wanted
    id: str | None


def read_request(body: bytes, header_length: int | None) -> Query:
    """The request in a body, whose first `header_length` bytes are JSON; all of it where that is None.

    Raises Problem: 400 where there is no such JSON, 422 that names the tensor whose data is not what it says.
    """
    length = len(body) if header_length is None else header_length
    if length > len(body):
        raise Problem(400, f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes")
    whole = memoryview(body)
    request = _decoded(whole[:length])
    tensors: dict[str, np.ndarray] = {}
    left = whole[length:]
    for tensor in request.inputs:
        if tensor.name in tensors:
            raise wrong_tensor(tensor.name, "it is given twice")
        try:
            tensors[tensor.name], left = _tensor(tensor, left, has_binary=header_length is not None)
        except Misfit as misfit:
            raise wrong_tensor(tensor.name, str(misfit)) from None
    if left:
        raise Problem(422, f"{len(left)} bytes of the body are behind the JSON, and no input's")
    parameters = request.parameters or {}
    return Query(tensors, parameters, _wanted(request, parameters), request.id)


def wrong_tensor(name: str, detail: str, *, what: str = "input") -> Problem:
    """The refusal (422) that names it."""
    shown = name[:80]
    return Problem(422, f"{what} {shown}: {detail}", errors=[FieldFault(shown, detail)])


def _decoded(header: memoryview) -> Request:
    if not header:
        raise Problem(
            400, "the body is empty" if header.obj == b"" else "Inference-Header-Content-Length is 0"
        )
    try:
        return _DECODER.decode(header)
    except msgspec.ValidationError as error:
        raise Problem(400, f"the body is no request for inference: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(
            400, f"the body is no JSON: {error}; NaN and what is no text go as binary data"
        ) from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None


def _tensor(tensor: InputTensor, left: memoryview, *, has_binary: bool) -> tuple[np.ndarray, memoryview]:
    """The input's array, and what is behind its data. Raises Misfit."""
    datatype = named(tensor.datatype)
    if isinstance(datatype, str):
        raise Misfit(datatype)
    size = None
    if tensor.parameters is not None:
        if tensor.parameters.shared_memory_region is not None:
            raise Misfit("there is no shared memory here; send its data")
        size = tensor.parameters.binary_data_size
    if size is None:
        if not memoryview(tensor.data):
            raise Misfit("it has neither data nor a binary_data_size")
        return read_json(datatype, tensor.shape, tensor.data), left
    if memoryview(tensor.data):
        raise Misfit("it has data and a binary_data_size; give one of them")
    if not has_binary:
        raise Misfit("it has a binary_data_size, and there is no header Inference-Header-Content-Length")
    if size > len(left):
        raise Misfit(f"its binary_data_size is {size}, and {len(left)} bytes of the body are left")
    return read_binary(datatype, tensor.shape, left[:size]), left[size:]


def _wanted(request: Request, parameters: Mapping[str, Any]) -> Wanted:
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise Problem(422, "parameter binary_data_output: expected true or false")
    for name in parameters:
        if name in _UNKNOWN:
            raise Problem(422, f"parameter {name}: a service keeps no sequences; each request stands alone")
    if not request.outputs:
        return Wanted(None, binary)
    outputs: dict[str, bool] = {}
    for one in request.outputs:
        how = one.parameters or _PLAIN
        if how.classification:
            raise wrong_tensor(one.name, "there is no classification here; ask for the output", what="output")
        if how.shared_memory_region is not None:
            raise wrong_tensor(one.name, "there is no shared memory here", what="output")
        outputs[one.name] = binary if how.binary_data is None else how.binary_data
    return Wanted(outputs, binary)


_PLAIN = OutputParameters()
