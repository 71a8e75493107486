"""What an answer says that went wrong, and waiting until something holds."""

import threading


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == answer.status
    return said


def wait_until(true):
    tick = threading.Event()
    for _ in range(2000):
        if true():
            return
        tick.wait(0.002)
    raise AssertionError("it did not come to that")
