"""The same in LitServe.

python litserve_app.py echo|predict PORT
"""

from __future__ import annotations

import sys

import litserve
import numpy as np
from counting import count, model


class Echo(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["x"]

    def predict(self, x):
        count(1)
        return x

    def encode_response(self, output):
        return output


class Predict(litserve.LitAPI):
    def setup(self, device):
        self.model = model()

    def decode_request(self, request):
        return np.array(request["rows"])

    def batch(self, inputs):
        return np.concatenate(inputs)

    def predict(self, rows):
        count(len(rows))
        return self.model.predict(rows)

    def unbatch(self, output):
        return output[:, None]

    def encode_response(self, output):
        return output.tolist()


if __name__ == "__main__":
    what, port = sys.argv[1:]
    api = Echo() if what == "echo" else Predict(max_batch_size=64, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning", access_log=False
    )
