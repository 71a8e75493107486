"""The callbacks of docs/how-to/track.md, with the real trainers."""

from pathlib import Path

import pytest
from tests.house.snippets import blocks_of

from hooke.tracking.logged_values import Logged, logged_in

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "track.md"


def from_the_page(library: str, name: str) -> type:
    (block,) = [
        each
        for each in blocks_of(PAGE.read_text("utf-8"))
        if each.words.startswith(f"no-run needs {library};")
    ]
    names: dict[str, type] = {}
    # The smaller of Lightning's two distributions has the same under another name.
    exec(block.body.replace("lightning.pytorch", "pytorch_lightning"), names)
    return names[name]


def read(tracker) -> Logged:
    assert tracker.dropped.total is None
    return logged_in(tracker.folder)


def test_transformers(tracker, tmp_path):
    import transformers
    from transformers.trainer_callback import TrainerControl, TrainerState

    callback = from_the_page("transformers", "HookeCallback")()
    assert isinstance(callback, transformers.TrainerCallback)

    class Arguments:
        """The only thing that is asked of TrainingArguments."""

        def to_sanitized_dict(self):
            return {"learning_rate": 0.1}

    for first in (True, False):
        state = TrainerState(global_step=7, is_world_process_zero=first)
        callback.on_train_begin(Arguments(), state, TrainerControl())
        callback.on_log(Arguments(), state, TrainerControl(), logs={"loss": 0.5, "epoch": 1})
    found = read(tracker)
    assert [(point.name, point.value, point.step) for point in found.points] == [
        ("loss", 0.5, 7),
        ("epoch", 1.0, 7),
    ]
    assert [(param.name, param.value) for param in found.params] == [("learning_rate", "0.1")]


@pytest.mark.long
def test_a_real_trainer_of_transformers(tracker, tmp_path):
    import torch
    import transformers

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x):
            return {"loss": self.layer(x).pow(2).mean()}

    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"),
        max_steps=4,
        logging_steps=2,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
    )
    rows = [{"x": torch.rand(2)} for _ in range(32)]
    callback = from_the_page("transformers", "HookeCallback")()
    transformers.Trainer(Model(), arguments, train_dataset=rows, callbacks=[callback]).train()
    found = read(tracker)
    assert [point.step for point in found.metric("loss")] == [2, 4]
    assert "learning_rate" in {param.name for param in found.params}


@pytest.mark.long
def test_lightning(tracker):
    import pytorch_lightning as lightning
    import torch

    class Model(lightning.LightningModule):
        def __init__(self, rate=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, _):
            loss = self.layer(batch[0]).pow(2).mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.hparams.rate)

    rows = torch.utils.data.TensorDataset(torch.rand(32, 2))
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=from_the_page("lightning", "HookeLogger")(),
        log_every_n_steps=4,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    trainer.fit(Model(), torch.utils.data.DataLoader(rows, batch_size=4))
    found = read(tracker)
    assert [point.step for point in found.metric("loss")] == [3, 7]
    assert [(param.name, param.value) for param in found.params] == [("rate", "0.1")]


@pytest.mark.long
def test_keras(tracker, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    import keras
    import numpy as np

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.random.rand(32, 2), np.random.rand(32, 1)
    callback = from_the_page("keras", "HookeCallback")()
    model.fit(x, y, epochs=3, validation_split=0.25, verbose=0, callbacks=[callback])
    found = read(tracker)
    assert [point.step for point in found.metric("loss")] == [0, 1, 2]
    assert [point.step for point in found.metric("val_loss")] == [0, 1, 2]
