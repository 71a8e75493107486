"""Language models of real processes. As many requests a second as before, with long answers, and one goes from one replica to three and back; an engine is scaled by its open requests."""

import asyncio
import sys
import time
from pathlib import Path

import openai
import pytest
from tests.services.supervisor.supervised import Supervised, end_all, facts_of
from tests.serving.openai import paged_model, stand_in_engine
from tests.serving.openai.paged_model import END

pytestmark = pytest.mark.needs("processes")

MODEL = """

@service(protocol="openai", replicas=(1, 3), timeout="60s", idempotent=True)
class Slow(Paged):
    def setup(self):
        super().setup(slots=4, pages=400, context=400, step_tokens=32)

    def step(self, pieces):
        import time

        time.sleep(0.01 + 0.005 * len(pieces))
        return super().step(pieces)
"""
EVERY_S = 0.4
SHORT, LONG = 4, 120
LIMIT_S = 120.0


class Users:
    """One request every EVERY_S seconds, whatever the answers do; what was asked and what came."""

    def __init__(self, service: Supervised) -> None:
        self.client = openai.AsyncOpenAI(
            base_url=f"{service.url}/v1", api_key=service.token, max_retries=0, timeout=LIMIT_S
        )
        self.asked: list[asyncio.Task[tuple[str, int, str]]] = []

    async def ask(self, most: int) -> tuple[str, int, str]:
        prompt = f"{len(self.asked)} asks"
        answer = await self.client.completions.create(
            model="Slow", prompt=prompt, temperature=0, max_tokens=most, logit_bias={str(END): -100}
        )
        return prompt, most, answer.choices[0].text

    async def until(self, true, most: int) -> None:
        end = time.monotonic() + LIMIT_S
        while not true():
            assert time.monotonic() < end, "it did not come to that"
            self.asked.append(asyncio.create_task(self.ask(most)))
            await asyncio.sleep(EVERY_S)


async def burst(service: Supervised, folder: Path) -> tuple[list[tuple[str, int, str]], dict[str, int]]:
    """Short answers, long ones until there are three replicas, and short ones until there is one again."""
    users, counts = Users(service), {}

    def replicas() -> int:
        facts = facts_of(folder, "Slow")
        return sum(one["state"] == "ready" for one in facts["replicas"]) if facts else 0

    began = time.monotonic()
    await users.until(lambda: time.monotonic() - began > 8, SHORT)
    counts["short"] = replicas()
    await users.until(lambda: replicas() == 3, LONG)
    counts["long"] = replicas()
    told = [one["tokens"] for one in facts_of(folder, "Slow")["replicas"] if one["tokens"] is not None]
    assert max(each["tokens_per_s"] for each in told) > 0, "the status has what they computed"
    assert max(each["next_p95_s"] or 0 for each in told) > 0.01
    await users.until(lambda: replicas() == 1, SHORT)
    answers = await asyncio.gather(*users.asked)
    await users.client.close()
    return answers, counts


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_long_answers_bring_replicas_that_their_number_alone_would_not(tmp_path):
    source = Path(paged_model.__file__).read_text()
    (tmp_path / "model.py").write_text(source + MODEL)
    service = Supervised(tmp_path, "--healthy", "1", "--replicas", "1:3", file="model.py:Slow")
    try:
        service.until_ready(1)
        answers, counts = asyncio.run(burst(service, tmp_path))
        assert service.end() == 0
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
        end_all(tmp_path)
    assert counts == {"short": 1, "long": 3}
    changes = [line for line in service.text.splitlines() if "1 -> 2" in line or "tokens" in line]
    assert any("tokens" in line for line in changes), service.text
    for prompt, most, text in answers:
        assert len(text) == most, "no answer is lost or cut"
        assert text == spoken(prompt, most)


def spoken(prompt: str, most: int) -> str:
    """The model's own answer, which may not end."""
    import numpy as np

    tokens = list(prompt.encode())
    for _ in range(most):
        logits = paged_model.logits_after(tokens)
        logits[END] -= 100
        tokens.append(int(np.argmax(logits)))
    return bytes(tokens[len(prompt) :]).decode()


ENGINE = """
from hooke import from_command

chat = from_command("chat", {command!r}, concurrency=2, metrics=None, replicas=(1, 2), timeout="60s")
"""


async def streams(service: Supervised, folder: Path) -> list[int]:
    """Four streams in one engine, until there are two engines; how many tokens each had."""
    client = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.token, max_retries=0)
    scaled = asyncio.Event()

    async def ask() -> int:
        body = {"gap_s": 0.1}
        stream = await client.chat.completions.create(
            model="any", messages=[], max_tokens=10_000, stream=True, extra_body=body
        )
        seen = 0
        async with stream:
            async for _ in stream:
                seen += 1
                if scaled.is_set():
                    break
        return seen

    asked = [asyncio.create_task(ask()) for _ in range(4)]
    end = time.monotonic() + LIMIT_S
    while (
        sum(one["state"] == "ready" for one in (facts_of(folder, "chat") or {"replicas": ()})["replicas"]) < 2
    ):
        assert time.monotonic() < end, service.text
        assert not any(one.done() for one in asked), service.text
        await asyncio.sleep(0.3)
    scaled.set()
    counts = await asyncio.gather(*asked)
    await client.close()
    return counts


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_an_engine_is_scaled_by_its_open_requests(tmp_path):
    command = [sys.executable, stand_in_engine.__file__, "--port", "{port}"]
    (tmp_path / "chat.py").write_text(ENGINE.format(command=command))
    service = Supervised(tmp_path, "--healthy", "1", file="chat.py")
    try:
        service.until_ready(1)
        assert min(asyncio.run(streams(service, tmp_path))) > 0
        assert service.end() == 0
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
        end_all(tmp_path)
    service.until(r"1 -> 2.* requests wait or run, and 2 a replica are assumed to be fine")
