# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters inside jobs of a real Slurm."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from testbed import Ansible, Hosts, Machines, Result, wait_until
from testinfra.host import Host

LOGIN = "controller"
HOME = "/shared/dask"
DIRECTORY = '/shared/it\'s a "lab"/batch'
ASKED = {
    "home": HOME,
    "chunks": 1,
    "cpus": 1,
    "memory": "600 MiB",
    "walltime": "00:10:00",
    "drain_seconds": 5,
    "directory": DIRECTORY,
    "progress": 5,
}
SCRIPT = """
import sys
from distributed import Client
with Client() as client:
    print("sum", client.submit(sum, range(10)).result())
sys.exit(int(sys.argv[1]))
"""
ENDLESS = """
import time
from distributed import Client
client = Client()
while True:
    time.sleep(1)
"""
JOBQUEUE = """
from dask_jobqueue import SLURMCluster
from distributed import Client
with SLURMCluster() as cluster, Client(cluster) as client:
    assert cluster.scheduler_address.startswith("tls://"), cluster.scheduler_address
    cluster.scale(jobs=1)
    client.wait_for_workers(1, timeout=300)
    print("sum", client.submit(sum, range(10)).result())
"""


@pytest.fixture(scope="module")
def login(hosts: Hosts) -> Host:
    return hosts[LOGIN]


@pytest.fixture
def batch(ansible: Ansible) -> Iterator[Any]:
    """Asks for a cluster by its name; all of them are gone after the test."""
    names: list[str] = []

    def ask(name: str, *options: str, **changes: Any) -> Result:
        names.append(name)
        return ansible.module(LOGIN, "flotilla.dask.dask_batch_cluster", *options, name=name, **{**ASKED, **changes})[
            LOGIN
        ]

    yield ask
    for name in dict.fromkeys(names):
        gone = ask(name, state="absent")
        assert not gone.get("failed"), gone["msg"]


def up(result: Result) -> Result:
    assert not result.get("failed"), result["msg"]
    cluster: Result = result["cluster"]
    return cluster


def info(ansible: Ansible, name: str, **options: Any) -> Result:
    return ansible.module(LOGIN, "flotilla.dask.dask_cluster_info", cluster=name, home=HOME, **options)[LOGIN]


def jobs(login: Host) -> list[str]:
    return str(login.check_output("squeue --noheader --format=%A")).split()


