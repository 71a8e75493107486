"""`hooke fleet`, on processes of this machine."""

import json
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from click.testing import CliRunner

from hooke.base.errors import ConfigError, HookeError, UsageError
from hooke.base.files import FileLock
from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession
from hooke.fleets.fleet_folder import find_fleet
from hooke.project.backends import find_backend
from hooke.project.folder import Project

SLEEPER = "import time\nwhile True: time.sleep(0.1)"


def toml(code=SLEEPER, name="pool", more=""):
    return f"[fleets.{name}]\ncommand = {json.dumps([sys.executable, '-c', code])}\nmachines = 3\n{more}\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "hooke.toml").write_text(toml())
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOOKE_FLEET", "").startswith(str(tmp_path)):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def call(*words):
    """What the command prints on stdout. Raises what it raises."""
    return (
        CliRunner()
        .invoke(hooke, ["fleet", *words], obj=CommandSession(), catch_exceptions=False, standalone_mode=False)
        .stdout
    )


def listed():
    return json.loads(call("ls", "--json"))


@pytest.mark.needs("processes")
def test_a_fleet_is_scaled_listed_explained_and_ended(project):
    assert call("scale", "2") == "pool: 2 machines\n"
    assert [row["state"] for row in listed()] == ["ready", "ready"]
    call("scale", "pool", "1")
    assert len(listed()) == 1
    assert "2 are there and 1 are wanted" in call("why", "pool")
    assert call("reap") == f"pool: {listed()[0]['machine']} is wanted and stays\n"
    assert call("down") == "pool: 0 machines\n"
    assert listed() == []


CLUSTER = """
from dask.distributed import LocalCluster

MADE = []

def ours():
    MADE.append(LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50))
    return MADE[0]
"""


@pytest.mark.needs("processes")
def test_the_workers_of_a_dask_cluster_are_a_fleet_too(project):
    (project / "dask_clusters.py").write_text(CLUSTER)
    (project / "hooke.toml").write_text(
        '[fleets.pool]\nprovider = "dask"\ncluster = "dask_clusters.py:ours"\n'
    )
    assert call("scale", "2") == "pool: 2 machines\n"
    assert [row["state"] for row in listed()] == ["ready", "ready"]
    call("scale", "1")
    assert "2 are there and 1 are wanted, and had nothing to do" in call("why", "pool")
    assert call("reap") == f"pool: {listed()[0]['machine']} is wanted and stays\n"
    assert call("drain") == "pool: 0 machines\n"
    call("scale", "1")
    assert call("down") == "pool: 0 machines\n"
    assert listed() == []
    sys.modules["dask_clusters"].MADE.pop().close()


@pytest.mark.needs("processes")
def test_what_a_forgotten_fleet_left_is_reaped(project):
    call("scale", "2")
    (project / "hooke.toml").write_text("")
    assert len(listed()) == 2
    assert call("reap") == "no machines are left\n"
    assert listed() == []


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_second_controller_is_refused_and_one_that_stays_replaces_the_dead(project):
    words = [sys.executable, "-m", "hooke", "fleet", "scale", "1", "--keep"]
    keeper = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        first = await_machine()
        with pytest.raises(UsageError, match="another hooke fleet command is running for the fleet pool"):
            call("drain")
        for process in psutil.process_iter():
            if environment(process).get("HOOKE_MACHINE") == first:
                process.kill()
        assert await_machine(other_than=first) != first
    finally:
        keeper.kill()  # a controller that dies leaves its machines, and its ledger
        keeper.wait()
    assert call("drain") == "pool: 0 machines\n"
    assert listed() == []


def environment(process):
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


def await_machine(*, other_than=None):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        names = [row["machine"] for row in listed() if row["state"] != "stranger"]
        if names and names != [other_than]:
            return names[0]
        time.sleep(0.1)
    pytest.fail("no machine came")


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (("scale", "4"), UsageError, "may have at most 3 machines, not 4"),
        (("scale", "pol", "1"), UsageError, "did you mean pool"),
        (("scale", "pool", "many"), UsageError, "is not a fleet and a number"),
        (("why", "some-run"), UsageError, ""),
    ],
)
def test_what_makes_no_sense_is_refused(project, words, error, says):
    with pytest.raises(error) as refused:
        call(*words)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('lifetime = "soon"', "is not a duration"),
        ("usd_per_hour = -1", "usd_per_hour"),
        ('comand = ["x"]', "unexpected keyword argument 'comand'"),
        ("machine = 3", "did you mean fleets.pool.machines?"),
        ('[fleets."../pool"]\ncommand = ["x"]', "is not a valid fleet name"),
        ('[fleets.other]\ncommand = "python worker.py"', "write a list of words"),
        ("[fleets.other]\ncommand = []", "write a list of words"),
    ],
)
def test_settings_that_make_no_sense_are_refused(project, more, says):
    (project / "hooke.toml").write_text(toml(more=more))
    with pytest.raises(ConfigError) as refused:
        call("ls")
    assert says in str(refused.value)


