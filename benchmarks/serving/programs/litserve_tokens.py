"""The same stream of tokens in LitServe: `python litserve_tokens.py PORT`. One request after the other, as its plain generators do."""

from __future__ import annotations

import sys
import time

import litserve
from counting import counted


class Tokens(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, prompt, context):
        for number in range(context["max_completion_tokens"] or context["max_tokens"]):
            began = time.thread_time_ns()
            letter = chr(97 + number % 26)
            counted(1, time.thread_time_ns() - began)
            yield letter


if __name__ == "__main__":
    server = litserve.LitServer(Tokens(spec=litserve.OpenAISpec()), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
