"""examples/embeddings: a real transformer, served; texts of several callers in one batch, the same vectors over both protocols."""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

FOLDER = Path(__file__).parents[2] / "examples" / "embeddings"
TOKEN = "a-token-of-the-tests"
ASKED = {
    "When do I fly?": "The plane to Boston leaves at seven in the evening.",
    "May I bring my poodle?": "Dogs and cats travel in a box in the hold.",
    "How heavy may my luggage be?": "Your suitcase may weigh up to 23 kilograms.",
}


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Where the service answers."""
    folder = tmp_path_factory.mktemp("embeddings")
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    (folder / "embeddings.py").write_text((FOLDER / "embeddings.py").read_text())
    words = ["serve", "embeddings.py", "--port", "0", "--with", "device=cpu", "--token-file", "token"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hooke", *words], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    try:
        said = ""
        while "answers: POST" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield int(re.search(r"on http://127\.0\.0\.1:(\d+)$", said, re.MULTILINE)[1])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def embedded(client, texts):
    given = triton.InferInput("texts", [len(texts)], "BYTES").set_data_from_numpy(
        np.array(texts, dtype=object)
    )
    ends = time.monotonic() + 120
    while True:
        try:
            return client.infer("Embeddings", [given], headers={"Authorization": f"Bearer {TOKEN}"}).as_numpy(
                "embed"
            )
        except triton.InferenceServerException as refused:
            if refused.status() != "429" or time.monotonic() > ends:
                raise
            time.sleep(1)  # as the answer says; on a busy machine too few are answered in time


@pytest.mark.long
def test_the_nearest_sentence_answers_the_question(port, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    words = ["--at", f"http://127.0.0.1:{port}", "--token-file", str(tmp_path / "token")]
    done = subprocess.run(
        [sys.executable, FOLDER / "nearest.py", *ASKED, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = dict(line.rpartition(" (")[0].split(" -> ") for line in done.stdout.splitlines())
    assert told == ASKED


def test_a_text_has_the_same_vector_alone_and_among_others(port):
    texts = [f"Flight {at} to Boston is late" + " again" * (at % 7) for at in range(24)]

    def ask(part):
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            return embedded(client, part)

    with ThreadPoolExecutor(8) as threads:
        alone = np.concatenate(list(threads.map(ask, [[text] for text in texts])))
    together = ask(texts)
    assert together.shape == alone.shape == (24, 384)
    assert together.dtype == np.float32
    assert np.allclose(alone, together, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@pytest.mark.long
def test_a_text_that_is_too_long_is_the_callers_fault(port):
    with (
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
        pytest.raises(triton.InferenceServerException, match="at most 10,000 characters"),
    ):
        embedded(client, ["x" * 10_001])


def test_nobody_there_is_said_with_what_to_start(tmp_path):
    words = ["When?", "--at", "http://127.0.0.1:9", "--token-file", str(tmp_path / "none")]
    for said in ("No such file", "Connection refused"):
        done = subprocess.run(
            [sys.executable, FOLDER / "nearest.py", *words],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.splitlines()[-1].startswith("next: hooke serve ")
        (tmp_path / "none").write_text(TOKEN)
