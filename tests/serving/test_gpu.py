"""A real network of PyTorch as a service: on a GPU where there is one (`HOOKE_REQUIRE=gpu make test` fails without one), and the same on the CPU everywhere."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hooke import service
from hooke.testing import client

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

ROWS = np.random.default_rng(3).normal(size=(200, 64)).astype(np.float32)
EXAMPLE = Path(__file__).parents[2] / "examples" / "embeddings" / "embeddings.py"
EMBED = """
import sys
import numpy as np
from embeddings import Embeddings
from hooke.testing import client

texts = ["When do I fly?", "Snow has closed the airport until tomorrow."]
with client(Embeddings, device=sys.argv[1]) as served, client(Embeddings, device="cpu") as plain:
    assert served.service.model.device.type == sys.argv[1]
    answers = [np.array(made.post("/embed", {"texts": texts}).json()) for made in (served, plain)]
print(np.abs(answers[0] - answers[1]).max())
"""


@service(max_batch=64, timeout="60s")
class Network:
    """Three layers with chance from a seed."""

    def setup(self, device: str) -> None:
        import torch

        torch.manual_seed(7)
        layers = [torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8)]
        self.network = torch.nn.Sequential(*layers).double().to(device)
        self.device = device
        self.batches: list[int] = []

    def predict(self, rows: NDArray[np.float32]) -> np.ndarray:
        import torch

        self.batches.append(len(rows))
        with torch.inference_mode():
            there = torch.from_numpy(rows).to(self.device, torch.float64)
            return self.network(there).cpu().numpy()


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.needs("gpu"))])
def device(request):
    return request.param


def test_many_callers_get_what_the_network_gives_them_on_the_cpu(device):
    with client(Network, device="cpu") as plain:
        expected = np.array(plain.post("/predict", {"rows": ROWS.tolist()}).json())
    with client(Network, device=device) as served, ThreadPoolExecutor(16) as threads:
        parts = np.array_split(ROWS, 50)
        answers = threads.map(lambda part: served.post("/predict", {"rows": part.tolist()}).json(), parts)
        given = np.concatenate([np.array(answer) for answer in answers])
        network = served.service
        assert next(network.network.parameters()).device.type == device
        assert sum(network.batches) == len(ROWS)
    assert np.allclose(given, expected, atol=1e-9)


def test_a_tensor_of_the_other_protocol_goes_to_it_as_it_is(device):
    with client(Network, device=device) as served:
        header = b'{"inputs":[{"name":"rows","shape":[200,64],"datatype":"FP32","parameters":{"binary_data_size":51200}}]}'
        answer = served.request(
            "POST",
            "/v2/models/Network/infer",
            body=header + ROWS.tobytes(),
            headers={"inference-header-content-length": str(len(header))},
        )
        plain = served.post("/predict", {"rows": ROWS.tolist()}).json()
        (output,) = answer.json()["outputs"]
        assert output["shape"] == [200, 8]
        assert np.allclose(np.reshape(output["data"], (200, 8)), plain, atol=1e-12)


@pytest.mark.needs("gpu")
def test_the_transformer_of_the_examples_gives_the_same_vectors_on_a_gpu(tmp_path):
    device = "cuda"
    (tmp_path / "embeddings.py").write_text(EXAMPLE.read_text())
    (tmp_path / "compare.py").write_text(EMBED)
    words = [sys.executable, "compare.py", device]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 1e-4
