# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the launcher swarm makes of a plan. That swarms obey is for the tests on hosts."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import typing as t
from pathlib import Path

import pytest
from distributed.cli import dask_worker
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils import _in_process
from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils._pipelines import Runs
from ansible_collections.flotilla.dask.plugins.module_utils.launch.front import cluster_endpoints
from ansible_collections.flotilla.dask.plugins.module_utils.launch.pipeline import read_pipeline
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers
from ansible_collections.flotilla.dask.plugins.module_utils.launch.processes import IN_PROCESS
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.docker import DEFINITION
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.swarm import Stack, problems
from ansible_collections.flotilla.dask.tests.unit import samples

Definitions = t.Callable[..., t.List[t.Dict[str, t.Any]]]
GIB = 2**30
sys.modules[IN_PROCESS] = _in_process  # which Dask's parser imports
GROUP = {"name": "cpu", "replicas": 4, "memory": "4 GiB"}
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)


def plan(**changes: t.Any) -> dict[str, t.Any]:
    """The plan of the scheduler's host, which is a node too."""
    accepted = samples.settings(dask_launcher="swarm", dask_worker_groups=[GROUP], dask_scheduler_host="alpha")
    return launch_plan({**accepted, **changes})


@pytest.fixture(scope="session")
def stacks(render_role_template: t.Callable[..., str]) -> Definitions:
    """The stack files of the processes, as the role writes them."""

    def call(**changes: t.Any) -> list[dict[str, t.Any]]:
        planned = plan(**changes)
        texts = [
            render_role_template(
                "service.json.j2", dask_common_plan=planned, process=process, _dask_common_image="sha256:0123"
            )
            for process in planned["processes"]
        ]
        return [json.loads(text) if isinstance(text, str) else text for text in texts]

    return call


@pytest.fixture(scope="session")
def services(stacks: Definitions) -> Definitions:
    """The one service of each of them."""
    return lambda **changes: [service for stack in stacks(**changes) for service in stack["services"].values()]


def test_a_service_has_no_rights_and_comes_back(services: Definitions) -> None:
    for service in services():
        assert service["user"] == "10001:10001"
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is service["init"] is True
        assert service["deploy"]["restart_policy"]["condition"] == "any"
        assert service["deploy"]["endpoint_mode"] == "dnsrr"


def test_a_service_has_its_files_from_where_the_host_has_them_and_keys_for_itself_alone(stacks: Definitions) -> None:
    for stack in stacks():
        [service] = stack["services"].values()
        for kind in ("configs", "secrets"):
            assert {each["source"] for each in service[kind]} == set(stack[kind])
            for each in service[kind]:
                assert each["target"] == stack[kind][each["source"]]["file"]
        [key] = [each for each in service["secrets"] if each["source"] == "identity"]
        assert (key["uid"], key["mode"]) == ("10001", 0o400)


def test_what_changes_in_a_file_is_a_file_of_another_name(stacks: Definitions) -> None:
    def names(**changes: t.Any) -> dict[str, str]:
        stack = stacks(**changes)[0]
        return {key: each["name"] for kind in ("configs", "secrets") for key, each in stack[kind].items()}

    before = names()
    other = samples.host(certificate="another", authorities="the same")
    changed = {
        "dask": names(dask_configuration={"distributed": {"x": 1}}),
        "in_process": names(dask_in_process_digest="another"),
        "identity": names(dask_host=other),
    }
    for key, after in changed.items():
        assert after[key] != before[key]
        assert {name for name in before if before[name] != after[name]} <= {key, "authorities"}
    assert all(len(name) <= 64 for name in names(dask_cluster_name="c" * 32).values())
    assert "identity" not in names(dask_tls=False)


def test_workers_are_named_by_their_slot_and_join_within_the_network(services: Definitions) -> None:
    _scheduler, worker = services()
    assert worker["environment"]["FLOTILLA_WORKER"] == worker["hostname"] == "cpu-{{.Task.Slot}}"
    shell, flag, script, name, *words = worker["command"]
    assert (shell, flag, name) == ("sh", "-c", "sh")
    assert script == 'exec "$@" --name "$FLOTILLA_WORKER"'
    dask_worker.main.make_context("worker", [*words[3:], "--name", "cpu-1"])
    assert words[3] == "tls://scheduler:8786"
    assert worker["deploy"]["replicas"] == 4
    assert "ports" not in worker or worker["ports"] == []
    assert [each["name"] for each in promised_workers({"": [GROUP]})] == ["cpu-1", "cpu-2", "cpu-3", "cpu-4"]


def test_the_scheduler_stays_on_its_host_and_publishes_a_dashboard_only_where_it_is_asked_for(
    services: Definitions,
) -> None:
    scheduler, _worker = services()
    assert scheduler["deploy"]["placement"]["constraints"] == ["node.labels.flotilla.dask.main.host==alpha"]
    assert [(each["published"], each["mode"]) for each in scheduler["ports"]] == [(8786, "host")]
    [scheduler, _worker] = services(dask_host=samples.host(http_address="10.0.0.1"))
    assert [each["published"] for each in scheduler["ports"]] == [8786, 8787]


