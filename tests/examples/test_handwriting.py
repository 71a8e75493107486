"""examples/serving: the network is trained, registered and served, and names what it is shown."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hooke.models.registry_protocol import parse_wanted
from hooke.project.folder import Project
from hooke.services.serve_file import load_service, setup_arguments
from hooke.testing import client

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(800)]

FILE = Path(__file__).parents[2] / "examples" / "serving" / "handwriting.py"


@pytest.mark.long
def test_it_is_trained_registered_and_served(tmp_path, lay_tables):
    lay_tables(tmp_path)
    file = tmp_path / "handwriting.py"
    file.write_text(FILE.read_text("utf-8"), "utf-8")
    for said in ("digits:1 (skops), now @champion", "digits is not registered: accuracy"):
        done = subprocess.run(
            [sys.executable, "handwriting.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert said in done.stdout, done.stderr
    declared, path = load_service(str(file))
    given = setup_arguments(Project.find(path), {"model": parse_wanted("digits@champion")})
    images, digits = map(np.asarray, load_digits(return_X_y=True))
    with client(declared.made_by, **given) as served:
        answers = served.post("/predict", {"images": images[1437:].tolist()})
        assert np.mean(answers.json() == digits[1437:]) > 0.88
        first, *others, end = served.post("/guesses", {"image": images[1500].tolist()}).events()
        assert (first[1]["digit"], len(others), end) == (digits[1500], 9, ("end", None))
        refused = served.post("/predict", {"images": [[1, 2, 3]]})
        assert (refused.status, refused.json()["detail"]) == (422, "images: an image is a list of 64 numbers")
