"""examples/notebooks: each runs from a clean kernel, fails only where it says so, and shows what its text promises."""

import os
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("processes")

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
SHOWN = {
    "first_pipeline": ["<svg", "finished</b>", ">best</td>", "Cell In[6]:3: return price / of", "0.428571"],
    "scaling": [
        "COST",
        "round 2 of 2 is done",
        "<svg",
        ">speedup</th>",
        ">efficiency</th>",
        "recommended",
        "this machine, ",
    ],
    "looking_at_runs": [
        "fitting depth 3 at rate 0.2",
        ">error</td>",
        ">report.txt</td>",
        "metrics.error",
        "[0, 1, 2, 3, 4, 5]",
    ],
}
"""What is in the outputs of a notebook."""


@pytest.mark.long
@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_does_what_it_says(file, tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), (
        "outputs would be of one machine and of one day: jupyter nbconvert --clear-output --inplace"
    )
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    }
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment)
    told = [text for cell in cells for output in cell.outputs for text in texts_of(output)]
    missing = [words for words in SHOWN[file.stem] if not any(words in text for text in told)]
    assert not missing, "\n".join(told)
    expected = [cell for cell in cells if "raises-exception" in cell.metadata.get("tags", ())]
    assert [any(output.output_type == "error" for output in cell.outputs) for cell in expected] == [
        True
    ] * len(expected)
    assert not re.search(r"ipykernel_\d", "\n".join(told)), "a file of the kernel, which nobody can open"
    for cell in cells:
        displays = [output for output in cell.outputs if output.output_type == "display_data"]
        assert len(displays) <= 2, "progress is updated in place"
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], "shown in red"


def texts_of(output):
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return output.traceback
    return list(map(str, output.data.values()))
