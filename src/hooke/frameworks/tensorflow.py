"""TensorFlow: shuffled batches as `tf.data` datasets, in the one order whatever the number of ranks, and TF_CONFIG for a gang.

TensorFlow is imported where it is first needed, because `set_tf_config` comes before all that starts it.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import HookeError, UsageError
from hooke.data import Shuffled
from hooke.data.arrays import columns_of
from hooke.data.shuffled import TrainingBatch
from hooke.frameworks.position import LoaderPosition, ranks_of_gang

__all__ = ["TensorFlowLoader", "TrainingBatch", "set_tf_config"]


# --- Batches.


class TensorFlowLoader(LoaderPosition):
    """The batches of a `Shuffled` as tensors: each iteration is one epoch, or the rest of one.

    Batches are `TrainingBatch`es whose entries are all tensors, so a `tf.function` is not traced again for each. Text becomes
    `tf.string`. `rank` and `ranks` are by default those of the gang. `transform` gets each batch in the source's own kind, in a
    thread of `tf.data`; what it returns becomes tensors. It should draw no random numbers: a `tf.random.stateless_*` function with
    the batch's epoch and step as its seed draws the same ones after a resume.

    `spec` describes the data of a batch as `tf.TensorSpec`s, by column where it is a dict; by default as in the first batch, with
    any number of rows. Give it where another dimension changes from batch to batch, too. `prefetch` batches are read ahead.

    Raises UsageError for ranks that cannot share the data, and for what TensorFlow has no tensors for.
    """

    def __init__(
        self,
        data: Shuffled,
        *,
        rank: int | None = None,
        ranks: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        spec: Any = None,
        prefetch: int = 2,
    ) -> None:
        here = ranks_of_gang()
        super().__init__(data, here[0] if rank is None else rank, here[1] if ranks is None else ranks)
        self._transform = transform
        self._spec = spec
        self._prefetch = prefetch
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[TrainingBatch]:
        import tensorflow as tf

        epoch, _ = self._at
        self._error = None
        try:
            for batch in self.dataset:
                self._taken(epoch, int(batch[4]) + 1)
                yield TrainingBatch(*batch)
        except tf.errors.OpError:
            if self._error is None:
                raise
            raise self._error from None
        self._ended(epoch)

    def advance(self) -> None:
        """Count one more batch as taken: for a loop that iterates `dataset` itself, such as `fit` of Keras."""
        self._taken(self._at[0], self._at[1] + 1)

    @cached_property
    def dataset(self) -> Any:
        """A `tf.data.Dataset` of the same batches, as tuples. Each iteration begins where the loader is, and ends with the epoch.

        The loader follows its own iterations alone; in another loop, call `advance()` after each batch. A strategy must not divide
        the batches again: give it the dataset by `strategy.distribute_datasets_from_function(lambda _: loader.dataset)`.
        """
        import tensorflow as tf

        number = tf.TensorSpec((), tf.int64)
        signature = [self._data_spec, tf.TensorSpec((), tf.float32), number, number, number]
        if self._first[1] is not None:
            signature.append(number)
        made = tf.data.Dataset.from_generator(self._elements, output_signature=tuple(signature))
        options = tf.data.Options()
        options.deterministic = True
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return made.with_options(options).prefetch(self._prefetch)

    def _elements(self) -> Iterator[tuple[Any, ...]]:
        """The batches as tf.data takes them. An error is kept: that of TensorFlow has only its text."""
        epoch, start = self._at
        if self.rank == 0:
            self._data.warn_of_rest(epoch, start, self.ranks)
        if start >= len(self):  # of fewer ranks, and what is left has too few rows for these
            self._ended(epoch)
            return
        try:
            batches = self._data.batches(epoch, self.rank, self.ranks, start)
            for batch in batches:
                counted = batches.weight, batches.rows, epoch, batches.step
                tokens = () if batches.tokens is None else (batches.tokens,)
                yield (self._fitting(self._arrays(batch)), *counted, *tokens)
        except Exception as error:
            self._error = error
            raise

    @cached_property
    def _first(self) -> tuple[Any, int | None]:
        """The first batch of all as arrays, and the tokens of its global batch."""
        batches = self._data.batches(0, self.rank, self.ranks, 0)
        return self._arrays(next(batches)), batches.tokens

    @cached_property
    def _data_spec(self) -> Any:
        import tensorflow as tf

        def spec(array: NDArray[Any]) -> Any:
            kind = tf.string if array.dtype.kind == "O" else tf.as_dtype(array.dtype)
            return tf.TensorSpec((None, *array.shape[1:]), kind)

        first = self._first[0]
        if self._spec is not None:
            return self._spec
        return (
            {name: spec(array) for name, array in first.items()} if isinstance(first, dict) else spec(first)
        )

    def _arrays(self, batch: Any) -> Any:
        rows = columns_of(batch if self._transform is None else self._transform(batch))
        if isinstance(rows, Mapping):
            return {name: _array(f"column {name!r}", column) for name, column in rows.items()}
        return _array("the data", rows)

    def _fitting(self, batch: Any) -> Any:
        """The batch. Raises UsageError, which names the column, where it does not fit the spec."""
        spec, given = self._data_spec, self._spec is not None
        if isinstance(batch, dict) != isinstance(spec, dict):
            raise UsageError(
                "a batch is a dict of columns, and the spec is not, or the other way round",
                fix="pass `spec` as a dict with a TensorSpec for each column, or one TensorSpec for an array",
            )
        if not isinstance(batch, dict):
            _check_fits("the data", batch, spec, given=given)
            return batch
        if batch.keys() != spec.keys():
            raise UsageError(
                f"a batch has the columns {', '.join(map(str, batch))}, and the spec {', '.join(map(str, spec))}",
                fix="return the same columns for each batch, those of the spec",
            )
        for name, array in batch.items():
            _check_fits(f"column {name!r}", array, spec[name], given=given)
        return batch

    @cached_property
    def trackable(self) -> Any:
        """The state as a part of a `tf.train.Checkpoint`, which saves and restores it with the variables."""
        from tensorflow.train.experimental import PythonState

        loader = self

        class State(PythonState):  # type: ignore[misc]
            def serialize(self) -> str:
                return json.dumps(loader.state_dict())

            def deserialize(self, string_value: bytes) -> None:
                loader.load_state_dict(json.loads(string_value))

        return State()


def _array(what: str, values: Any) -> NDArray[Any]:
    """Values as TensorFlow takes them: numbers, or bytes in an array of objects. Raises UsageError for all else."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise _no_tensor(what, str(error)) from error
    kind = array.dtype.kind
    if kind in "US" and isinstance(
        values, (list, tuple)
    ):  # NumPy makes text of numbers beside it, and cuts zeros off bytes
        array = np.array(values, object)
    if kind in "OUS" and array.ndim:
        flat = [_text(what, value) for value in array.ravel()]
        text = np.empty(len(flat), object)
        text[:] = flat
        return text.reshape(array.shape)
    if kind not in "biufc" or array.dtype.itemsize > (16 if kind == "c" else 8) or not array.ndim:
        raise _no_tensor(what, f"it is a {type(values).__name__} of {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _text(what: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return bytes(value)
    raise _no_tensor(what, f"it holds {value!r}, a {type(value).__name__}"[:200])


def _no_tensor(what: str, why: str) -> UsageError:
    return UsageError(
        f"{what} cannot be a tensor of TensorFlow",
        why=why,
        fix="pass numbers and text alone, each row of a column in the same shape; or make them so in `transform`: pad lists, turn dates "
        "into numbers, fill in what is missing",
    )


def _check_fits(what: str, array: Any, spec: Any, *, given: bool) -> None:
    shape = getattr(array, "shape", None)
    if shape is None or not spec.shape.is_compatible_with(shape):
        raise UsageError(
            f"{what} has the shape {shape} in a batch, and {tuple(spec.shape)} was expected",
            fix="pad it to one shape in `transform`, or pass `spec` with None for each dimension that changes",
        )
    wanted = np.dtype(spec.dtype.as_numpy_dtype)
    text = "O" in (array.dtype.kind, wanted.kind)
    if array.dtype != wanted and (text or not given or not np.can_cast(array.dtype, wanted, "same_kind")):
        raise UsageError(
            f"{what} has values of {array.dtype} in a batch, and {wanted} was expected",
            why="it would be cut off or become other values",
            fix="fill in what is missing, or convert it to one type, in `transform`; or pass `spec` with a type that holds all",
        )


# --- TF_CONFIG for the ranks of a gang.

POLL_S = 0.05
LONGEST_LINE = 1 << 16
"""Bytes of a message between ranks: the list of 2,000 workers."""


class _RankAddress(msgspec.Struct, frozen=True, kw_only=True, tag_field="message", tag="hooke_rank"):
    """What a rank tells rank 0."""

    rank: int
    ranks: int
    worker: str
    """The address and the port at which its TensorFlow will listen."""


class _RankAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="message", tag="hooke_ranks"):
    """What rank 0 answers: all workers, by rank, or what is wrong."""

    workers: list[str] = []
    error: str = ""


