"""A training of a real gang whose rank is killed: bit-equal weights, each row in its order, one curve."""

import numpy as np
import pytest

from hooke.journal.events import AttemptFailed

pytestmark = pytest.mark.needs("processes")

JOB = """
    import os
    import signal

    import hooke
    import numpy as np
    import torch
    from hooke import pipeline, task
    from hooke.data import Shuffled
    from hooke.frameworks.torch import Checkpoint, ShuffledLoader, process_group, set_seed
    from torch import nn

    def rows():
        x = np.random.default_rng(0).normal(size=(136, 6)).astype(np.float32)
        return {"number": np.arange(len(x)), "x": x, "y": x[:, :1] * x[:, 1:2] + x[:, 2:3]}

    @task(gang=3, retries=1, results="all")
    def train(kill_at: int):
        torch.set_num_threads(1)
        with process_group():
            set_seed(1)
            model = nn.Sequential(
                nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
            )
            model = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
            set_seed(2, per_rank=True)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            loader = ShuffledLoader(Shuffled(rows(), seed=3, batch=10), num_workers=1)
            checkpoint = Checkpoint(model=model, optimizer=optimizer, loader=loader)
            step = first = checkpoint.load()
            seen = []
            while loader.epoch < 2:
                for batch in loader:
                    if step == kill_at and not first and hooke_rank() == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    optimizer.zero_grad()
                    loss = nn.functional.mse_loss(model(batch.data["x"]), batch.data["y"]) * batch.weight
                    loss.backward()
                    optimizer.step()
                    step += 1
                    seen.append(batch.data["number"].tolist())
                    if hooke_rank() == 0:
                        hooke.log_metric("loss", float(loss), step=step)
                    if step % 4 == 0:
                        checkpoint.save(step)
            return first, seen, {name: value.numpy() for name, value in model.module.state_dict().items()}

    def hooke_rank():
        return int(os.environ["RANK"])

    @pipeline
    def job(kill_at: int = -1):
        return train(kill_at)
"""


@pytest.mark.long
def test_a_rank_that_is_killed_changes_no_bit_of_the_weights(workshop):
    workshop.write(JOB)
    plain = workshop.run(on="local", workers=3)
    events = []
    killed = workshop.run(on="local", workers=3, kill_at=18, observers=[events.append])
    (failed,) = [event.failure for event in events if isinstance(event, AttemptFailed)]
    assert (failed.kind, failed.rank, failed.signal) == ("WorkerDied", 1, 9)
    for (start, seen, weights), (first, rest, again) in zip(plain.result(), killed.result(), strict=True):
        assert (start, first) == (0, 16)
        assert rest == seen[16:]
        assert all(np.array_equal(weights[name], again[name]) for name in weights)
    curves = [[(point.step, point.value) for point in run.logged().curve("loss")] for run in (plain, killed)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[1]] == list(range(1, 29))
