"""The Trainers of Transformers and of Lightning take the loader by their own hooks."""

import numpy as np
import pytest

from hooke.data import Shuffled

pytestmark = [pytest.mark.needs("processes"), pytest.mark.filterwarnings("ignore")]  # of the libraries

N, BATCH, EPOCHS = 70, 16, 2
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
ROWS = {"number": np.arange(N), "x": X, "y": X[:, :1] * 2}


@pytest.mark.long
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
    assert seen == batches()
    assert loader.epoch == EPOCHS


def batches():
    """The rows of each batch of all epochs."""
    data = Shuffled(ROWS, seed=1, batch=BATCH)
    return [batch["number"].tolist() for epoch in range(EPOCHS) for batch in data.batches(epoch)]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_trainer_of_lightning_keeps_the_loaders_state_in_its_checkpoints(workers, tmp_path):
    import pytorch_lightning as lightning
    import torch
    from pytorch_lightning.callbacks import Callback, ModelCheckpoint

    from hooke.frameworks.torch import ShuffledLoader

    seen = []

    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(3, 1)

        def training_step(self, batch, number):
            seen.append(batch.data["number"].tolist())
            return torch.nn.functional.mse_loss(self.line(batch.data["x"]), batch.data["y"]) * batch.weight

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Fails(Callback):
        def on_train_batch_start(self, trainer, module, batch, number):
            if trainer.global_step == 8:
                raise KeyError("the ninth step")

    def fit(callbacks, **options):
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        loader = ShuffledLoader(Shuffled(ROWS, seed=1, batch=BATCH), num_workers=workers)
        trainer.fit(Line(), loader, **options)

    saves = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=7)
    with pytest.raises(KeyError):
        fit([saves, Fails()])
    assert seen == batches()[:8]
    seen.clear()
    fit([], ckpt_path=tmp_path / "step=7.ckpt")
    assert seen == batches()[7:]
