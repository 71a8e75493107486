"""A real browser without a window: Chromium, driven by its DevTools protocol. It resolves no name and reaches loopback only."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

SWITCHES = (
    "--headless",
    "--no-sandbox",  # tests may run as root, in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-client-side-phishing-detection",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--disable-sync",
    "--metrics-recording-only",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
PATIENCE_S = 60.0


class Browser:
    """One page. `troubles` are errors of its console, exceptions and violations of a policy; `asked` the addresses it asked for."""

    def __init__(self) -> None:
        program = shutil.which("chromium")
        assert program, "chromium is missing: apt-get install chromium (.ci/run does)"
        self._folder = tempfile.mkdtemp(prefix="hooke-browser-")
        self._process = subprocess.Popen(
            [program, *SWITCHES, f"--user-data-dir={self._folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.troubles: list[str] = []
        self.asked: list[str] = []
        self._number = 0
        try:
            self._socket = connect(self._address(), max_size=None, compression=None, proxy=None)
            targets = self._call("Target.getTargets")["targetInfos"]
            page = next(each["targetId"] for each in targets if each["type"] == "page")
            self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _address(self) -> str:
        """Where it listens: it writes its port into a file."""
        file, deadline = Path(self._folder, "DevToolsActivePort"), time.monotonic() + PATIENCE_S
        while not file.exists() or len(file.read_text().splitlines()) < 2:
            assert self._process.poll() is None, "chromium has ended"
            assert time.monotonic() < deadline, "chromium does not start"
            time.sleep(0.02)
        port, path = file.read_text().splitlines()[:2]
        return f"ws://127.0.0.1:{port}{path}"

    @property
    def pid(self) -> int:
        """Of its main process."""
        return self._process.pid

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """A method of the page's session."""
        return self._call(method, session=self._session, **given)

    def _call(self, method: str, *, session: str = "", **given: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self, timeout: float = PATIENCE_S) -> dict[str, Any]:
        event = json.loads(self._socket.recv(timeout=timeout))
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.troubles.append(str(event["params"]["exceptionDetails"]))
            case "Log.entryAdded" if event["params"]["entry"]["level"] == "error":
                self.troubles.append(str(event["params"]["entry"]))
            case "Runtime.consoleAPICalled" if event["params"]["type"] in ("error", "assert"):
                self.troubles.append(str(event["params"]))
            case "Network.requestWillBeSent":
                self.asked.append(event["params"]["request"]["url"])
            case _:
                pass
        return event

    def open(self, address: str) -> None:
        """Go there and wait for the page to have loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, code: str) -> Any:
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, code: str) -> float:
        """Wait until the expression is true; returns the seconds that took."""
        began = time.monotonic()
        while not self.js(code):
            assert time.monotonic() - began < PATIENCE_S, f"never true: {code}; {self.troubles}"
            time.sleep(0.02)
        return time.monotonic() - began

    def look(self, *, width: int, height: int = 900, theme: str = "light") -> None:
        """How wide the page is, and which colors its reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def picture(self, file: Path) -> None:
        """The whole page, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        made = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(made["data"]))

    def close(self) -> None:
        """End it and remove its folder."""
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