_kept_ports: list[socket.socket] = []
"""Bound until this process ends and never listening, so that the kernel gives the port to none but TensorFlow, which reuses it."""


def set_tf_config(*, timeout_s: float = 300.0) -> None:
    """Set `TF_CONFIG` for this rank of a gang, as `tf.distribute.MultiWorkerMirroredStrategy` reads it: each rank is a worker.

    Call it on all ranks, before the strategy is made and before TensorFlow computes anything. Rank 0 listens at MASTER_ADDR and
    MASTER_PORT; each other rank tells it an address and a free port of its own, and gets the list. Where there is one rank, as in a
    plain call of the task, it sets nothing, and the strategy is one of a single worker.

    Raises UsageError if it is called twice or too late, or if the ranks count different numbers of ranks; HookeError, which names the
    rank, if one does not come within `timeout_s` seconds.
    """
    rank, ranks = ranks_of_gang()
    if ranks == 1:
        return
    _refuse_late()
    try:
        meeting = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise UsageError(
            f"WORLD_SIZE is {ranks}, and {error.args[0]} is not set",
            fix="run the task as a gang (@task(gang=...)), which sets the address at which the ranks meet",
        ) from error
    ends = time.monotonic() + timeout_s
    workers = _collected(meeting, ranks, ends) if rank == 0 else _told(meeting, rank, ranks, ends)
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})