def test_a_worker_has_room_above_dasks_limit_and_is_given_its_limit(services: Definitions) -> None:
    _scheduler, worker = services(dask_drain_seconds=100)
    resources = worker["deploy"]["resources"]
    limit = worker["command"][worker["command"].index("--memory-limit") + 1]
    assert resources["reservations"] == {"memory": limit}
    assert int(resources["limits"]["memory"]) > int(limit) == 4 * GIB
    assert int(worker["stop_grace_period"].rstrip("s")) > 100


def test_a_busy_worker_is_not_taken_for_a_dead_one_and_one_that_starts_counts_when_it_answers(
    services: Definitions,
) -> None:
    scheduler, worker = services()
    assert scheduler["healthcheck"] == {"disable": True}
    assert worker["healthcheck"]["retries"] >= 1000000
    assert worker["environment"]["FLOTILLA_HEALTH"] == "http://127.0.0.1:9200/health"


@pytest.mark.parametrize(("replicas", "at_once"), [(1, 1), (2, 1), (3, 1), (8, 4)])
def test_at_most_half_of_a_group_is_replaced_at_once_after_it_has_stopped(
    services: Definitions, replicas: int, at_once: int
) -> None:
    _scheduler, worker = services(dask_worker_groups=[{**GROUP, "replicas": replicas}])
    assert worker["deploy"]["update_config"]["parallelism"] == at_once
    assert worker["deploy"]["update_config"]["order"] == "stop-first"


def test_placement_and_volumes_are_handed_on(services: Definitions) -> None:
    group = {**GROUP, "placement": ["node.labels.disk==ssd"]}
    _scheduler, worker = services(dask_worker_groups=[group], dask_docker_volumes=["/srv/in put:/input:ro"])
    assert worker["deploy"]["placement"]["constraints"] == [
        "node.labels.flotilla.dask.main.workers==true",
        "node.labels.disk==ssd",
    ]
    assert "/srv/in put:/input:ro" in worker["volumes"]
    assert "/var/lib/dask/main" in worker["volumes"]


def test_a_network_that_is_encrypted_is_another_one(stacks: Definitions) -> None:
    networks = [stacks(dask_swarm_encrypted=value)[0]["networks"]["cluster"] for value in (True, False)]
    assert [each["driver_opts"] for each in networks] == [{"encrypted": ""}, {}]
    assert networks[0]["name"] != networks[1]["name"]


def test_whatever_a_service_is_made_of_is_in_its_digest(services: Definitions) -> None:
    changes: list[dict[str, t.Any]] = [
        {},
        {"dask_docker_volumes": ["/data"]},
        {"dask_image": "lab/dask:2"},
        {"dask_swarm_encrypted": False},
        {"dask_swarm_endpoint_mode": "vip"},
        {"dask_worker_groups": [{**GROUP, "replicas": 5}]},
        {"dask_worker_groups": [{**GROUP, "environment": {"A": "1"}}]},
        {"dask_drain_seconds": 7},
    ]
    digests = {services(**change)[-1]["deploy"]["labels"][DEFINITION] for change in changes}
    assert len(digests) == len(changes)


def test_a_node_that_is_not_the_schedulers_runs_what_the_swarm_gives_it() -> None:
    node = plan(dask_runs_scheduler=False, dask_host=samples.host(name="beta"))
    assert node["processes"] == []
    assert node["swarm"]["labels"] == {"flotilla.dask.main.host": "beta", "flotilla.dask.main.workers": "true"}
    assert node["swarm"]["managed_by"] == "alpha"


def test_proxies_and_monitoring_are_told_of_what_the_host_publishes_alone() -> None:
    assert cluster_endpoints({"alpha": plan()}) == []
    [told] = cluster_endpoints({"alpha": plan(dask_host=samples.host(http_address="10.0.0.1"))})
    assert (told["process"], told["http"]) == ("scheduler", "10.0.0.1:8787")


