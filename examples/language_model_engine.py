"""An existing engine as a service: `transformers serve` behind Hooke's front, for OpenAI's clients.

    pip install 'transformers[serving]' torch
    hooke serve examples/language_model_engine.py
    MODEL=./my-model hooke serve examples/language_model_engine.py --replicas 2

The engine's own command is all that is to be said. Others go in its place, such as
`vllm serve MODEL --host {host} --port {port} --tensor-parallel-size 2` with `gpus=2`.
"""

import os

from hooke import from_command

MODEL = os.environ.get("MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
"""A name on Hugging Face's hub, from where the engine loads it once, or a folder."""

chat = from_command(
    "chat",
    ["transformers", "serve", MODEL, "--host", "{host}", "--port", "{port}"],
    metrics=None,  # it has none, so Hooke counts from outside
    start_timeout="30m",
)
