# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A changed inventory changes what it says and nothing else, and a wrong one changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testbed import REMOVE_ALL, Ansible, Deployment, Hosts, Run, Scattered, traces

SMALL = {
    "name": "small",
    "processes": 2,
    "memory": "1 GiB",
    "ports": {"worker": 9000, "nanny": 9100, "dashboard": 9200},
}
LARGE = {
    "name": "large",
    "threads": 2,
    "memory": "1 GiB",
    "ports": {"worker": 9010, "nanny": 9110, "dashboard": 9210},
    "resources": {"BIG": 1},
}

# A second cluster on the same hosts, of an ordinary user, with the first one's software.
SECOND = {
    "ansible_become": False,
    "dask_scope": "user",
    "dask_cluster_name": "second",
    "dask_environment_method": "existing",
    "dask_environment_path": "/opt/dask/main/envs/current",
    "dask_environment_plugins": [],
    "dask_scheduler_port": 18786,
    "dask_scheduler_dashboard_port": 18787,
    "dask_worker_groups": [
        {"name": "own", "memory": "512 MiB", "ports": {"worker": 9500, "nanny": 9600, "dashboard": 9700}}
    ],
}


@pytest.fixture(scope="module")
def bare_environment(hosts: Hosts) -> Iterator[None]:
    """An environment on every host that lacks distributed."""
    for host in hosts.group("all").values():
        host.check_output("python3 -m venv --without-pip /opt/bare")
    yield
    for host in hosts.group("all").values():
        host.check_output("rm -r /opt/bare")


def processes(run: Run, host: str) -> dict[str, list[str]]:
    """What a run did to the workers of a host, by started, restarted and removed."""
    task = "Let systemd run the worker"  # on some hosts after the others
    (result,) = [results[host] for name, results in run.tasks if name.endswith(task) and host in results]
    return {key: result[key] for key in ("started", "restarted", "removed")}


def refusal(run: Run) -> str:
    """The messages of a run that was refused before any host was touched, those of all hosts."""
    assert not run.ok
    assert run.changed == {}
    (failed,) = [results for name, results in run.tasks if any(result.get("failed") for result in results.values())]
    return "\n".join(str(result["msg"]) for result in failed.values() if result.get("failed"))


def test_a_first_run_applies_the_roles_that_the_inventory_asks_for_alone(first_runs: Deployment) -> None:
    assert first_runs.applied.roles == {"dask_certificates", "dask_common", "dask_environment"}


def test_check_mode_finds_nothing_to_do(ansible: Ansible) -> None:
    run = ansible.playbook("flotilla.dask.site", "--check", "--diff")
    assert run.ok, run.problems
    assert run.changed == {}


