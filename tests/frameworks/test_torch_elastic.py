"""Trainings of real elastic gangs: the order of the data, each row once an epoch, and the weights of a fixed gang."""

import itertools

import pytest

from hooke.journal.events import AttemptFailed, AttemptStarted
from hooke.pipeline import node_state, retries

pytestmark = pytest.mark.needs("processes")

TOLERANCE = 1e-5
"""Of weights below 1, after 28 steps of Adam: sums of gradients are rounded in another order with another number of ranks."""

JOB = """
    import os
    import signal
    import time
    from pathlib import Path

    import numpy as np
    import torch
    from hooke import pipeline, task
    from hooke.data import Shuffled
    from hooke.frameworks.torch import Checkpoint, ShuffledLoader, process_group, set_seed
    from torch import nn

    PATIENCE_S = 120.0

    def until(there):
        for _ in range(int(PATIENCE_S / 0.05)):
            if there():
                return
            time.sleep(0.05)
        raise TimeoutError("it took too long")

    def rows():
        x = np.random.default_rng(0).normal(size=(137, 6)).astype(np.float32)
        return {"number": np.arange(len(x)), "x": x, "y": x[:, :1] * x[:, 1:2] + x[:, 2:3]}

    def fit(folder, *, stays=0, kill_at=-1):
        torch.set_num_threads(1)
        folder = Path(folder)
        with process_group():
            set_seed(1)
            model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
            model = nn.parallel.DistributedDataParallel(model)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            # A tail of one row, which two ranks could not share.
            loader = ShuffledLoader(Shuffled(rows(), seed=3, batch=8), num_workers=1)
            checkpoint = Checkpoint(model=model, optimizer=optimizer, loader=loader)
            step = first = checkpoint.load()
            (folder / f"begun-{loader.ranks}").touch()
            while loader.epoch < 2:
                for batch in loader:
                    if step == kill_at and not first and loader.rank == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    numbers = batch.data["number"].tolist()
                    (folder / f"{step}-{loader.rank}-{loader.ranks}").write_text(" ".join(map(str, numbers)))
                    optimizer.zero_grad()
                    loss = nn.functional.mse_loss(model(batch.data["x"]), batch.data["y"]) * batch.weight
                    loss.backward()
                    optimizer.step()
                    step += 1
                    checkpoint.save(step)
                    tries = 0
                    while stays and step == 20 and loader.ranks != stays:
                        time.sleep(0.05)
                        checkpoint.save(step)
                        tries += 1
                        assert tries < PATIENCE_S / 0.05
            (folder / "done").touch()
            return {name: value.numpy() for name, value in model.module.state_dict().items()}

    @task
    def hold(folder, name):
        until((Path(folder) / name).exists)

    @task(gang=2)
    def fixed(folder):
        return fit(folder)

    @pipeline
    def usual(folder):
        return fixed(folder)

    @task(gang=(1, 2))
    def grows(folder):
        return fit(folder, stays=2)

    @pipeline
    def growing(folder):
        return hold(folder, "begun-1"), grows(folder)

    @task(gang=(1, 2), retries=1)
    def killed(folder):
        return fit(folder, kill_at=12)

    @pipeline
    def left(folder):
        return killed(folder), hold(folder, "done")
"""

TAIL = 17
"""Steps of an epoch of 137 rows in batches of 8: the last row joins the last of them."""


def seen(folder):
    """Step -> number of ranks -> the rows that they read, as all of them have noted it."""
    found: dict[int, dict[int, list[list[int]]]] = {}
    for file in sorted(folder.glob("*-*-*")):
        step, rank, ranks = map(int, file.name.split("-"))
        parts = found.setdefault(step, {}).setdefault(ranks, [[] for _ in range(ranks)])
        parts[rank] = [int(number) for number in file.read_text().split()]
    return {
        step: {ranks: sorted(itertools.chain(*parts)) for ranks, parts in by_ranks.items() if all(parts)}
        for step, by_ranks in sorted(found.items())
    }


def run(workshop, pipeline, name):
    folder = workshop.folder / name
    folder.mkdir()
    events: list = []
    made = workshop.run(name=pipeline, on="local", workers=2, folder=str(folder), observers=[events.append])
    return made.result(), seen(folder), events


def check_order(steps, usual):
    """Each global batch is that of the fixed gang, and each epoch has each row once."""
    assert {step: next(iter(parts.values())) for step, parts in steps.items()} == {
        step: parts[2] for step, parts in usual.items()
    }
    for parts in steps.values():
        assert len({tuple(rows) for rows in parts.values()}) == 1
    for epoch in (0, 1):
        rows = [number for step in range(TAIL) for number in next(iter(steps[epoch * TAIL + step].values()))]
        assert sorted(rows) == list(range(137))


def sizes(events):
    return [len(event.workers) for event in events if isinstance(event, AttemptStarted) and event.workers]


def check_weights(found, usual):
    assert max(abs(found[name] - usual[name]).max() for name in usual) < TOLERANCE


@pytest.mark.long
def test_it_begins_with_one_rank_grows_to_two_and_reads_what_two_read(workshop, monkeypatch):
    monkeypatch.setattr(node_state, "SETTLED_S", 0.5)
    workshop.write(JOB)
    usual, steps_of_two, _ = run(workshop, "usual", "two")
    (_, found), steps, events = run(workshop, "growing", "grown")
    assert sizes(events) == [1, 2]
    (resized,) = [event for event in events if isinstance(event, AttemptFailed)]
    assert resized.resized
    assert (
        resized.failure.message
        == "its 1 rank ended at a checkpoint, to go on with 2 ranks: there is room for more"
    )
    assert {ranks for parts in steps.values() for ranks in parts} == {1, 2}
    check_order(steps, steps_of_two)
    check_weights(found, usual)


@pytest.mark.long
def test_a_killed_rank_without_a_place_left_goes_on_with_one(workshop, monkeypatch):
    monkeypatch.setattr(node_state, "SETTLED_S", 10_000.0)
    monkeypatch.setattr(retries, "BASE_S", 5.0)  # meanwhile the other task takes a place
    workshop.write(JOB)
    usual, steps_of_two, _ = run(workshop, "usual", "two")
    (found, _), steps, events = run(workshop, "left", "killed")
    assert sizes(events) == [2, 1]
    (failed,) = [event.failure for event in events if isinstance(event, AttemptFailed)]
    assert (failed.kind, failed.rank, failed.signal) == ("WorkerDied", 1, 9)
    assert list(steps[11]) == [2]
    assert list(steps[13]) == [1]
    check_order(steps, steps_of_two)
    check_weights(found, usual)
