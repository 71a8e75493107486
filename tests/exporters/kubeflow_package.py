"""Runs a compiled package of Kubeflow Pipelines: each container's command as a process here, one after another.

It knows what packages of `hooke export kubeflow --pods` have: parameters, constants with placeholders, loops and retries.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

__all__ = ["Package"]

INPUT = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
OUTPUT = re.compile(r"\{\{\$\.outputs\.parameters\['([^']+)'\]\.output_file\}\}")


class Package:
    """A PipelineSpec as JSON. `environment` is that of its processes; `ran` counts them by the executor's first argument."""

    def __init__(self, spec, environment):
        self.components = spec["components"]
        self.executors = spec["deploymentSpec"]["executors"]
        self.root = spec["root"]
        self.environment = environment
        self.ran = []

    def run(self):
        """The parameters that the pipeline returns."""
        return self._dag(self.root, {})

    def _dag(self, component, given):
        done = {}
        waiting = dict(component["dag"]["tasks"])
        while waiting:
            name = next(
                name for name, task in waiting.items() if done.keys() >= {*task.get("dependentTasks", ())}
            )
            done[name] = self._task(waiting.pop(name), given, done)
        outputs = component["dag"].get("outputs", {}).get("parameters", {})
        chosen = {name: each["valueFromParameter"] for name, each in outputs.items()}
        return {
            name: done[each["producerSubtask"]][each["outputParameterKey"]] for name, each in chosen.items()
        }

    def _task(self, task, given, done):
        inputs, constants = {}, {}
        for name, each in task.get("inputs", {}).get("parameters", {}).items():
            if "runtimeValue" in each:
                constants[name] = each["runtimeValue"]["constant"]
            elif "componentInputParameter" in each:
                inputs[name] = given[each["componentInputParameter"]]
            else:
                made = each["taskOutputParameter"]
                inputs[name] = done[made["producerTask"]][made["outputParameterKey"]]
        inputs |= {name: filled(value, inputs) for name, value in constants.items()}
        component = self.components[task["componentRef"]["name"]]
        if "parameterIterator" not in task:
            return self._component(component, inputs, task)
        loop = task["parameterIterator"]
        items = inputs[loop["items"]["inputParameter"]]
        rounds = [self._component(component, inputs | {loop["itemInput"]: item}, {}) for item in items]
        return {
            name: [each[name] for each in rounds] for name in component["outputDefinitions"]["parameters"]
        }

    def _component(self, component, inputs, task):
        if "dag" in component:
            return self._dag(component, inputs)
        container = self.executors[component["executorLabel"]]["container"]
        for _ in range(task.get("retryPolicy", {}).get("maxRetryCount", 0)):
            try:
                return self._container(container, component, inputs)
            except subprocess.CalledProcessError:
                pass
        return self._container(container, component, inputs)

    def _container(self, container, component, inputs):
        with tempfile.TemporaryDirectory() as folder:
            words = [
                OUTPUT.sub(lambda found: f"{folder}/{found[1]}", filled(word, inputs))
                for word in (*container["command"], *container["args"])
            ]
            self.ran.append(inputs.get("target", "items"))
            subprocess.run(words, env=self.environment, check=True, timeout=300)
            kinds = {
                name: each["parameterType"]
                for name, each in component["outputDefinitions"]["parameters"].items()
            }
            texts = {name: Path(folder, name).read_text("utf-8") for name in kinds}
        return {
            name: json.loads(text) if kinds[name] == "LIST" else text.strip() for name, text in texts.items()
        }


def filled(value, inputs):
    """A constant or a word of a command with the inputs in the places of placeholders."""
    if not isinstance(value, str):
        return value
    return INPUT.sub(lambda found: as_text(inputs[found[1]]), value)


def as_text(value):
    return value if isinstance(value, str) else json.dumps(value)