@given(st.lists(WORDS, min_size=1))
@hypothesis_settings(max_examples=100)
def test_a_definition_is_read_as_it_was_written_and_has_no_variables_for_compose(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stack = Stack("dask-main", directory)
        text = json.dumps(words)
        stack.write("worker", text)
        assert stack.read("worker") == text
        written = Path(stack.path("worker")).read_text()
        assert "$" not in re.sub(r"\$\$", "", written)


def test_each_reason_why_tasks_do_not_run_is_told_once() -> None:
    pending = {"Status": {"State": "pending", "Err": "no suitable node"}}
    running = {"Status": {"State": "running", "Message": "started"}}
    assert problems([pending, pending, running]) == ["pending: no suitable node"]


@pytest.mark.parametrize(
    ("host", "changes", "words"),
    [
        ({"engine": "", "engine_problem": "docker cannot be run"}, {}, "dask_launcher: 'swarm' is refused"),
        ({"missing": ["/data"]}, {"dask_docker_volumes": ["/data"]}, "there is none on alpha"),
        ({"encryption_problem": "no esp"}, {}, "dask_swarm_encrypted: True is refused"),
        ({"address": "alpha.lab"}, {}, "dask_host_address: 'alpha.lab' is refused"),
        ({"root": False}, {}, "supervisor for dask_scope user"),
        ({}, {"dask_firewall": True}, "dask_firewall: True is refused"),
        ({}, {"dask_proxy_hosts": ["alpha"]}, "dask_http_address: '127.0.0.1' is refused"),
        ({}, {"dask_http_users": ["alice"]}, "dask_http_users: ['alice'] is refused"),
        ({}, {"dask_docker_network": "bridge"}, "dask_docker_network: 'bridge' is refused"),
        ({}, {"dask_swarm_endpoint_mode": "dns"}, "one of dnsrr, vip"),
        ({}, {"dask_scheduler_launcher": "systemd"}, "swarm on all hosts of a cluster or on none"),
        ({}, {"dask_swarm_memory": {"a": 4 * GIB, "b": GIB}}, "no node has more"),
        ({}, {"dask_swarm_memory": {"a": 8 * GIB, "b": 8 * GIB}}, "together at most the 16 GiB of the nodes a, b"),
        ({}, {"dask_worker_groups": [{**GROUP, "processes": 2}]}, "which has replicas"),
        ({}, {"dask_worker_groups": [{**GROUP, "memory": 0.5}]}, "that of each worker (a fraction"),
        ({}, {"dask_worker_groups": [{"name": "cpu"}]}, "dask_worker_groups[0].memory: None is refused"),
        ({}, {"dask_worker_groups": [{**GROUP, "replicas": 0}]}, "a number of workers from 1"),
        ({}, {"dask_worker_groups": [{**GROUP, "placement": ["disk=ssd"]}]}, "placement[0]: 'disk=ssd' is refused"),
        ({}, {"dask_worker_groups": [{**GROUP, "local_directory": "/scratch"}]}, "a volume of its own"),
    ],
)
def test_what_a_swarm_cannot_run_is_refused_in_words(
    host: dict[str, t.Any], changes: dict[str, t.Any], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        plan(dask_host=samples.host(**host), **changes)
    assert words in str(caught.value)
    assert str(caught.value).count("is refused") == 1


def test_replicas_are_refused_where_there_is_no_swarm() -> None:
    with pytest.raises(SettingsError) as caught:
        launch_plan(samples.settings(dask_worker_groups=[GROUP]))
    assert "replicas are of dask_launcher swarm alone" in str(caught.value)


def test_a_service_has_the_secrets_of_its_own_group_by_names_that_change_with_their_values(stacks: Definitions) -> None:
    groups = [{**GROUP, "secrets": {"TOKEN": "hunter22"}}]
    scheduler, workers = stacks(dask_worker_groups=groups, dask_secrets={"SHARED": "hunter23"})
    for stack, service, names in ((scheduler, "scheduler", ["SHARED"]), (workers, "worker-cpu", ["SHARED", "TOKEN"])):
        made = {key: each for key, each in stack["secrets"].items() if key.startswith("secret_")}
        assert made == {
            "secret_" + name: {
                "name": "dask-main-@secrets@-{0}".format(number),
                "file": "/etc/dask/main/secrets/{0}/{1}".format(service, name),
            }
            for number, name in enumerate(names, 1)
        }
        used = [each for each in stack["services"][service]["secrets"] if each["source"] in made]
        assert [(each["target"], each["uid"], each["mode"]) for each in used] == [
            (name, "10001", 0o400) for name in names
        ]
        assert stack["services"][service]["environment"]["CREDENTIALS_DIRECTORY"] == "/run/secrets"
        assert "hunter" not in json.dumps(stack)
    # A swarm allows 64 characters; a version has 12.
    assert len("dask-{0}-{1}-{2}".format("c" * 32, "0" * 12, 999)) <= 64
    assert json.dumps(stacks(dask_tls=False, dask_secrets={"SHARED": "hunter23"}))


def test_a_stage_has_no_secret_of_scheduler_or_workers(stacks: Definitions, tmp_path: Path) -> None:
    scheduler = stacks(dask_secrets={"SHARED": "hunter23"})[0]
    stack = Stack("dask-main", str(tmp_path))
    stack.write("scheduler", json.dumps(scheduler))
    description = plan()["description"]
    swarm = {**description["swarm"], "definitions": str(tmp_path)}
    settings = {"cluster": "main", "name": "p", "host": "alpha", "stages": [{"name": "s", "command": ["x"]}]}
    pipeline = read_pipeline(settings)
    made = Runs({**description, "swarm": swarm}, "p")._definition(pipeline.stages[0], "0")
    assert "secret_" in json.dumps(scheduler)
    assert "secret_" not in json.dumps(made)
    assert made["secrets"]
    with pytest.raises(SettingsError, match=r"stages\[0\].secrets is refused, as stages have no secrets") as refused:
        read_pipeline({**settings, "stages": [{"name": "s", "command": ["x"], "secrets": {"TOKEN": "hunter22"}}]})
    assert "hunter" not in str(refused.value)
