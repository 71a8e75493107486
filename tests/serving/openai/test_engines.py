"""A real engine behind the front: `transformers serve` with a tiny Llama, asked by OpenAI's client."""

import runpy
import subprocess
import sys
from pathlib import Path

import openai
import psutil
import pytest
from tests.services.supervisor.supervised import Supervised, end_all, gone, kill, of_service
from tests.serving.openai.conftest import served
from tests.serving.openai.engine_checks import (
    MESSAGES,
    cancels,
    chats,
    dies,
    refuses,
    samples,
    streams,
)

from hooke import from_command
from hooke.services.shares import apply_share
from hooke.serving.service import service_of

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).parents[3] / "examples" / "language_model_engine.py"
TRANSFORMERS = str(Path(sys.executable).with_name("transformers"))
SERVICE = """
from hooke import from_command

chat = from_command("chat", {command!r}, environment={{"HF_HUB_OFFLINE": "1"}}, metrics=None{more})
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The folder of a model. It is written by a process of its own: an engine's libraries are not for this one."""
    folder = tmp_path_factory.mktemp("llama") / "tiny"
    subprocess.run(
        [sys.executable, "-m", "tests.serving.openai.tiny_llama", str(folder)], check=True, timeout=300
    )
    return folder


def command_of(llama):
    return [TRANSFORMERS, "serve", str(llama), "--host", "{host}", "--port", "{port}"]


@pytest.fixture(scope="module")
def engine(llama):
    """That of the example, with this model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL", str(llama))
        patch.setenv("HF_HUB_OFFLINE", "1")
        chat = runpy.run_path(str(EXAMPLE))["chat"]
        with served(chat) as made:
            yield made


@pytest.mark.long
def test_transformers_serve_behind_the_front(engine, llama):
    """One engine for all of it, since its start is what takes time; the last check ends it."""
    model = str(llama)
    with engine.client() as client:
        assert [each.id for each in client.models.list()] == [model]
        streams(client, model, chats(client, model))
        refuses(engine, client)
        windows = engine.replica.dispatch.windows.take(0.0)
        assert windows.arrived >= 3, "the autoscaler sees it"
        counted = samples(engine)
        assert counted["vllm:generation_tokens_total"] >= 36
        assert counted["vllm:time_to_first_token_seconds_count"] == 1
        assert counted["vllm:num_requests_running"] == 0
        assert "vllm:prefix_cache_hits_total" not in counted, "nobody knows it"
        cancels(engine, client, model)
        dies(engine, client, model, kill=psutil.Process.kill)


@pytest.mark.needs("gpu")
def test_an_engine_computes_on_the_gpu_that_it_gets(llama):
    words = [*command_of(llama), "--device", "cuda:0"]
    chat = from_command("chat", words, environment={"HF_HUB_OFFLINE": "1"}, metrics=None, gpus=1)
    apply_share(service_of(chat))
    with served(chat) as made, made.client() as client:
        streams(client, str(llama), chats(client, str(llama)))
        (engine,) = {each.pid for each in made.replica.made._processes()[1:2]}
        asked = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
        assert str(engine) in subprocess.run(asked, capture_output=True, text=True, check=True).stdout


@pytest.mark.long
def test_a_roll_out_loses_no_stream_and_nothing_outlives_a_killed_replica(llama, tmp_path):
    """By `hooke serve`, with its proxy: a new supervisor rolls another command out while an answer is streamed."""
    (tmp_path / "hooke.toml").touch()
    file = tmp_path / "chat.py"
    file.write_text(SERVICE.format(command=command_of(llama), more=""))
    words = ("--healthy", "1", "--replicas", "1", "--lease", "60", "--canary", "off")
    first, second = Supervised(tmp_path, *words, file="chat.py"), None
    try:
        first.until_ready(1)
        with openai.OpenAI(
            base_url=f"{first.url}/v1", api_key=first.token, max_retries=0, timeout=120
        ) as client:
            events = iter(
                client.chat.completions.create(
                    model=str(llama), messages=MESSAGES, max_tokens=150, stream=True, temperature=0
                )
            )
            next(events)
            old = {each.pid for each in of_service(tmp_path)}
            first.process.kill()
            first.process.wait()
            file.write_text(SERVICE.format(command=command_of(llama), more=", most_requests=99"))
            second = Supervised(tmp_path, *words, file="chat.py")
            rest = list(events)
            assert rest[-1].choices[0].finish_reason == "length"
        with openai.OpenAI(
            base_url=f"{second.url}/v1", api_key=second.token, max_retries=0, timeout=120
        ) as client:
            second.until("rolled out: chat.py:chat")
            second.until_ready(1)
            chats(client, str(llama))
        replicas = [each for each in of_service(tmp_path) if "replica_process" in " ".join(each.cmdline())]
        below = [each.pid for each in replicas[0].children(recursive=True)]
        assert len(below) >= 2, "a guard and the engine"
        assert not old & set(below)
        kill(replicas[0].pid)
        assert gone([replicas[0].pid, *below])
    finally:
        for one in filter(None, (first, second)):
            one.process.kill()
            one.process.wait()
        end_all(tmp_path)
