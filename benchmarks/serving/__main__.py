"""Prints what a request costs on each server, beside the others in the same run, as a page of the documentation.

    python -m benchmarks.serving > docs/explanation/serving-speed.md
    python -m benchmarks.serving --quick --only mlserver,litserve         some of it, to look at

Some minutes. `wrk` is the client where it is installed (`apt-get install wrk`), else a client in Python that takes more of the
processor. Peers that do not fit the shared environment get one of their own, `.venv-NAME`, made on the first run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.measure import PROGRAMS, TOKEN, Server
from benchmarks.serving.page import KINDS, Row, page
from benchmarks.serving.peers import BARE, FAR, HOOKE, NEAR, ROOT, Peer

WARM_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long it is measured."""

    rounds: int
    seconds: float


class Comparison:
    """All of it, one kind of work after the other."""

    def __init__(self, plan: Plan, folder: Path, only: Sequence[str]) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self._plan = plan
        self._folder = folder
        self._only = only
        self._model = folder / MODEL

    def run(self, kinds: Sequence[str] = KINDS) -> None:
        """Measure."""
        prepare(self._folder)
        for kind in kinds:
            self._near(kind)

    def _near(self, kind: str) -> None:
        up: dict[str, Server] = {}
        try:
            for peer in NEAR:
                up[peer.title] = self._started(peer, kind)
            for peer in FAR:
                if kind in peer.asked and self._wanted(peer):
                    self._far(peer, kind, up)
            for _ in range(self._plan.rounds):
                for peer in NEAR:
                    self._window(peer, kind, up[peer.title])
        finally:
            for server in up.values():
                server.stop()

    def _far(self, peer: Peer, kind: str, up: dict[str, Server]) -> None:
        try:
            peer.install()
            server = self._started(peer, kind)
        except Exception as error:  # noqa: BLE001 - the table says why it has no figures
            self.rows[peer.title, kind].why_none = str(error)
            say(f"{peer.title}: {error}")
            return
        with server:
            for _ in range(self._plan.rounds):
                self._window(peer, kind, server)
                for near in (BARE, HOOKE):
                    self._window(near, kind, up[near.title])

    def _started(self, peer: Peer, kind: str) -> Server:
        asked = peer.asked[kind]
        row = self.rows.setdefault((peer.title, kind), Row())
        server = Server(
            [part.replace("{python}", str(peer.python())) for part in asked.command],
            folder=self._folder,
            model=self._model,
            python_path=() if peer.environment else (ROOT / "src",),
            environment=peer.variables,
        )
        server.start(asked.load(kind))
        row.start_s = server.start_s
        server.under(asked.load(kind), WARM_S)
        row.memory_mb = server.memory_mb()
        return server

    def _window(self, peer: Peer, kind: str, server: Server) -> None:
        window = server.under(peer.asked[kind].load(kind), self._plan.seconds)
        self.rows[peer.title, kind].windows.append(window)
        say(
            f"{kind:8} {peer.title:36} {window.cpu_us:8.1f} us {window.rate:8.0f}/s "
            f"p99 {window.p99_ms:7.1f} ms, batch {window.mean_batch:5.1f}"
        )

    def _wanted(self, peer: Peer) -> bool:
        name = peer.title.lower().replace(" ", "")
        return not self._only or name in self._only


MODEL = "model.pickle"


def prepare(folder: Path) -> None:
    """Write what the servers read: the model, Hooke's service, which keeps what it did beside its file, and the token."""
    fit(folder / MODEL)
    shutil.copy(PROGRAMS / "hooke_service.py", folder)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)


def fit(path: Path) -> None:
    """The regressor that all of them serve: gradient boosting, as in the flights example."""
    import pickle

    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor

    chance = np.random.default_rng(0)
    x = chance.normal(size=(2000, 8))
    made = HistGradientBoostingRegressor(max_iter=100).fit(x, x[:, 0] * x[:, 1] + x[:, 2])
    path.write_bytes(pickle.dumps(made))


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--only", default="", help="of the peers, these; `none` for none")
    given = parser.parse_args()
    plan = Plan(1, 1.0) if given.quick else Plan(3, 2.0)
    with tempfile.TemporaryDirectory(prefix="serving", ignore_cleanup_errors=True) as folder:
        comparison = Comparison(plan, Path(folder), [name for name in given.only.split(",") if name])
        comparison.run()
        print(page(comparison.rows))


if __name__ == "__main__":
    main()
