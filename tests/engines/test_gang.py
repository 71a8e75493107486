"""What a gang's ranks come to: who is to blame, when that is known, and what a whole gang gives. And the port that is kept for it."""

import socket
from itertools import permutations

import pytest

from hooke.base.ref import Ref
from hooke.engines.gang import ECHO_S, Gang, RankRange, Rendezvous, StartRanks, environment_of
from hooke.journal.events import GANG_RESIZED, AttemptFailed, AttemptFinished, Failure, LogSpan
from hooke.pipeline.engine import Call, FunctionImage
from hooke.pipeline.references import unpack
from hooke.store.store import Store

DEATH = Failure(kind="WorkerDied", message="its worker died", signal=9)
ABORT = Failure(kind="WorkerDied", message="its worker died", signal=6)
ERROR = Failure(kind="TaskError", message="too low", error_type="ValueError")
ECHO = Failure(
    kind="TaskError",
    message="[gloo/transport/tcp/pair.cc:553] Connection closed by peer",
    error_type="RuntimeError",
)

TENSORFLOW_ECHO = Failure(
    kind="TaskError",
    message="Graph execution error:\n\nDetected at node adam/CollectiveReduceV2\nCollective ops is aborted by: Socket closed",
    error_type="tensorflow.python.framework.errors_impl.UnavailableError",
)
JAX_ECHO = Failure(
    kind="TaskError",
    message="UNAVAILABLE: failed to connect to all addresses",
    error_type="jaxlib.xla_extension.XlaRuntimeError",
)


def gang(ranks: int = 3, *, kind: str = "call", results: str = "rank0") -> Gang:
    image = FunctionImage(
        digest="d", name="train", code_key="k", parts={}, function=print, pickle=lambda: b""
    )
    return Gang(
        Call(
            attempt=5,
            node=0,
            number=1,
            kind=kind,
            lo=0,
            hi=1,
            image=image,
            payload=b"",
            shown="",
            gang=ranks,
            results=results,
        )
    )


def failed(failure: Failure, worker: str = "w") -> AttemptFailed:
    return AttemptFailed(attempt=5, node=0, lo=0, hi=1, failure=failure, worker=worker)


def finished(ref: Ref, **facts: object) -> AttemptFinished:
    return AttemptFinished(attempt=5, node=0, lo=0, hi=1, ref=ref, **facts)


@pytest.mark.parametrize("first", [DEATH, ERROR], ids=["death", "error"])
def test_a_rank_that_dies_or_raises_ends_the_gang_at_once(first: Failure) -> None:
    ranks = gang()
    assert ranks.verdict(0.0) is None
    ranks.heard(1, failed(first, "w1"), 0.0)
    ended = ranks.verdict(0.0)
    assert ended is not None
    assert (ended.failure.rank, ended.failure.ranks, ended.worker) == (1, 3, "w1")
    assert (ended.done, ended.ref) == (0, None)


@pytest.mark.parametrize("order", [*permutations([0, 1, 2])], ids=str)
@pytest.mark.parametrize("cause", [DEATH, ERROR], ids=["death", "error"])
@pytest.mark.parametrize("echo", [ECHO, TENSORFLOW_ECHO, JAX_ECHO], ids=["gloo", "tensorflow", "jax"])
def test_the_cause_is_blamed_in_whatever_order_it_is_heard_of(
    order: tuple[int, ...], cause: Failure, echo: Failure
) -> None:
    ranks = gang()
    of = {0: echo, 1: cause, 2: ABORT}
    for rank in order:
        ranks.heard(rank, failed(of[rank]), 0.0)
        ended = ranks.verdict(0.0)
        if ended is not None:
            break
    assert ended is not None
    assert ended.failure.rank == 1


def test_an_echo_alone_is_blamed_after_a_while_and_at_once_where_no_other_can_come() -> None:
    ranks = gang()
    ranks.heard(2, failed(ECHO), 10.0)
    assert ranks.verdict(10.0) is None
    assert ranks.verdict(10.0 + ECHO_S / 2) is None
    late = ranks.verdict(10.0 + ECHO_S)
    assert late is not None
    assert late.failure.rank == 2
    pair = gang(2)
    pair.heard(0, failed(ECHO), 0.0)
    pair.heard(1, failed(ECHO), 0.0)
    assert pair.verdict(0.0) is not None


def test_the_message_names_the_others_that_failed() -> None:
    ranks = gang()
    for rank, failure in ((0, ECHO), (2, ERROR)):
        ranks.heard(rank, failed(failure), 0.0)
    ended = ranks.verdict(0.0)
    assert ended is not None
    assert ended.failure.message.startswith("too low")
    assert "rank 0" in ended.failure.message
    assert ended.failure.said.startswith("rank 2 of 3: TaskError: too low")