def _refuse_late() -> None:
    """Raise UsageError if TF_CONFIG is set already, or TensorFlow has started: it would not be read any more."""
    if "TF_CONFIG" in os.environ:
        raise UsageError(
            "TF_CONFIG is set already",
            why=f"it is {os.environ['TF_CONFIG'][:200]}",
            fix="call set_tf_config() once on each rank, and set TF_CONFIG nowhere else",
        )
    tf = sys.modules.get("tensorflow")
    if tf is None:
        return
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    own = tf.config.get_logical_device_configuration(cpu)
    try:
        # One logical device is the default. TensorFlow refuses all such settings once it has started.
        tf.config.set_logical_device_configuration(cpu, own or [tf.config.LogicalDeviceConfiguration()])
    except RuntimeError as error:
        raise UsageError(
            "TensorFlow has started, so it reads TF_CONFIG no more",
            why=str(error),
            fix="call set_tf_config() before MultiWorkerMirroredStrategy(), and before the first tensor, variable or dataset",
        ) from error


def _collected(meeting: tuple[str, int], ranks: int, ends: float) -> list[str]:
    """Rank 0: wait for the addresses of all others, and send each the list. Connections of strangers are closed."""
    try:
        server = socket.create_server(meeting, family=_family(meeting[0]), backlog=ranks + 16)
    except OSError as error:
        raise HookeError(
            f"rank 0 cannot listen at {_joined(*meeting)}",
            why=str(error),
            fix="set MASTER_ADDR to an address of rank 0's machine, with a free MASTER_PORT",
        ) from error
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        opened.enter_context(server)
        registry = _Registry(_joined(*meeting), ranks, selector, opened)
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
        try:
            while registry.missing:
                ready = selector.select(max(0.0, ends - time.monotonic()))
                if not ready and time.monotonic() >= ends:
                    raise registry.too_late()
                for key, _ in ready:
                    if key.fileobj is server:
                        registry.accept(server)
                    else:
                        registry.read(key.data)
        except HookeError as error:
            registry.answer(_RankAnswer(error=error.what))
            raise
        registry.answer(_RankAnswer(workers=registry.workers))
        return registry.workers


