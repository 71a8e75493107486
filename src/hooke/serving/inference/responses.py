"""Outputs as the body of an answer: JSON, and behind it the binary data of those that were wanted so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from hooke.serving.inference.datatypes import BYTES, Datatype, datatype_of
from hooke.serving.inference.messages import BinarySize, OutputTensor, Response
from hooke.serving.inference.requests import Wanted, wrong_tensor
from hooke.serving.inference.tensors import Misfit, json_data, to_binary
from hooke.serving.problems import Problem

__all__ = ["Written", "write_response"]

_ENCODER = msgspec.json.Encoder()


class Written(msgspec.Struct, frozen=True):
    """A body. Its first `header_length` bytes are JSON; None: all of it."""

    body: bytes
    header_length: int | None = None


def write_response(
    model: str, version: str, outputs: Mapping[str, np.ndarray], wanted: Wanted, request_id: str | None = None
) -> Written:
    """The outputs that are wanted, in that order, else all.

    Raises Problem: 422 for one that there is not, 406 for one whose values no tensor holds, or not as it is wanted.
    """
    written: list[OutputTensor] = []
    raw: list[bytes] = []
    for name in outputs if wanted.outputs is None else wanted.outputs:
        if name not in outputs:
            raise wrong_tensor(name, f"there is none; there are {_listed(outputs)}", what="output")
        try:
            written.append(_output(name, outputs[name], raw if wanted.is_binary(name) else None))
        except Misfit as misfit:
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
        raise Misfit(f"no datatype of the protocol holds {value.dtype}")
    if datatype is BYTES and value.dtype.kind == "O":
        strange = {type(one) for one in value.ravel().tolist() if not isinstance(one, (str, bytes))}
        if strange:
            raise Misfit(f"no datatype of the protocol holds a {min(kind.__name__ for kind in strange)}")
    return datatype


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
