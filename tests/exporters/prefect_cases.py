"""In Prefect's environment, beside a server: runs flows of the working directory, and writes how each ended and what it logged, as JSON."""

import importlib
import json
import sys
import time
from pathlib import Path

from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

WITHIN_S = 120.0


def started(module: str, flow: str, given: dict, *, deployed: bool):
    """The state in which a flow ended, of this process or of who serves it."""
    if not deployed:
        return getattr(importlib.import_module(module), flow)(**given, return_state=True)
    end = time.monotonic() + WITHIN_S
    while True:
        try:
            return run_deployment(
                f"{flow}/{flow}", parameters=given, timeout=WITHIN_S, poll_interval=0.2
            ).state
        except ObjectNotFound:
            assert time.monotonic() < end, "nobody serves it"
            time.sleep(0.2)


def logged(state, last: str) -> list[tuple[str, str]]:
    """What the server has of a flow run's log: (logger, line). Waits for the line that begins with `last`."""
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    end = time.monotonic() + WITHIN_S
    with get_client(sync_client=True) as client:
        while True:
            lines = [(each.name, each.message) for each in client.read_logs(log_filter=wanted)]
            if not last or any(line.startswith(last) for _, line in lines):
                return lines
            assert time.monotonic() < end, lines
            time.sleep(0.2)


def main() -> None:
    """Case -> [module, flow, parameters, whether it is deployed, how a line begins that its log will have]."""
    told = {}
    Secret(value={"token": "a token"}).save("service", overwrite=True)
    for name, (module, flow, given, deployed, last) in json.loads(sys.argv[1]).items():
        state = started(module, flow, given, deployed=deployed)
        result = state.result(raise_on_failure=False)
        told[name] = {
            "state": state.type.value,
            "result": result if state.is_completed() else f"{type(result).__name__}: {result}",
            "log": logged(state, last),
        }
    Path(sys.argv[2]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, "")
    main()
