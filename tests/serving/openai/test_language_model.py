"""The example: a transformer in PyTorch, served token by token from pages, says what it says when it computes all at once."""

import asyncio
import importlib.util
import random
from pathlib import Path

import numpy as np
import openai
import pytest
from tests.serving.openai.conftest import Served, served
from tests.support.sizes import choose_size

PROMPTS = choose_size(sample=20, full=60, soak=1_000)
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
    import torch

    tokens = list(prompt.encode())
    with torch.inference_mode():
        while len(tokens) < len(prompt) + most:
            device = next(model.parameters()).device
            token = int(np.argmax(model.whole(torch.tensor(tokens, device=device))[-1].cpu().numpy()))
            if token == example.END:
                break
            tokens.append(token)
    return bytes(tokens[len(prompt) :]).decode(errors="replace")


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_it_knows_the_zen(zen):
    with zen.client() as client:
        answer = client.chat.completions.create(
            model="Zen", messages=[{"role": "user", "content": "Beautiful is better"}], temperature=0
        )
    assert answer.choices[0].message.content == " than ugly."


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_what_is_served_is_what_the_model_says(example, zen):
    """In float64, so that no batch of another shape makes another token the likeliest. Every other answer is a stream."""
    draw = random.Random(2)
    count = PROMPTS
    prompts = [example.ZEN[at : at + draw.randint(1, 60)] for at in draw.choices(range(700), k=count)]

    async def ask(client: openai.AsyncOpenAI, number: int, prompt: str) -> str:
        asked = {"model": "Zen", "prompt": prompt, "temperature": 0, "max_tokens": 30}
        if number % 2:
            return (await client.completions.create(**asked)).choices[0].text
        async with await client.completions.create(**asked, stream=True) as events:
            return "".join([event.choices[0].text async for event in events])

    async def all_at_once(it: Served) -> list[str]:
        async with it.async_client() as client:
            return await asyncio.gather(*[ask(client, *each) for each in enumerate(prompts)])

    engine = zen.replica._openai._engine
    before = engine.steps, engine.tokens
    answers = asyncio.run(all_at_once(zen))
    steps, tokens = engine.steps - before[0], engine.tokens - before[1]
    assert answers == [alone(example, zen.model.model, prompt, 30) for prompt in prompts]
    assert steps < tokens / 4, "they ran together"


@pytest.mark.needs("gpu")
def test_on_a_gpu_it_says_the_same(example, zen):
    assert zen.model.device.type == "cuda"
    with zen.client() as client:
        answer = client.completions.create(model="Zen", prompt="Simple is", temperature=0, max_tokens=30)
    plain = example.trained()
    assert answer.choices[0].text == alone(example, plain, "Simple is", 30)
