"""The protocol's JSON objects, as msgspec reads and writes them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

__all__ = [
    "BinarySize",
    "InputTensor",
    "ModelMetadata",
    "OutputTensor",
    "Request",
    "RequestedOutput",
    "Response",
    "ServerMetadata",
    "TensorMetadata",
]

Count = Annotated[int, msgspec.Meta(ge=0)]


class InputParameters(msgspec.Struct, frozen=True):
    """Those of a tensor that say where its data is; others mean nothing here."""

    binary_data_size: Count | None = None
    shared_memory_region: str | None = None


class InputTensor(msgspec.Struct, frozen=True):
    """One input. `data` is left as it came until its datatype is known."""

    name: str
    shape: list[Count]
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


class OutputParameters(msgspec.Struct, frozen=True):
    """How an output is wanted."""

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class RequestedOutput(msgspec.Struct, frozen=True):
    """One of the outputs that are wanted, when not all are."""

    name: str
    parameters: OutputParameters | None = None


class Request(msgspec.Struct, frozen=True):
    """The JSON of an inference request."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestedOutput] | None = None


class BinarySize(msgspec.Struct, frozen=True):
    """How many bytes after the JSON are a tensor's."""

    binary_data_size: int


class OutputTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output, its data in it or behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: BinarySize | None = None
    data: list[Any] | None = None


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class ServerMetadata(msgspec.Struct, frozen=True):
    """Who answers, and which extensions of the protocol it knows."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output of a model; -1 in its shape is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
