"""`mlserver start` with one model; its settings are files, which are written here first.

python mlserver_start.py Echo|Predict PORT
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    name, port = sys.argv[1:]
    settings = {
        "host": "127.0.0.1", "http_port": int(port), "grpc_port": free_port(), "metrics_port": free_port(),
        "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    model = {"name": "m", "implementation": f"mlserver_models.{name}"}
    if name == "Predict":
        model |= {"max_batch_size": 64, "max_batch_time": 0.002}
    folder = Path(f"mlserver-{port}")
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = str(Path(sys.executable).with_name("mlserver"))
    os.execv(command, [command, "start", str(folder)])
