"""The Trainer of Transformers takes the loader by its own hook, without an adapter."""

import numpy as np
import pytest

from hooke.data import Shuffled

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # of the libraries

N, BATCH, EPOCHS = 70, 16, 2
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
ROWS = {"number": np.arange(N), "x": X, "y": X[:, :1] * 2}


@pytest.mark.parametrize("workers", [0, 1])
def test_the_trainer_of_transformers_takes_the_loader(workers, tmp_path):
    import torch
    from transformers import Trainer, TrainingArguments

    from hooke.frameworks.torch import ShuffledLoader

    loader = ShuffledLoader(Shuffled(ROWS, seed=1, batch=BATCH), num_workers=workers)
    seen = []

    class Dicts:
        """What the Trainer moves to its device are dicts."""

        dataset = loader.dataset

        def __len__(self):
            return len(loader)

        def __iter__(self):
            return (batch.data | {"weight": batch.weight} for batch in loader)

    class OnShuffled(Trainer):
        def get_train_dataloader(self):
            return Dicts()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            seen.append(inputs["number"].tolist())
            return torch.nn.functional.mse_loss(model(inputs["x"]), inputs["y"]) * inputs["weight"]

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=EPOCHS,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    OnShuffled(model=torch.nn.Linear(3, 1), args=arguments).train()
    data = Shuffled(ROWS, seed=1, batch=BATCH)
    wanted = [batch["number"].tolist() for epoch in range(EPOCHS) for batch in data.batches(epoch)]
    assert seen == wanted
    assert loader.epoch == EPOCHS