def test_the_playbooks_cluster_is_healthy_on_three_nodes_and_runs_jobs(ansible: Ansible, login: Host) -> None:
    state = info(ansible, "main")["cluster"]
    assert state["health"] == "healthy", state["reasons"]
    assert [each["name"] for each in state["workers"]] == [
        f"chunk-{chunk}-{index}" for chunk in range(3) for index in (0, 1)
    ]
    assert len({each["address"].rsplit(":", 1)[0] for each in state["workers"]}) == 3
    assert {each["memory_limit"] for each in state["workers"]} == {(2**30 - 2**30 // 10) // 2}
    job = ansible.module(
        LOGIN,
        "flotilla.dask.dask_job",
        home=HOME,
        cluster="main",
        name="words",
        function="wordcount:count_words",
        arguments={"directory": "/usr/lib/python3.11/json", "top": 1},
    )[LOGIN]
    assert not job.get("failed"), job["msg"]
    lines = login.check_output(f"cat {shlex.quote(DIRECTORY)}/main/jobs/*/setup").splitlines()
    assert sorted(lines) == ["set up on node1", "set up on node2", "set up on node3"]


def test_two_clusters_of_one_user_at_the_same_time(ansible: Ansible, batch: Any) -> None:
    one, two = up(batch("one", variant="threads", cpus=2)), up(batch("two", chunks=2, scheduler_alone=True))
    assert one["address"] != two["address"]
    assert [each["threads"] for each in info(ansible, "one")["cluster"]["workers"]] == [2]
    assert [each["name"] for each in info(ansible, "two")["cluster"]["workers"]] == ["chunk-1"]
    assert "another specification" in batch("one", cpus=1)["msg"]
    assert not batch("one", variant="threads", cpus=2)["changed"]


def test_an_application_ends_its_job_with_its_exit_status(batch: Any, login: Host) -> None:
    done = batch("app", script="sum it.py", content=SCRIPT, arguments=["0"])
    assert up(done)["exit_code"] == 0
    failed = batch("app", script="sum it.py", content=SCRIPT, arguments=["3"])
    assert "exit status 3" in failed["msg"]
    assert "sum 45" in failed["msg"]
    assert "ExitCode=3:0" in login.check_output(f"scontrol show job {failed['cluster']['job']}")


def test_what_is_wrong_is_said_and_leaves_no_job(batch: Any, login: Host) -> None:
    before = jobs(login)
    for changes, words in (
        ({"queue": "nowhere"}, "Correct 'queue'"),
        ({"queue": "closed"}, "to let this account in"),
        ({"walltime": "90"}, "HH:MM:SS"),
        ({"memory": "90 GB"}, "Correct 'memory'"),
        ({"queue": "small", "walltime": "01:00:00"}, "walltime is longer than the partition allows"),
        ({"interface": "ib0"}, "interface: 'ib0' is refused"),
        ({"directory": "/tmp/not shared", "chunks": 2, "place": "scatter"}, "do its nodes share that directory"),
    ):
        result = batch("wrong", **changes)
        assert result.get("failed"), changes
        assert words in result["msg"], result["msg"]
        wait_until(lambda: jobs(login) == before, "no job is left")


def test_storage_that_only_some_nodes_share_is_found_out_by_the_first_chunk(batch: Any, hosts: Hosts) -> None:
    partial = "/shared/partial"
    hosts["node2"].check_output(f"mkdir --mode=1777 {partial} && mount -t tmpfs none {partial}")
    try:
        result = batch("partial", directory=f"{partial}/batch", chunks=3, place="scatter")
    finally:
        hosts["node2"].check_output(f"umount {partial}")
    assert "chunks 1 of 3 are not seen in /shared/partial/batch/partial/jobs/" in result["msg"]
    assert "it has to be on storage that all nodes share" in result["msg"]


def test_a_full_partition_is_told_in_the_queues_words(batch: Any) -> None:
    up(batch("full", queue="small", cpus=2))  # beside the playbook's, which has the others of the node
    waiting = batch("patient", queue="small", cpus=2, timeout=5)
    assert "is not up after" in waiting["msg"]
    assert "Resources" in waiting["msg"] or "Priority" in waiting["msg"]


def test_a_job_that_somebody_cancels_is_an_error_at_once_or_recognised_later(
    ansible: Ansible, batch: Any, login: Host
) -> None:
    cluster = up(batch("victim"))
    login.check_output(f"scancel --signal=KILL --full {cluster['job']}; scancel {cluster['job']}")
    wait_until(lambda: cluster["job"] not in jobs(login), "the job is gone")
    assert "is not running" in info(ansible, "victim")["msg"]
    again = batch("victim")
    assert (again["changed"], up(again)["job"] != cluster["job"]) == (True, True)


def test_a_cluster_grows_and_shrinks_by_jobs(ansible: Ansible, batch: Any) -> None:
    grown = batch("growing", additional_chunks=2)
    assert [each["chunks"] for each in up(grown)["more"]] == [2]
    more = info(ansible, "growing", workers=3, wait=300)
    assert not more.get("failed"), more["msg"]
    assert batch("growing", additional_chunks=0)["changed"]
    wait_until(lambda: len(info(ansible, "growing")["cluster"]["workers"]) == 1, "the workers have left")


def test_dask_jobqueue_works_with_the_same_options(login: Host) -> None:
    login.check_output("cat >/shared/jobqueue.py <<'END'\n" + JOBQUEUE + "\nEND")
    own = f"{HOME}/main"
    variables = f"DASK_CONFIG={own}/etc/jobqueue PYTHONPATH={own}/etc/python"
    assert "sum 45" in login.check_output(f"{variables} {own}/opt/envs/current/bin/python /shared/jobqueue.py")


def test_a_walltime_that_ends_takes_what_runs_along_in_words(ansible: Ansible, batch: Any, login: Host) -> None:
    late = {"script": "endless.py", "content": ENDLESS, "walltime": "00:01:00"}
    batch("late", **late, state="submitted")
    cluster = up(batch("short", walltime="00:01:00"))
    assert cluster["leaves"] < cluster["ends"]
    endless = {"home": HOME, "cluster": "short", "name": "endless", "script": "endless.py", "content": ENDLESS}
    submitted = ansible.module(LOGIN, "flotilla.dask.dask_job", **endless, state="submitted")[LOGIN]
    assert not submitted.get("failed"), submitted["msg"]
    wait_until(lambda: cluster["job"] not in jobs(login), "the job has ended")
    assert "JobState=COMPLETED" in login.check_output(f"scontrol show job {cluster['job']}")
    assert "is not running" in info(ansible, "short")["msg"]
    ended = ansible.module(LOGIN, "flotilla.dask.dask_job", **endless)[LOGIN]
    assert f"Batch job {cluster['job']}, which the cluster was in, has ended" in ended["msg"]
    assert "the walltime ended while the application ran" in batch("late", **late)["msg"]


def test_a_node_that_is_lost_takes_its_workers_along_and_not_the_cluster(
    ansible: Ansible, batch: Any, machines: Machines, hosts: Hosts
) -> None:
    up(batch("hardy", chunks=3, place="scatter"))
    machines.kill("node3")
    try:
        wait_until(lambda: len(info(ansible, "hardy")["cluster"]["workers"]) == 2, "the scheduler misses a worker")
        assert info(ansible, "hardy")["cluster"]["health"] == "degraded"
    finally:
        machines.start("node3")
    idle = "sinfo --noheader --nodes=node3 --format=%T | head -1"
    wait_until(lambda: "down" not in hosts[LOGIN].check_output(idle), "Slurm has the node again")
