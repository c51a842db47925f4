# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes, hosts and networks fail while a job has its results on the workers; the job finishes all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from testbed import HELD_SUM_OUTPUT, Cluster, Hosts, Machines, wait_until

WORKER = "worker-cpu-0"


@pytest.fixture
def job(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a job that has its results on the workers."""
    name = str(request.node.name)
    cluster.hold_job(name)
    yield name
    cluster.job(name, state="absent")


def kill(cluster: Cluster, hosts: Hosts, host: str, process: str, what: str) -> None:
    """Kills the nanny (or scheduler) itself, or the worker process that is its child."""
    main = cluster.main_pid(host, process)
    children = hosts[host].check_output(f"pgrep --parent {main} --full spawn_main || true").split()
    (pid,) = children if what == "worker" else [main]
    hosts[host].check_output(f"kill -KILL {pid}")


def healthy(cluster: Cluster) -> bool:
    state = cluster.state(wait=90)
    return state["health"] == "healthy" and len(state["workers"]) == 4


def test_a_worker_process_is_killed_that_holds_data(cluster: Cluster, hosts: Hosts, job: str) -> None:
    kill(cluster, hosts, "worker1", WORKER, "worker")
    record = cluster.release_job(job)
    assert (record["state"], record["attempts"], record["output"]) == ("finished", 1, HELD_SUM_OUTPUT)
    assert healthy(cluster)


def test_a_nanny_is_killed(cluster: Cluster, hosts: Hosts, job: str) -> None:
    before = cluster.main_pid("worker1", WORKER)
    kill(cluster, hosts, "worker1", WORKER, "nanny")
    record = cluster.release_job(job)
    assert (record["state"], record["attempts"], record["output"]) == ("finished", 1, HELD_SUM_OUTPUT)
    assert healthy(cluster)
    assert cluster.main_pid("worker1", WORKER) not in (0, before)


def test_the_scheduler_is_killed(cluster: Cluster, hosts: Hosts, job: str) -> None:
    killed = time.monotonic()
    kill(cluster, hosts, "scheduler", "scheduler", "scheduler")
    assert healthy(cluster)
    print(f"time to recovery: all workers are back {time.monotonic() - killed:.1f} s after the scheduler was killed")
    record = cluster.release_job(job)
    assert (record["state"], record["attempts"]) == ("finished", 2)
    assert record["output"].endswith(HELD_SUM_OUTPUT)
    print(f"time to recovery: the job has finished {time.monotonic() - killed:.1f} s after the scheduler was killed")


def test_the_network_of_a_host_is_cut_for_twenty_seconds(cluster: Cluster, machines: Machines, job: str) -> None:
    with machines.cut_off("worker1"):
        end = time.monotonic() + 20
        wait_until(lambda: time.monotonic() > end, "the time is over")
    record = cluster.release_job(job)
    assert (record["state"], record["attempts"]) == ("finished", 1)
    assert record["output"].endswith(HELD_SUM_OUTPUT)
    assert healthy(cluster)


def test_a_host_is_stopped_that_holds_scattered_data(cluster: Cluster, machines: Machines) -> None:
    cluster.scatter("worker1", 1000)
    machines.stop("worker1")
    try:
        assert {worker["name"].partition("-")[0] for worker in cluster.state()["workers"]} == {"worker2"}
        assert cluster.scattered() == sum(range(1000))
    finally:
        machines.start("worker1")
    assert healthy(cluster)
