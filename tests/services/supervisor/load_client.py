"""A client process: `python load_client.py URL TOKEN THREADS FACTORS`. Asks until its standard input ends, and prints counts as JSON.

Each answer is checked against its request: all its rows times one of the factors. What fails is counted with its reason, and
never asked again.
"""

import http.client
import json
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

THINK_S = 0.04


class Caller(threading.Thread):
    def __init__(self, url: str, token: str, first: int, factors: list[int], ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self.place = urlsplit(url)
        self.headers = {"content-type": "application/json"}
        if token:
            self.headers["authorization"] = f"Bearer {token}"
        self.number = first
        self.factors = factors
        self.ended = ended
        self.right = 0
        self.failed: Counter[str] = Counter()

    def run(self) -> None:
        connection = self.connected()
        while not self.ended.wait(THINK_S):
            self.number += 1
            try:
                connection.request("POST", "/predict", json.dumps({"rows": [self.number, 7]}), self.headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed[type(error).__name__] += 1
                connection.close()
                connection = self.connected()
                time.sleep(0.05)
                continue
            if answer.status != 200:
                self.failed[f"{answer.status} {body[:200]!r}"] += 1
            elif json.loads(body) not in [[factor * self.number, factor * 7] for factor in self.factors]:
                self.failed[f"wrong: {self.number} gave {body!r}"] += 1
            else:
                self.right += 1
        connection.close()

    def connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=20)


def main() -> None:
    url, token, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    factors = [int(factor) for factor in sys.argv[4].split(",")]
    ended = threading.Event()
    callers = [Caller(url, token, 1_000_000 * number, factors, ended) for number in range(threads)]
    for caller in callers:
        caller.start()
    sys.stdin.read()
    ended.set()
    for caller in callers:
        caller.join()
    failed = sum((caller.failed for caller in callers), Counter())
    print(json.dumps({"right": sum(caller.right for caller in callers), "failed": failed}))


if __name__ == "__main__":
    main()
