"""A generator's items, one at a time as they are sent, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from hooke.serving.dispatch import Dispatch
from hooke.serving.payloads import Kind, Method, encode
from hooke.serving.problems import Problem, problem_of

__all__ = ["event", "items_of"]


def event(data: bytes, name: str = "") -> bytes:
    """One event. `data` is JSON, which has no line break."""
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"


def items_of(dispatch: Dispatch, method: Method, arguments: dict[str, Any]) -> AsyncGenerator[bytes]:
    """Each item as JSON, made when it is asked for. Raises Problem for what the generator raises, and 504.

    The items of a plain generator are made where the model runs, in turn with what else that does.
    """
    if method.kind is Kind.ASYNC_STREAM:
        return _async_items(dispatch, method, arguments)
    return _plain_items(dispatch, method, arguments)


async def _plain_items(
    dispatch: Dispatch, method: Method, arguments: dict[str, Any]
) -> AsyncGenerator[bytes]:
    stream = dispatch.stream()
    try:
        data: bytes | None = await dispatch.item(stream, method, arguments)
        while data is not None:
            yield data
            data = await dispatch.item(stream, method, None)
    finally:
        dispatch.drop(stream)


async def _async_items(
    dispatch: Dispatch, method: Method, arguments: dict[str, Any]
) -> AsyncGenerator[bytes]:
    made = method.function(**arguments)
    timeout_s = dispatch.declared.timeout_s
    timer = asyncio.timeout(None)
    try:
        while True:
            timer = asyncio.timeout(timeout_s)
            async with timer:
                item = await anext(made)
            yield encode(item)
    except StopAsyncIteration:
        return
    except Exception as error:
        if isinstance(error, TimeoutError) and timer.expired():
            raise Problem(504, f"{method.name} gave no item within {timeout_s:g} s") from None
        raise problem_of(error, method.name) from error
    finally:
        await made.aclose()
