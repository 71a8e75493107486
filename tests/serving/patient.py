"""A service whose server waits for little, so that tests need not wait long: python patient.py TOKEN_FILE."""

import sys
from pathlib import Path

from tests.serving.services import Kinds, Rows

from hooke import service
from hooke.serving.gate import Gate
from hooke.serving.patience import Patience
from hooke.serving.replica import Replica
from hooke.serving.server import bind, serve
from hooke.serving.service import service_of


@service(max_batch=8, timeout="2s")
class Patient:
    """A method of each kind."""

    async def echo(self, x: list[float]) -> list[float]:
        return x

    def rows(self, rows: list[int]) -> list[int]:
        return rows

    def large(self, n: int) -> str:
        return "x" * n

    def endless(self):
        while True:
            yield "x" * 1000


KINDS = {"Patient": Patient, "Kinds": Kinds, "Rows": Rows}

if __name__ == "__main__":
    _, name, token, connections = sys.argv
    patience = Patience(head_s=1.0, idle_s=2.0, stall_s=2.0, connections=int(connections))
    gate = Gate(token=Path(token).read_text().strip()) if token else Gate()
    replica = Replica(service_of(KINDS[name]), body_limit=1 << 20, gate=gate, patience=patience)
    listening = bind(0)
    serve(replica, dict, listening, ready=lambda: print(listening.getsockname()[1], flush=True))
