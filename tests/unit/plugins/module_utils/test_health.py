# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster is judged by what its plan promised, and every reason is in words."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _health
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import promised_workers
from ansible_collections.flotilla.dask.tests.unit.samples import group

NOW = 1_000_000.0
PROMISED = promised_workers({"alpha": [group(processes=2)], "beta": [group(processes=1)]})


def worker(promise: t.Mapping[str, t.Any], **changes: t.Any) -> dict[str, t.Any]:
    """What the scheduler says of a worker that is as promised."""
    return {
        "name": promise["name"],
        "status": "running",
        "nthreads": 2,
        "memory_limit": 2**30,
        "last_seen": NOW - 0.5,
        "services": {"dashboard": promise["dashboard"]},
        "metrics": {"memory": 2**20, "spilled_bytes": {"disk": 5}, "task_counts": {"executing": 1, "memory": 3}},
        **changes,
    }


def identity(**changes: dict[str, t.Any] | None) -> dict[str, t.Any]:
    """What the scheduler says, with changes by the worker's name, None for one that is not there."""
    workers = {}
    for number, promise in enumerate(PROMISED):
        change = changes.get(promise["name"].replace("-", "_"), {})
        if change is not None:
            workers["tcp://10.0.0.1:{0}".format(9000 + number)] = worker(promise, **change)
    return {"workers": workers}


def reasons(**changes: dict[str, t.Any] | None) -> list[str]:
    return _health.degradations(_health.workers(identity(**changes), NOW), PROMISED)


def test_a_cluster_that_is_as_promised_has_nothing_to_say() -> None:
    assert reasons() == []


@pytest.mark.parametrize(
    ("names", "absent", "more"),
    [
        (["cpu-1", "cpu-2", "gpu-1"], [], []),
        (["cpu-1", "cpu-4", "gpu-1"], [], []),
        (["cpu-3", "cpu-4", "cpu-5", "gpu-1"], [], ["cpu-5"]),
        (["cpu-2", "gpu-1", "gpu-2"], ["cpu-1"], ["gpu-2"]),
        (["cpu-x", "cpu-1-2"], ["cpu-1", "cpu-2", "gpu-1"], ["cpu-x", "cpu-1-2"]),
    ],
)
def test_any_replica_of_a_group_is_one_that_was_promised(names: list[str], absent: list[str], more: list[str]) -> None:
    promised = promised_workers(
        {"": [{"name": "cpu", "replicas": 2, "memory": "1 GiB"}, {"name": "gpu", "memory": "1 GiB"}]}
    )
    found = [{"name": name} for name in names]
    assert (_health.missing(found, promised), _health.unplanned(found, promised)) == (absent, more)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "1 of 3 planned workers missing: alpha-cpu-1 (host alpha)"),
        ({"status": "paused"}, "worker alpha-cpu-1 is paused"),
        ({"last_seen": NOW - 31}, "worker alpha-cpu-1 was last heard of 31 s ago"),
        (
            {"services": {"dashboard": 40001}},
            "worker alpha-cpu-1 serves HTTP on port 40001 instead of 9201, which another program had taken",
        ),
    ],
    ids=["missing", "paused", "silent", "moved"],
)
def test_the_reason_names_the_worker_and_what_is_wrong_with_it(change: dict[str, t.Any] | None, reason: str) -> None:
    assert reasons(alpha_cpu_1=change) == [reason]


def test_a_worker_that_is_silent_for_less_than_half_a_minute_is_well() -> None:
    assert reasons(alpha_cpu_1={"last_seen": NOW - 29}) == []


def test_workers_that_nobody_promised_are_named_with_where_they_are() -> None:
    found = _health.workers(identity(), NOW)
    (reason,) = _health.surplus(found, [each for each in PROMISED if each["host"] != "beta"])
    (stranger,) = [each for each in found if each["name"].startswith("beta")]
    assert reason == f"1 workers are not planned and take tasks all the same: beta-cpu-0 ({stranger['address']})"
    (reason,) = _health.surplus([{**stranger, "name": f"x-{number:02d}"} for number in range(12)], [])
    assert reason.startswith("12 workers are not planned")
    assert reason.endswith(") and 2 more")


def test_where_only_a_number_of_workers_counts_any_of_them_do() -> None:
    found = _health.workers(identity(), NOW)
    assert _health.degradations(found, []) == []


def test_a_host_that_is_no_longer_declared_is_named_with_its_workers_and_what_to_do() -> None:
    found = _health.workers(identity(), NOW)  # all three from 10.0.0.1, of which beta's is not planned
    promised = [each for each in PROMISED if each["host"] == "alpha"]
    recorded = {
        "alpha": {"address": "10.0.0.1", "declared": True},
        "beta": {"address": "10.0.0.1", "declared": False},
        "gamma": {"address": "", "declared": False},
    }
    listed = _health.members(found, promised, recorded)
    assert [(each["name"], each["workers"]) for each in listed] == [
        ("alpha", ["alpha-cpu-0", "alpha-cpu-1", "beta-cpu-0"]),
        ("beta", ["beta-cpu-0"]),
        ("gamma", []),
    ]
    beta, gamma = _health.leftovers(listed)
    assert "Host beta (10.0.0.1) is no longer in the inventory groups" in beta
    assert "its workers beta-cpu-0 take tasks" in beta
    assert "ansible-playbook flotilla.dask.remove_host -e dask_host_name=beta" in beta
    assert "Host gamma is no longer" in gamma
    assert "no worker of it is connected" in gamma


def test_of_many_missing_workers_ten_are_named_and_the_others_counted() -> None:
    promised = promised_workers({"alpha": [group(processes=13)]})
    (reason,) = _health.degradations([], promised)
    assert reason.startswith("13 of 13 planned workers missing: alpha-cpu-0 (host alpha), ")
    assert reason.endswith("alpha-cpu-9 (host alpha) and 3 more")


def test_workers_are_sorted_by_name_with_what_each_has_and_does() -> None:
    found = _health.workers(identity(), NOW)
    assert [each["name"] for each in found] == ["alpha-cpu-0", "alpha-cpu-1", "beta-cpu-0"]
    assert found[0] == {
        "name": "alpha-cpu-0",
        "address": "tcp://10.0.0.1:9000",
        "status": "running",
        "threads": 2,
        "memory_limit": 2**30,
        "memory": 2**20,
        "spilled": 5,
        "last_seen": 0.5,
        "resources": {},
        "dashboard_port": 9200,
        "tasks": {"executing": 1, "ready": 0, "waiting": 0, "in_memory": 3},
    }


def test_a_worker_that_has_only_just_joined_has_no_metrics_yet() -> None:
    young = {"name": 7, "status": "init", "nthreads": 1, "memory_limit": None, "last_seen": NOW + 1}
    (found,) = _health.workers({"workers": {"tcp://10.0.0.1:1": young}}, NOW)
    assert (found["name"], found["memory_limit"], found["last_seen"], found["dashboard_port"]) == ("7", 0, 0.0, 0)


def test_the_summary_adds_up_what_the_workers_have() -> None:
    found = _health.workers(identity(alpha_cpu_1=None), NOW)
    line = _health.summary("degraded", found, len(PROMISED))
    assert line == "degraded: 2 of 3 workers, 4 threads, 2.0 GiB memory, 8 tasks"