def test_a_whole_gang_gives_what_rank_0_gave_and_what_all_took() -> None:
    ranks = gang(2)
    log = [LogSpan("a.log", 0, 3), LogSpan("b.log", 0, 4)]
    mine, other = Ref("0" * 64, 1), Ref("1" * 64, 1)
    ranks.heard(1, finished(other, at=9.0, seconds=3.0, cpu_s=2.0, peak_bytes=10, log=log[1]), 0.0)
    assert not ranks.is_done
    ranks.heard(0, finished(mine, at=8.0, seconds=2.0, cpu_s=1.0, peak_bytes=5, log=log[0]), 0.0)
    assert ranks.is_done
    whole = ranks.result()
    assert (whole.ref, whole.at, whole.seconds, whole.cpu_s, whole.peak_bytes) == (mine, 9.0, 3.0, 3.0, 10)
    assert whole.logs == tuple(log)
    ranks.gathered = other
    assert ranks.result().ref == other


@pytest.mark.parametrize("kind", ["call", "map"])
def test_results_of_all_are_gathered_by_rank(kind: str, tmp_path) -> None:
    store, ranks = Store.open(tmp_path), gang(3, kind=kind, results="all")
    for rank in (2, 0, 1):
        value = f"of {rank}"
        ranks.heard(rank, finished(store.put(value if kind == "call" else [value])), 0.0)
    everything = ["of 0", "of 1", "of 2"]
    assert unpack(ranks.to_gather, store) == (everything if kind == "call" else [everything])


def test_each_rank_is_told_how_to_find_the_others() -> None:
    meet = StartRanks(try_id=1, address="10.0.0.1", port=29500)
    told = environment_of(2, RankRange(try_id=1, lo=0, hi=4, ranks=4), meet)
    assert told == {
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
        "RANK": "2",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "2",
        "LOCAL_WORLD_SIZE": "4",
    }
    spread = environment_of(2, RankRange(try_id=1, lo=2, hi=4, ranks=4), meet)
    assert (spread["LOCAL_RANK"], spread["LOCAL_WORLD_SIZE"]) == ("0", "2")


def test_the_port_is_kept_for_whoever_asks_for_it_by_number() -> None:
    with Rendezvous() as kept:
        others = [socket.create_server(("127.0.0.1", 0)) for _ in range(50)]
        assert kept.port not in [other.getsockname()[1] for other in others]
        for other in others:
            other.close()
        with socket.create_server((kept.address, kept.port)) as server:
            assert server.getsockname()[1] == kept.port
            with socket.create_connection((kept.address, kept.port)):
                pass


RESIZED = Failure(kind=GANG_RESIZED, message="it ended at a checkpoint")


def test_a_gang_that_ends_at_a_checkpoint_waits_for_rank_0_and_blames_nobody():
    ranks = gang()
    ranks.wanted, ranks.leaves = 1, True
    ranks.heard(2, failed(DEATH, "w2"), 0.0)
    ranks.heard(1, failed(ECHO, "w1"), 0.0)
    assert ranks.verdict(100.0) is None  # rank 0 may still bring its checkpoint to the store
    ranks.heard(0, failed(RESIZED, "w0"), 100.0)
    ended = ranks.verdict(100.0)
    assert ended is not None
    assert ended.resized
    assert (ended.worker, ended.failure.ranks, ended.failure.rank) == ("w0", 3, None)
    assert "its 3 ranks ended at a checkpoint, to go on with 1 rank: others wait" in ended.failure.message


def test_another_rank_may_be_the_first_to_tell_that_it_ends_at_a_checkpoint():
    ranks = gang()
    ranks.wanted = 4
    ranks.heard(1, failed(RESIZED, "w1"), 0.0)
    assert ranks.verdict(100.0) is None
    ranks.heard(0, failed(DEATH, "w0"), 100.0)  # while it brought the checkpoint to the store
    ended = ranks.verdict(100.0)
    assert ended is not None
    assert "to go on with 4 ranks: there is room for more" in ended.failure.message


def test_ranks_of_an_elastic_gang_know_how_many_they_may_be():
    meet = StartRanks(try_id=1, address="a", port=1)
    parts = [RankRange(try_id=1, lo=0, hi=2, ranks=2, most=most) for most in (0, 4)]
    assert [environment_of(0, part, meet).get("HOOKE_MOST_RANKS") for part in parts] == [None, "4"]
