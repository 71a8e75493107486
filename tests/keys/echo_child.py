"""A long-lived process: reads pickled values, writes their keys, one line each."""

import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from hooke.keys import fingerprint_value

if __name__ == "__main__":
    while size := sys.stdin.buffer.read(8):
        values = pickle.loads(sys.stdin.buffer.read(int.from_bytes(size, "little")))
        print(*map(fingerprint_value, values), flush=True)