def test_settings_that_were_wrong_are_not_kept(project):
    """Else what hooke.toml has forgotten could never be listed nor reaped again."""
    (project / "hooke.toml").write_text(toml(more="odd = 1"))
    with pytest.raises(ConfigError, match="'odd'"):
        call("scale", "1")
    (project / "hooke.toml").write_text("")
    assert call("reap") == "no machines are left\n"


def test_a_program_that_is_not_there_is_not_waited_for(project):
    (project / "hooke.toml").write_text('[fleets.pool]\ncommand = ["no-such-program"]\n')
    with pytest.raises(HookeError, match="cannot start no-such-program: No such file"):
        call("scale", "1")
    assert call("reap") == "no machines are left\n"


def test_one_fleet_that_cannot_be_reaped_does_not_keep_the_others(project):
    lock = FileLock(project / ".hooke" / "fleets" / "pool" / "controller.lock")
    call("drain")
    (project / "hooke.toml").write_text(toml() + toml(name="other"))
    with lock:
        done = CliRunner().invoke(hooke, ["fleet", "reap"], obj=CommandSession(), standalone_mode=False)
    assert done.return_value == 1
    assert "pool: another hooke fleet command is running for the fleet pool" in done.stderr
    assert (project / ".hooke" / "fleets" / "other" / "fleet.json").is_file()


@pytest.mark.needs("cpu")
def test_one_fleet_that_cannot_be_listed_does_not_hide_the_others(project):
    away = f'provider = "kubernetes"\nimage = "worker:1"\nkubeconfig = "{project}/nowhere"'
    (project / "hooke.toml").write_text(toml(more=away) + toml(name="other"))
    call("scale", "other", "1")
    done = CliRunner().invoke(hooke, ["fleet", "reap"], obj=CommandSession(), standalone_mode=False)
    assert done.return_value == 1
    assert done.stdout.startswith("other: ")
    assert done.stdout.endswith(" is wanted and stays\n")
    assert "nowhere" in done.stderr
    call("down", "other")


def test_the_rights_of_a_fleet_on_kubernetes_are_printed_for_its_namespace(project):
    more = 'provider = "kubernetes"\nimage = "worker:1"\nnamespace = "team"'
    (project / "hooke.toml").write_text(toml(more=more) + toml(name="here"))
    printed = call("rbac", "pool", "--account", "trainer")
    assert "# delete pods: to retire and end a machine" in printed
    account, role, binding = yaml.safe_load_all(printed)
    assert account["metadata"] == role["metadata"] == {"name": "trainer", "namespace": "team"}
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch", "create", "delete"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    ]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "trainer", "namespace": "team"}]
    with pytest.raises(UsageError, match="here is not on Kubernetes: its provider is 'processes'"):
        call("rbac", "here")
    with pytest.raises(UsageError, match="--reap is for a place"):
        call("rbac", "pool", "--reap")
    with pytest.raises(UsageError, match="--keep and --detach exclude one another"):
        call("scale", "pool", "1", "--keep", "--detach")


def test_the_rights_of_a_run_on_kubernetes_are_printed_for_its_place(project):
    (project / "hooke.toml").write_text(
        '[places.cluster]\nengine = "kubernetes"\nimage = "job:1"\nnamespace = "team"\naccount = "driver"\n[places.here]\nengine = "local"\n'
    )
    assert call("rbac") == call("rbac", "cluster"), "it is the only one on Kubernetes"
    account, role, _ = yaml.safe_load_all(call("rbac", "cluster"))
    assert account["metadata"] == {"name": "driver", "namespace": "team"}
    assert {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "list", "delete"]} in role[
        "rules"
    ]
    with pytest.raises(UsageError, match="here is not on Kubernetes: its engine is 'local'"):
        call("rbac", "here")
    with pytest.raises(UsageError, match="--keeper is for a fleet"):
        call("rbac", "cluster", "--keeper")
    with pytest.raises(UsageError, match="there is no fleet or place 'claster'") as caught:
        call("rbac", "claster")
    assert "did you mean cluster" in caught.value.fix


