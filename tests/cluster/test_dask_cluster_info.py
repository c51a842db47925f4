# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""dask_cluster_info against a real cluster that is well, that misses a worker, and that says nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.flotilla.dask.tests.cluster.conftest import LOOPBACK, NAME, Ansible, Cluster


def test_a_cluster_that_is_as_planned_is_healthy(ansible: Ansible, cluster: Cluster) -> None:
    outcome = ansible.info()
    state = outcome["cluster"]
    assert not outcome["changed"]
    assert (state["name"], state["health"], state["reasons"], state["unplanned"]) == (NAME, "healthy", [], [])
    assert state["scheduler"] == cluster.plan["description"]["scheduler"]
    assert state["versions"]["packages"]["distributed"]
    planned = [process for process in cluster.plan["processes"] if process["worker"]]
    assert [
        (worker["name"], worker["memory_limit"], worker["dashboard_port"], worker["address"])
        for worker in state["workers"]
    ] == [
        (
            process["worker"],
            process["memory_limit"],
            process["ports"]["dashboard"],
            "tls://127.0.0.1:{0}".format(process["ports"]["worker"]),
        )
        for process in planned
    ]


def test_a_worker_that_is_missing_is_named_and_waited_for(ansible: Ansible, cluster: Cluster) -> None:
    lost, other = cluster.workers
    cluster.lose(lost)
    reason = "1 of 2 planned workers missing: {0} (host here)".format(lost)

    state = ansible.info()["cluster"]
    assert (state["health"], state["reasons"]) == ("degraded", [reason])
    assert [worker["name"] for worker in state["workers"]] == [other]
    assert ansible.info(workers=1)["cluster"]["health"] == "healthy"

    in_vain = ansible.info(wait=0.1)
    assert in_vain["failed"]
    assert in_vain["msg"] == "Cluster '{0}' is not healthy after 0.1 s: {1}".format(NAME, reason)
    assert in_vain["cluster"]["health"] == "degraded"

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ansible.info, wait=60)
        cluster.start()
        assert waiting.result()["cluster"]["health"] == "healthy"


def test_a_worker_that_nobody_planned_is_named_with_its_host_and_is_no_reason_to_wait(
    ansible: Ansible, cluster: Cluster
) -> None:
    planned, left = cluster.workers
    description = cluster.plan["description"]
    here, there = ({"address": LOOPBACK, "declared": declared} for declared in (True, False))
    members = Path(cluster.plan["directories"]["members"])
    members.write_text(json.dumps({"here": here, "there": there}))
    promised = [each for each in description["workers"] if each["name"] == planned]
    Path(cluster.plan["directories"]["description"]).write_text(json.dumps({**description, "workers": promised}))
    try:
        outcome = ansible.info(wait=0.1, wait_for="planned")
        in_vain = ansible.info(wait=0.1)
    finally:
        Path(cluster.plan["directories"]["description"]).write_text(json.dumps(description))
        members.unlink()
    state = outcome["cluster"]
    assert (state["health"], state["complete"], state["unplanned"]) == ("degraded", True, [left])
    assert {**there, "name": "there", "workers": [left]} in state["members"]
    assert "Host there ({0}) is no longer in the inventory groups".format(LOOPBACK) in outcome["warned"]
    assert "not planned and take tasks all the same: {0} (tls://".format(left) in outcome["warned"]
    assert in_vain["failed"]
    assert "Host there" not in in_vain["warned"]


def test_a_scheduler_that_does_not_answer_in_the_time_given_is_unreachable(
    ansible: Ansible, silent_cluster: str
) -> None:
    outcome = ansible.info(cluster=silent_cluster, timeout=0.5)
    state = outcome["cluster"]
    assert not outcome["failed"]
    assert state["health"] == "unreachable"
    assert "No scheduler answers at {0} within 0.5 s".format(state["scheduler"]) in state["reasons"][0]
    assert ansible.info(cluster=silent_cluster, timeout=0.5, wait=0.1)["failed"]


def test_a_host_without_the_cluster_says_what_to_do(ansible: Ansible) -> None:
    outcome = ansible.info(cluster="elsewhere")
    assert outcome["failed"]
    assert "There is no Dask cluster called 'elsewhere' on this host" in outcome["msg"]


def test_options_are_set_once_for_all_modules_of_the_group(ansible: Ansible, cluster: Cluster) -> None:
    options = {"home": str(ansible.home), "cluster": cluster.plan["cluster"]}
    function = {"name": "by-default", "function": "lab:square_all", "arguments": [[3]]}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "module_defaults": {"group/flotilla.dask.dask": options},
        "tasks": [
            {"flotilla.dask.dask_cluster_info": {}, "register": "state"},
            {"flotilla.dask.dask_job": function, "register": "run"},
            {"flotilla.dask.dask_job_info": {"name": "by-default"}, "register": "known"},
            {
                "ansible.builtin.assert": {
                    "that": [
                        "state.cluster.health == 'healthy'",
                        "run.job.result == {'3': 9}",
                        "known.jobs | map(attribute='result') == [run.job.result]",
                    ]
                }
            },
        ],
    }
    playbook = ansible.directory / "play.yml"
    playbook.write_text(json.dumps([play]))
    outcome = ansible.run("ansible-playbook", str(playbook))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
