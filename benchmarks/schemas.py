"""Answers of a model of random logits by many random schemas: each must follow its schema.

    python -m benchmarks.schemas --record

It runs what tests/serving/openai/test_constraints.py does, with more schemas, and measures how long a mask of tokens takes.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import hypothesis
from tests.serving.openai.scripted_model import END, TOKEN_BYTES
from tests.serving.openai.test_constraints import CASES, TREE, check

from hooke.serving.openai.constraints import TokenConstraints, constraining_grammar

RECORD = Path(__file__).with_name("records") / "schemas.json"
SEED = 7
TIMED = 300
"""Masks that are timed."""


def answers(most: int) -> dict[str, int]:
    """How many schemas were answered, with how many tokens. Raises if one is not followed."""
    sizes: list[int] = []

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=most,
        deadline=None,
        database=None,
        suppress_health_check=[*hypothesis.HealthCheck],
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(*CASES)
    def each(schema: dict[str, Any], seed: int, temperature: float) -> None:
        sizes.append(check(schema, seed, temperature))

    each()
    return {"schemas": len(sizes), "tokens": sum(sizes), "longest": max(sizes), "wrong": 0}


def masks(size: int) -> dict[str, float]:
    """Time of a mask and of a new schema with so many tokens, of which all but the first ones are pairs and triples of letters."""
    letters = [bytes([each]) for each in range(97, 123)]
    longer = [a + b + c for a in [b"", *letters] for b in letters for c in letters]
    more = [b" " + each for each in longer] + [b"x" + a + b for a in longer for b in letters]
    texts = [*TOKEN_BYTES, *longer, *more][:size]
    made = TokenConstraints(texts, {END})
    grammar = constraining_grammar(TREE, None, None)
    assert grammar is not None
    began = time.perf_counter()
    made.constraint(constraining_grammar({"type": "boolean"}, None, None) or "", "schema")
    tokens_s = time.perf_counter() - began
    began = time.perf_counter()
    constraint = made.constraint(grammar, "schema")
    constraint.allowed(size)
    schema_s = time.perf_counter() - began
    for token in b'{"name": "':
        constraint.take(token)
    times = []
    for _ in range(TIMED):
        began = time.perf_counter()
        constraint.allowed(size)
        times.append(time.perf_counter() - began)
    return {
        "tokens": size,
        "tokens_s": round(tokens_s, 3),
        "schema_ms": round(schema_s * 1e3, 2),
        "mask_us": round(statistics.median(times) * 1e6, 1),
    }


def table(record: dict[str, Any]) -> str:
    """What a mask takes."""
    lines = [
        f"| {each['tokens']:,} | {each['mask_us']:.0f} µs | {each['schema_ms']:.1f} ms | {each['tokens_s']:.2f} s |\n"
        for each in record["masks"]
    ]
    head = "| tokens of the model | mask of a token, median | new schema | once, with the first schema |\n"
    return f"{head}|---:|---:|---:|---:|\n" + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemas", type=int, default=5000)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    asked = parser.parse_args()
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": SEED,
        "answers": answers(asked.schemas),
        "masks": [masks(size) for size in (268, 16_384, 131_072)],
    }
    print(json.dumps(record["answers"]), table(record), sep="\n")
    if asked.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