def test_only_what_changed_restarts_and_what_is_gone_is_removed(
    ansible: Ansible, hosts: Hosts, with_workers: Callable[..., Ansible]
) -> None:
    groups = [{**SMALL, "processes": 1, "memory": "512 MiB"}, {**LARGE, "secrets": {"OF_LARGE": "one-two-three"}}]
    expected = {"started": [], "restarted": ["worker-large-0"], "removed": ["worker-small-1"]}
    predicted = ansible.playbook("flotilla.dask.site", "--check", extra_vars={"dask_worker_groups": groups})
    assert processes(predicted, "worker1") == expected
    regrouped = with_workers("scheduler", "worker1")
    changed = regrouped.playbook("flotilla.dask.site", extra_vars={"dask_worker_groups": groups})
    assert changed.ok, changed.problems
    assert f"Host worker2 ({hosts.address('worker2')}) is no longer in the inventory groups" in changed.output
    assert "its workers worker2-large-0, worker2-small-0, worker2-small-1 take tasks" in changed.output
    remove_worker2 = {"dask_host_name": "worker2", **REMOVE_ALL}
    left = regrouped.playbook("flotilla.dask.remove_host", extra_vars=remove_worker2)
    assert left.ok, left.problems
    assert set(traces(hosts)) == {"scheduler", "worker1"}
    assert processes(changed, "worker1") == expected
    assert not hosts["worker1"].file("/etc/systemd/system/dask-main-worker-small-1.service").exists
    assert hosts["worker1"].file("/etc/dask/main/secrets/worker-large/OF_LARGE").mode == 0o400
    assert "one-two-three" not in predicted.output + changed.output
    restored = ansible.playbook("flotilla.dask.site")
    assert restored.ok, restored.problems
    assert processes(restored, "worker1") == {
        "started": ["worker-small-1"],
        "restarted": ["worker-large-0"],
        "removed": [],
    }
    assert not hosts["worker1"].file("/etc/dask/main/secrets/worker-large/OF_LARGE").exists
    assert processes(restored, "scheduler")["removed"] == ["worker-large-0", "worker-small-0"]
    units = hosts["scheduler"].check_output("systemctl list-units --all --no-legend 'dask-main-*'")
    assert "dask-main-worker" not in units


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {
                "dask_launcher": "upstart",
                "dask_environment_method": "existing",
                "dask_worker_groups": [{**SMALL, "memory": "16 GX"}, {**LARGE, "ports": SMALL["ports"]}],
            },
            (
                *("dask_launcher", "'upstart'", "systemd, supervisor"),
                *("dask_environment_path", "bin/python"),
                *("dask_worker_groups[0].memory", "'16 GX'", "GiB"),
                *("dask_worker_groups[1].ports.worker", "overlap", "dask_worker_groups[0]"),
            ),
        ),
        (
            {"dask_environment_method": "existing", "dask_environment_path": "/opt/bare"},
            ("dask_environment_path", "'/opt/bare'", "cannot import distributed"),
        ),
        ({**SECOND, "dask_scheduler_port": 8786}, ("dask_scheduler_port", "8786", "cluster main")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.usefixtures("bare_environment")
def test_wrong_settings_are_refused_before_a_host_is_touched(
    ansible: Ansible, variables: dict[str, Any], words: tuple[str, ...]
) -> None:
    message = refusal(ansible.playbook("flotilla.dask.site", extra_vars=variables))
    assert [word for word in words if word not in message] == [], message


def test_ordinary_user_runs_a_second_cluster_under_supervisor_beside_the_first(ansible: Ansible, hosts: Hosts) -> None:
    deployed = ansible.playbook("flotilla.dask.site", extra_vars=SECOND)
    assert deployed.ok, deployed.problems
    again = ansible.playbook("flotilla.dask.site", extra_vars=SECOND)
    assert (again.ok, again.changed) == (True, {}), again.changed
    assert hosts["worker1"].check_output("pgrep --full --list-full --euid operator dask_worker").count("worker1-own-0")
    unnamed = ansible.module("scheduler", "flotilla.dask.dask_cluster_info", "-e", "ansible_become=false")["scheduler"]
    assert "several clusters (main, second)" in unnamed["msg"]

    root = "/home/operator/.dask/second"
    with Scattered(
        ansible,
        hosts["scheduler"],
        "worker1-own-0",
        jobs=f"{root}/var/jobs",
        flags=("-e", "ansible_become=false"),
        cluster="second",
    ) as held:
        stop = f"{root}/opt/bootstrap/bin/supervisorctl -c {root}/etc/supervisord.conf stop worker-own-0"
        hosts["worker1"].check_output(stop)
        log = hosts["worker1"].file(f"{root}/var/logs/worker-own-0.log").content_string
        assert "drained: 1 keys, 5.0 MB moved in " in log
        before, after = held.release()
    assert (after["bytes"], before["here"] in after["on"][0]) == (5_000_000, False)

    removed = ansible.playbook("flotilla.dask.teardown", extra_vars={**SECOND, **REMOVE_ALL})
    assert removed.ok, removed.problems
    for name, host in hosts.group("all").items():
        assert host.run("pgrep --full --euid operator [d]istributed").stdout == "", name
        assert not host.file("/home/operator/.dask").exists, name
    main = ansible.module("scheduler", "flotilla.dask.dask_cluster_info")["scheduler"]
    assert main["cluster"]["health"] == "healthy", main["cluster"]["reasons"]
