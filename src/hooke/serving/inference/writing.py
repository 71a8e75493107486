"""A method's result as a response, written where the method runs: the writer goes there by the names of its service and model."""

from __future__ import annotations

from functools import cache
from typing import Any

from hooke.serving.inference.models import VERSION, Model, models_of, tensors_of
from hooke.serving.inference.requests import Wanted
from hooke.serving.inference.responses import Written, write_response
from hooke.serving.payloads import methods_of
from hooke.serving.problems import Problem
from hooke.serving.service import service_of

__all__ = ["Writing"]


class Writing:
    """Writes one request's answer. Called with what the method returned; a refusal is an answer: raised, it would be the whole batch's."""

    __slots__ = ("_id", "_made_by", "_model", "_wanted")

    def __init__(self, model: Model, made_by: type, wanted: Wanted, request: str | None) -> None:
        self._model = model
        self._made_by = made_by
        self._wanted = wanted
        self._id = request

    def __call__(self, result: Any) -> Written | Problem:
        """The response."""
        model = self._model
        try:
            return write_response(model.name, VERSION, tensors_of(model, result), self._wanted, self._id)
        except Problem as problem:
            return problem

    def __reduce__(self) -> tuple[Any, ...]:
        return _writing, (
            self._made_by,
            self._model.name,
            self._wanted.outputs,
            self._wanted.binary,
            self._id,
        )


def _writing(made_by: type, name: str, outputs: Any, binary: Any, request: str | None) -> Writing:
    return Writing(_models(made_by)[name], made_by, Wanted(outputs, binary), request)


@cache
def _models(made_by: type) -> dict[str, Model]:
    declared = service_of(made_by)
    return models_of(declared, methods_of(declared))[0]
