"""The servers of the comparison: how each is started, what it is asked, and the environment that it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.measure import PROGRAMS, Load

ROOT = Path(__file__).parents[2]
X = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
ECHO = json.dumps({"x": X})
ROW = json.dumps({"rows": [X]})
ROWS = json.dumps({"x": [X]})
CONNECTIONS = {"echo": 32, "rows": 64, "predict": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How it is started for one kind of work, and what it is sent then."""

    command: tuple[str, ...]
    path: str
    body: str

    def load(self, kind: str) -> Load:
        """With as many connections as that kind of work has for all."""
        return Load(path=self.path, body=self.body, connections=CONNECTIONS[kind])


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One server. `environment` is the name of an environment of its own, with what is installed there; none: the shared one."""

    title: str
    asked: Mapping[str, Asked]
    environment: str = ""
    needs: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def python(self) -> Path:
        """The Python that it runs on."""
        if not self.environment:
            return Path(sys.executable)
        return ROOT / f".venv-{self.environment}" / "bin" / "python"

    def install(self) -> None:
        """Make its environment, where it needs one that is not there. Raises CalledProcessError."""
        python = self.python()
        stamp = python.parents[1] / ".installed"
        if not self.environment or stamp.exists():
            return
        print(f"installing {', '.join(self.needs)} into {python.parents[1].name}: minutes", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *self.needs, *_same("numpy", "scikit-learn")], check=True)
        stamp.touch()


def _same(*names: str) -> list[str]:
    """These packages in the versions of the shared environment, for the pickled model."""
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in names]


def _program(name: str, *arguments: str) -> tuple[str, ...]:
    return ("{python}", str(PROGRAMS / name), *arguments)


def _by_hand(name: str) -> dict[str, Asked]:
    return {
        "echo": Asked(command=_program(name, "echo", "{port}"), path="/echo", body=ECHO),
        "rows": Asked(command=_program(name, "rows", "{port}"), path="/rows", body=ROW),
        "predict": Asked(command=_program(name, "predict", "{port}"), path="/predict", body=ROW),
    }


def served(name: str) -> tuple[str, ...]:
    """How Hooke serves this class."""
    options = ("--port", "{port}", "--token-file", "token")
    return ("{python}", "-m", "hooke", "serve", f"hooke_service.py:{name}", *options)


def _tensor(values: list[float], shape: list[int]) -> str:
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "FP64", "data": values}]})


FLOOR = Peer(title="httptools on uvloop, no features", asked=_by_hand("floor.py"))
BARE = Peer(title="bare ASGI on uvicorn, same batcher", asked=_by_hand("bare.py"))
HOOKE = Peer(
    title="Hooke",
    asked={
        "echo": Asked(command=served("Echo"), path="/echo", body=ECHO),
        "rows": Asked(command=served("Echo"), path="/rows", body=ROWS),
        "predict": Asked(command=served("Predict"), path="/predict", body=ROW),
    },
)
FASTAPI = Peer(
    title="FastAPI",
    asked={
        "echo": Asked(command=_program("fastapi_app.py", "{port}"), path="/echo", body=ECHO),
        "predict": Asked(command=_program("fastapi_app.py", "{port}"), path="/predict", body=ROW),
    },
)
LITSERVE = Peer(
    title="LitServe",
    asked={
        "echo": Asked(command=_program("litserve_app.py", "echo", "{port}"), path="/predict", body=ECHO),
        "predict": Asked(command=_program("litserve_app.py", "predict", "{port}"), path="/predict", body=ROW),
    },
)


def _bentoml(name: str, path: str, body: str) -> Asked:
    command = (
        "{python}",
        "-m",
        "bentoml",
        "serve",
        f"bentoml_service:{name}",
        "--working-dir",
        str(PROGRAMS),
    )
    return Asked(command=(*command, "--host", "127.0.0.1", "--port", "{port}"), path=path, body=body)


BENTOML = Peer(
    title="BentoML",
    asked={"echo": _bentoml("Echo", "/echo", ECHO), "predict": _bentoml("Predict", "/predict", ROW)},
    environment="bentoml",
    needs=("bentoml", "uvloop", "httptools"),
    variables={"BENTOML_DO_NOT_TRACK": "True"},
)
MLSERVER = Peer(
    title="MLServer",
    asked={
        "echo": Asked(
            command=_program("mlserver_start.py", "Echo", "{port}"),
            path="/v2/models/m/infer",
            body=_tensor(X, [8]),
        ),
        "predict": Asked(
            command=_program("mlserver_start.py", "Predict", "{port}"),
            path="/v2/models/m/infer",
            body=_tensor(X, [1, 8]),
        ),
    },
    environment="mlserver",
    needs=("mlserver", "uvloop", "httptools"),
)
RAYSERVE = Peer(
    title="Ray Serve",
    asked={
        "echo": Asked(command=_program("rayserve_app.py", "echo", "{port}"), path="/", body=ECHO),
        "predict": Asked(command=_program("rayserve_app.py", "predict", "{port}"), path="/", body=ROW),
    },
    environment="rayserve",
    needs=("ray[serve]",),
    variables={"RAY_USAGE_STATS_ENABLED": "0"},
)
NEAR = (FLOOR, BARE, HOOKE)
"""Those that are so near to each other that they are measured in turns."""
FAR = (FASTAPI, MLSERVER, LITSERVE, BENTOML, RAYSERVE)
