# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""dask_workers against a real cluster: each state, twice and in check mode, and what it refuses."""

from __future__ import annotations

import os
import typing as t

import pytest
from distributed import Client

from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for
from ansible_collections.flotilla.dask.tests.cluster.conftest import SECONDS, Ansible, Cluster


@pytest.fixture
def client(cluster: Cluster) -> t.Iterator[Client]:
    with Client(cluster.plan["description"]["scheduler"], set_as_default=False) as client:
        yield client


@pytest.fixture
def anew(cluster: Cluster) -> t.Iterator[None]:
    """Leaves no worker retired behind."""
    yield
    for name in cluster.workers:
        cluster.lose(name)


def workers(ansible: Ansible) -> dict[str, dict[str, t.Any]]:
    return {worker["name"]: worker for worker in ansible.info()["cluster"]["workers"]}


def change(ansible: Ansible, *flags: str, **options: t.Any) -> dict[str, t.Any]:
    return ansible.module("dask_workers", *flags, **options)


@pytest.mark.usefixtures("anew")
def test_a_retired_worker_has_no_data_and_gets_no_work(ansible: Ansible, cluster: Cluster, client: Client) -> None:
    one, two = cluster.workers
    address = workers(ansible)[one]["address"]
    data = client.scatter(os.urandom(1_000_000), workers=[address], direct=True)
    predicted = change(ansible, "--check", "--diff", groups=["one"], state="retired")
    assert predicted["changed"]
    assert '-    "{0}": "running"'.format(one) in predicted["shown"]
    assert '+    "{0}": "closing_gracefully"'.format(one) in predicted["shown"]
    assert workers(ansible)[one]["status"] == "running"

    retired = change(ansible, groups=["one"], state="retired")
    assert (retired["changed"], retired["moved"]) == (True, 1), retired
    assert retired["workers"] == predicted["workers"]
    assert {name: worker["status"] for name, worker in workers(ansible).items()} == {
        one: "closing_gracefully",
        two: "running",
    }
    assert len(data.result()) == 1_000_000
    assert len(set(client.gather(client.map(lambda _each: os.getpid(), range(20), pure=False)))) == 1

    again = change(ansible, groups=["one"], state="retired")
    assert (again["changed"], again["moved"]) == (False, 0)

    refused = change(ansible, names=[two], state="retired")
    assert refused["failed"]
    assert "not drained, as no other worker can take its data" in refused["msg"]
    assert "lost: 1 keys, 1.0 MB, of which 1 cannot be computed again: bytes-" in refused["msg"]
    assert workers(ansible)[two]["status"] == "running"
    assert client.submit(sum, [1, 2], pure=False).result(timeout=SECONDS) == 3


def test_restarted_workers_are_new_processes_and_keep_the_data_of_the_cluster(
    ansible: Ansible, cluster: Cluster, client: Client
) -> None:
    one, _two = cluster.workers
    known = workers(ansible)
    data = client.scatter(os.urandom(1_000_000), workers=[known[one]["address"]], direct=True)
    before = client.run(os.getpid)
    assert change(ansible, "--check", names=[one], state="restarted")["changed"]
    assert client.run(os.getpid) == before

    restarted = change(ansible, names=[one], state="restarted")
    assert (restarted["changed"], restarted["moved"]) == (True, 1), restarted
    after = client.run(os.getpid)
    assert set(after) == set(before)
    assert {address for address in after if after[address] != before[address]} == {known[one]["address"]}
    assert len(data.result()) == 1_000_000
    assert change(ansible, names=[one], state="restarted")["changed"]


def test_closed_workers_are_gone_with_their_nannies_and_nothing_is_lost(
    ansible: Ansible, cluster: Cluster, client: Client
) -> None:
    one, two = cluster.workers
    address = workers(ansible)[one]["address"]
    data = client.scatter(os.urandom(1_000_000), workers=[address], direct=True)
    assert change(ansible, "--check", names=[one], state="closed")["changed"]
    assert set(workers(ansible)) == {one, two}

    closed = change(ansible, names=[one], state="closed")
    assert (closed["changed"], closed["moved"]) == (True, 1), closed
    wait_for(lambda: cluster.running["worker-one-0"].poll() is not None, SECONDS, "the nanny to end")
    assert cluster.running["worker-one-0"].returncode == 0
    assert set(workers(ansible)) == {two}
    assert len(data.result()) == 1_000_000
    assert not change(ansible, names=[one], state="closed")["changed"]
    assert not change(ansible, "--check", names=[one], state="closed")["changed"]
    missing = change(ansible, names=[one], state="retired")
    assert "Not connected to the scheduler, so that it cannot be retired: {0}.".format(one) in missing["msg"]


def test_unknown_workers_hosts_and_groups_are_refused_with_those_that_there_are(
    ansible: Ansible, cluster: Cluster
) -> None:
    outcome = change(ansible, names=["nobody"], hosts=["nowhere"], groups=["one", "three"], state="closed")
    assert outcome["failed"]
    assert outcome["msg"].splitlines()[1:] == [
        "- names: 'nobody' is refused. Allowed: {0}.".format(", ".join(cluster.workers)),
        "- hosts: 'nowhere' is refused. Allowed: here.",
        "- groups: 'three' is refused. Allowed: one, two.",
    ]
    assert "at least one worker, host or group" in change(ansible, state="closed")["msg"]
