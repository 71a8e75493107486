"""The example: a transformer in PyTorch, served token by token from pages, says what it says when it computes all at once."""

import asyncio
import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.serving.openai.conftest import Served, served

EXAMPLE = Path(__file__).parents[3] / "examples" / "language_model.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("language_model", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def zen(example):
    with served(example.Zen) as made:
        yield made


def alone(example, model, prompt: str, most: int) -> str:
    """The model's own answer: all tokens computed anew for each."""
    tokens = list(prompt.encode())
    with torch.inference_mode():
        while len(tokens) < len(prompt) + most:
            token = int(np.argmax(model.whole(torch.tensor(tokens))[-1].numpy()))
            if token == example.END:
                break
            tokens.append(token)
    return bytes(tokens[len(prompt) :]).decode(errors="replace")


def test_it_knows_the_zen(zen):
    with zen.client() as client:
        answer = client.chat.completions.create(
            model="Zen", messages=[{"role": "user", "content": "Beautiful is better"}], temperature=0
        )
    assert answer.choices[0].message.content == " than ugly."


def test_what_is_served_is_what_the_model_says(example, zen):
    draw = random.Random(2)
    prompts = [example.ZEN[at : at + draw.randint(1, 60)] for at in draw.choices(range(700), k=60)]

    async def all_at_once(it: Served):
        async with it.async_client() as client:
            asked = [
                client.completions.create(model="Zen", prompt=each, temperature=0, max_tokens=30)
                for each in prompts
            ]
            return [each.choices[0].text for each in await asyncio.gather(*asked)]

    answers = asyncio.run(all_at_once(zen))
    assert answers == [alone(example, zen.model.model, prompt, 30) for prompt in prompts]
    assert zen.replica._openai._engine.steps < 60 * 31 / 4, "they ran together"