class _Peer:
    """A connection to rank 0, of a rank or of a stranger."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.heard = b""
        self.rank: int | None = None


class _Registry:
    """Rank 0's list of the ranks that have come, and their connections."""

    def __init__(self, own: str, ranks: int, selector: selectors.BaseSelector, opened: ExitStack) -> None:
        self._ranks, self._selector, self._opened = ranks, selector, opened
        self._own = own
        self._come: dict[int, tuple[_Peer, _RankAddress]] = {}

    @property
    def missing(self) -> list[int]:
        """The ranks that have not come."""
        return [rank for rank in range(1, self._ranks) if rank not in self._come]

    @property
    def workers(self) -> list[str]:
        """The addresses, by rank. Rank 0's TensorFlow listens where the ranks have met."""
        return [self._own, *(self._come[rank][1].worker for rank in range(1, self._ranks))]

    def too_late(self) -> HookeError:
        """What is raised when the time is over."""
        missing, many = self.missing, len(self.missing) > 1
        return HookeError(
            f"rank{'s' if many else ''} {', '.join(map(str, missing))} of {self._ranks} did not come to rank 0",
            why=f"rank 0 waited for {'them' if many else 'it'} at {self._own}",
            fix="call set_tf_config() on all ranks; see what the others do in their logs, or give them more time with timeout_s=",
        )

    def accept(self, server: socket.socket) -> None:
        """A connection is there, if it is not gone again."""
        try:
            connection, _ = server.accept()
        except OSError:
            return
        self._opened.enter_context(connection)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, _Peer(connection))

    def read(self, peer: _Peer) -> None:
        """A connection has something to say, or is closed. Raises UsageError for a rank that does not belong to this gang."""
        try:
            chunk = peer.connection.recv(LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        peer.heard += chunk
        if chunk and b"\n" not in peer.heard and len(peer.heard) < LONGEST_LINE:
            return
        told = _decoded(peer.heard, _RankAddress) if chunk and peer.rank is None else None
        if told is None:
            self._drop(peer)
        else:
            self._add(peer, told)

    def _add(self, peer: _Peer, told: _RankAddress) -> None:
        if told.ranks != self._ranks or not 0 < told.rank < self._ranks:
            raise UsageError(
                f"rank {told.rank} at {told.worker} counts {told.ranks} ranks, and rank 0 counts {self._ranks}",
                fix="start all ranks with the same WORLD_SIZE, numbered from 0 by RANK",
            )
        if told.rank in self._come:
            raise UsageError(
                f"two processes are rank {told.rank}: at {self._come[told.rank][1].worker} and at {told.worker}",
                fix="give each rank another RANK",
            )
        peer.rank = told.rank
        self._come[told.rank] = peer, told

    def _drop(self, peer: _Peer) -> None:
        """Forget a stranger, or a rank that has gone: it may come again."""
        if peer.rank is not None:
            del self._come[peer.rank]
        self._selector.unregister(peer.connection)
        peer.connection.close()

    def answer(self, answer: _RankAnswer) -> None:
        """Tell all ranks that have come. One that is gone by now has its own error."""
        data = msgspec.json.encode(answer) + b"\n"
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Peer) and (answer.error or key.data.rank is not None):
                key.data.connection.settimeout(5.0)
                try:
                    key.data.connection.sendall(data)
                except OSError:
                    continue


def _told(meeting: tuple[str, int], rank: int, ranks: int, ends: float) -> list[str]:
    """Another rank: tell rank 0 where TensorFlow will listen here, and wait for the list."""
    while True:
        try:
            return _asked(meeting, rank, ranks, ends)
        except OSError as error:
            if time.monotonic() >= ends:
                raise HookeError(
                    f"rank {rank} of {ranks} got no list of all ranks from rank 0 at {_joined(*meeting)}",
                    why=f"{type(error).__name__}: {error}",
                    fix="call set_tf_config() on all ranks; see what rank 0 does in its log, or give it more time with timeout_s=",
                ) from error
            time.sleep(POLL_S)


def _asked(meeting: tuple[str, int], rank: int, ranks: int, ends: float) -> list[str]:
    with socket.create_connection(meeting, max(0.1, ends - time.monotonic())) as connection:
        here = connection.getsockname()
        if here == connection.getpeername():  # TCP lets a port that nobody listens at connect to itself
            raise ConnectionRefusedError("rank 0 does not listen yet")
        address = _joined(here[0], _kept_port(here[0]))
        told = _RankAddress(rank=rank, ranks=ranks, worker=address)
        connection.sendall(msgspec.json.encode(told) + b"\n")
        heard = b""
        while b"\n" not in heard and len(heard) < LONGEST_LINE:
            connection.settimeout(max(0.1, ends - time.monotonic()))
            chunk = connection.recv(LONGEST_LINE)
            if not chunk:
                raise ConnectionResetError("rank 0 closed the connection")
            heard += chunk
    answer = _decoded(heard, _RankAnswer)
    if answer is None:
        raise HookeError(
            f"what listens at {_joined(*meeting)} is not rank 0",
            why=f"it answered {heard[:80]!r}",
            fix="set MASTER_PORT to a port of rank 0's machine that no other program uses",
        )
    if answer.error:
        raise HookeError(f"rank 0 says: {answer.error}", fix="see the log of rank 0")
    return answer.workers


def _decoded(line: bytes, kind: type[Any]) -> Any:
    """A message; None if it is none."""
    try:
        return msgspec.json.decode(line.partition(b"\n")[0], type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _kept_port(address: str) -> int:
    """A free port at this address of the machine, kept free for TensorFlow until the process ends."""
    for kept in _kept_ports:
        if kept.getsockname()[0] == address:
            return int(kept.getsockname()[1])
    kept = socket.socket(_family(address))
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind((address, 0))
    _kept_ports.append(kept)
    return int(kept.getsockname()[1])


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