NODES = 'provider = "kubernetes"\nimage = "worker:1"\nnamespace = "team"\n'


def test_a_node_pool_of_a_fleet_says_what_it_costs_and_how_long_a_node_takes(project):
    more = 'instance = "gd-8xh100ib-i128"\nprice = "coreweave:hgx_h100_8x"\nmax_usd_per_hour = 150'
    (project / "hooke.toml").write_text(toml(more=NODES + more))
    printed = call("nodepool")
    assert "# 3 nodes at $49.24/h each: $147.72/h\n" in printed
    assert "# price of 2026-09-20: https://www.coreweave.com/pricing" in printed
    assert "# a new node takes 20m 00s to 30m 00s: https://docs.coreweave.com/" in printed
    pool = yaml.safe_load(printed)
    assert pool["metadata"] == {"name": "pool"}
    assert pool["spec"] == {"instanceType": "gd-8xh100ib-i128", "targetNodes": 3}
    grows = yaml.safe_load(call("nodepool", "pool", "--nodes", "0-2", "--name", "gpus"))
    assert grows["metadata"] == {"name": "gpus"}
    assert grows["spec"] == pool["spec"] | {
        "targetNodes": 0,
        "autoscaling": True,
        "minNodes": 0,
        "maxNodes": 2,
    }
    with pytest.raises(UsageError, match=r"4 nodes cost \$196.96/h, and max_usd_per_hour is 150") as caught:
        call("nodepool", "--nodes", "0-4")
    assert "--nodes 3" in caught.value.fix


def test_a_node_pool_of_spot_nodes_has_the_spot_price_and_the_labels_that_pods_want(project):
    more = 'instance = "gd-8xh100ib-i128"\nprice = "coreweave:hgx_h100_8x"\nspot = true\n'
    more += 'pod_template.spec.nodeSelector = {team = "blue", "node.kubernetes.io/zone" = "a"}'
    (project / "hooke.toml").write_text(toml(more=NODES + more))
    printed = call("nodepool")
    assert "# 3 nodes at $19.71/h each: $59.13/h\n# spot price of" in printed
    spec = yaml.safe_load(printed)["spec"]
    assert spec["computeClass"] == "Spot"
    assert spec["nodeLabels"] == {"team": "blue"}


@pytest.mark.parametrize(
    ("more", "words", "says", "fix"),
    [
        ('instance = "gb200-4x"', [], "racks of 18 nodes, and 3 is not a multiple of 18", "--nodes 18"),
        ('instance = "gb300-4x"', ["--nodes", "40"], "40 is not a multiple", "--nodes 36 or --nodes 54"),
        ('instance = "gb200-4x"', ["--nodes", "0-18"], "does not autoscale gb200-4x", "--nodes 18"),
        (
            'instance = "gd-1xgh200"\nprice = "coreweave:hgx_h100_8x"\nspot = true',
            [],
            "no spot nodes",
            "spot",
        ),
        ('instance = "gd-8xa100"', ["--nodes", "4-2"], "4-2 nodes are not valid", "--nodes 0-4"),
        ('instance = "gd-8xa100"', ["--nodes", "-4"], "'-4' is not valid", "--nodes 4"),
        ('instance = "gd-8xa100"', ["--name", "My_Pool"], "not a valid name", "lower-case"),
        ("gpus = 1", [], "there is no `instance`", "instance ="),
    ],
)
def test_a_node_pool_that_coreweave_does_not_have_is_refused(project, more, words, says, fix):
    (project / "hooke.toml").write_text(toml(more=NODES + more))
    with pytest.raises(UsageError, match=says) as caught:
        call("nodepool", *words)
    assert fix in caught.value.fix


