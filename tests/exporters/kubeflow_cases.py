"""In the environment of Kubeflow Pipelines: compiles exported files, parses the packages back, and runs some by its SubprocessRunner.

Writes as JSON, for each file, the package, and what its pipeline returned if it ran.
"""

import importlib
import json
import sys
from pathlib import Path

import yaml
from google.protobuf import json_format
from kfp import compiler, local
from kfp.pipeline_spec import pipeline_spec_pb2


def main() -> None:
    """`MODULE,... MODULE,... TOLD`: those to compile, those of them to run, and where to write."""
    compiled, running = (list(filter(None, names.split(","))) for names in sys.argv[1:3])
    told = {}
    for name in compiled:
        pipeline = importlib.import_module(name).main
        compiler.Compiler().compile(pipeline, f"{name}.yaml")
        package, *platform = yaml.safe_load_all(Path(f"{name}.yaml").read_text())
        spec = json_format.ParseDict(package, pipeline_spec_pb2.PipelineSpec())
        told[name] = {"package": json_format.MessageToDict(spec), "platform": platform, "output": None}
    local.init(runner=local.SubprocessRunner(use_venv=False))
    for name in running:
        told[name]["output"] = importlib.import_module(name).main().output
    Path(sys.argv[3]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, "")
    main()
