"""In Airflow's environment: runs DAGs of the folder of DAGs by `dag.test()`, and prints state and result of each as JSON."""

import json
import logging
import sys
from pathlib import Path

from airflow.dag_processing.dagbag import BundleDagBag


def main(cases: dict[str, dict]) -> None:
    """DAG -> the step whose result is wanted, and the configuration of the run."""
    folder = Path(sys.argv[1])
    bag = BundleDagBag(folder, bundle_path=folder, bundle_name="dags-folder")
    told = {"errors": {str(file): error for file, error in bag.import_errors.items()}}
    for name, case in cases.items():
        run = bag.dags[name].test(run_conf=case.get("conf"))
        instances = run.get_task_instances()
        told[name] = {
            "state": str(run.state),
            "result": instances[0].xcom_pull(task_ids=case["result"]),
            "tasks": sorted(
                (each.task_id, each.map_index, str(each.state), each.try_number) for each in instances
            ),
        }
    Path(sys.argv[3]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(json.loads(sys.argv[2]))