def test_a_rack_and_a_place_have_node_pools_too(project):
    (project / "hooke.toml").write_text(
        '[places.cluster]\nengine = "kubernetes"\nimage = "job:1"\ninstance = "gb200-4x"\n'
    )
    printed = call("nodepool", "--nodes", "36")
    assert "# what a node costs is not known" in printed
    assert yaml.safe_load(printed)["spec"] == {"instanceType": "gb200-4x", "targetNodes": 36}
    with pytest.raises(UsageError, match="a place does not say how many nodes it needs"):
        call("nodepool")
    (project / "hooke.toml").write_text(
        '[places.cluster]\nengine = "kubernetes"\nimage = "job:1"\ninstance = "gd-8xh100ib-i128"\n'
        'price = "coreweave:hgx_h100_8x"\nspot = true\nnodes = "team=blue"\nmax_usd_per_hour = 40\n'
    )
    printed = call("nodepool", "--nodes", "0-2")
    assert "# 0 to 2 nodes at $19.71/h each: $39.42/h at most\n# spot price of" in printed
    spec = yaml.safe_load(printed)["spec"]
    assert (spec["computeClass"], spec["nodeLabels"]) == ("Spot", {"team": "blue"})
    with pytest.raises(UsageError, match=r"3 nodes cost \$59.13/h, and max_usd_per_hour is 40"):
        call("nodepool", "--nodes", "3")


H100 = 'provider = "kubernetes"\nimage = "worker:1"\nnamespace = "team"\nprice = "coreweave:hgx_h100_8x"'


def test_the_price_of_a_machine_comes_from_a_list_and_counts_against_the_cap(project):
    (project / "hooke.toml").write_text(toml(more=f"{H100}\nmax_usd_per_hour = 100"))
    assert find_fleet(Project.find(project), "pool").usd_per_hour == 49.24
    with pytest.raises(UsageError, match="may have at most 2 machines, not 3"):
        call("scale", "3")
    (project / "hooke.toml").write_text(toml(more=f"{H100}\nspot = true\nmax_usd_per_hour = 100"))
    assert find_fleet(Project.find(project), "pool").usd_per_hour == 19.71


def test_a_price_list_of_the_project_is_found_from_any_folder(project, monkeypatch):
    (project / "ours.csv").write_text(
        "instance_type,gpu,gpus,vcpus,memory_gib,usd_per_hour,spot_usd_per_hour\nbig,,0,8,32,0.5,\n"
    )
    (project / "hooke.toml").write_text(toml(more='price = "ours.csv:big"'))
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    assert find_fleet(Project.find(project), "pool").usd_per_hour == 0.5


def test_a_list_that_is_used_is_named_and_a_start_that_takes_longer_than_the_wait(project):
    more = 'price = "coreweave:hgx_h100_8x"'
    (project / "hooke.toml").write_text(toml(more=more))
    told = CliRunner().invoke(hooke, ["fleet", "scale", "0"], obj=CommandSession(), standalone_mode=False)
    assert (
        "pool: price of one machine $49.24/h, of 2026-09-20: https://www.coreweave.com/pricing" in told.stderr
    )
    assert "such a machine takes 20m 00s to 30m 00s to start, longer than --wait 10m" in told.stderr


def test_a_list_alone_means_the_row_of_the_instance_type(project):
    rows = "gd-8xh100ib-i128,H100,8,128,2048,49.24,19.71\n"
    (project / "ours.csv").write_text(
        f"instance_type,gpu,gpus,vcpus,memory_gib,usd_per_hour,spot_usd_per_hour\n{rows}"
    )
    (project / "hooke.toml").write_text(
        '[places.cluster]\nengine = "kubernetes"\nimage = "job:1"\nprice = "ours.csv"\nspot = true\n'
        'instance = "gd-8xh100ib-i128"\n[places.other]\nprice = "ours.csv"\n'
        '[places.listed]\nprice = "coreweave:hgx_h100_8x"\n'
    )
    places = Project.find(project).settings.places

    def usd(name):
        return find_backend(name, workers=None, places=places).usd_per_hour

    assert (usd("cluster"), usd("listed")) == (19.71, 49.24)
    with pytest.raises(ConfigError, match="the list has no machine without a name") as caught:
        usd("other")
    assert 'ours.csv:ROW" with one of: gd-8xh100ib-i128' in caught.value.fix


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('price = "coreweave:hgx_h10_8x"', "did you mean hgx_h100_8x"),
        ('price = "coreweve:hgx_h100_8x"', "no price list 'coreweve'"),
        ('price = "coreweave:l40_8x"\nspot = true', "has no spot price of it"),
        ('price = "coreweave:hgx_b300_8x"', "has no on-demand price of it"),
        ("spot = true", "there is no price"),
        ('price = "coreweave:l40_8x"\nusd_per_hour = 2', "there is usd_per_hour as well"),
    ],
)
def test_a_price_that_cannot_be_looked_up_is_refused(project, more, says):
    (project / "hooke.toml").write_text(toml(more=more))
    with pytest.raises(ConfigError, match=says):
        call("scale", "1")
