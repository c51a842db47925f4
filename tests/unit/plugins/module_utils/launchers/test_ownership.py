# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the launchers docker and swarm touch: what the collection made, as it runs, and nothing of anybody else."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._images import Images
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import PLACEHOLDER, Store
from ansible_collections.flotilla.dask.plugins.module_utils._service import Plan
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.docker import CLUSTER, DEFINITION, KIND
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.swarm import NAMESPACE, RECORD, Stack, Swarm
from ansible_collections.flotilla.dask.plugins.modules.dask_processes import run_processes
from ansible_collections.flotilla.dask.tests.unit.engine import Engine

OURS = {CLUSTER: "main", KIND: "worker"}
OLD, NEW = "flotilla-dask:1", "flotilla-dask:2"


class Deployment:
    """A host with an engine, and what the module dask_processes does with it."""

    launcher = ""

    def __init__(self, directory: Path, engine: Engine) -> None:
        self.engine = engine
        self.directories = {"configuration": str(directory / "etc"), "software": str(directory / "opt")}
        for path in self.directories.values():
            Path(path).mkdir()
        self.directories["secrets"] = str(directory / "etc" / "secrets")

    def definition(self, name: str, image: str = OLD, command: t.Sequence[str] = ("dask",)) -> str:
        raise NotImplementedError

    def run(
        self, state: str = "started", check: bool = False, secrets: t.Any = None, **changes: t.Any
    ) -> dict[str, t.Any]:
        """Has one worker, defined with changes, or none."""
        process = {"name": "worker-a", "kind": "worker", "group": "a", "ports": {}}
        processes = [{**process, "definition": self.definition("worker-a", **changes)}]
        options = {"cluster": "main", "kind": "worker", "launcher": self.launcher, "directories": self.directories}
        options.update(account="", secrets=secrets or {})
        return run_processes({**options, "state": state, "processes": processes}, check)


class Containers(Deployment):
    launcher = "docker"

    def definition(self, name: str, image: str = OLD, command: t.Sequence[str] = ("dask",)) -> str:
        digest = "{0}:{1}".format(image, command)
        return json.dumps(
            {
                "command": command,
                "container_name": "dask-main-" + name,
                "environment": {"A": "1", "VERSION": PLACEHOLDER},
                "image": image,
                "labels": {**OURS, DEFINITION: digest},
                "user": "998:998",
            }
        )

    def container(self) -> dict[str, t.Any]:
        [found] = [each for each in self.engine.containers.values() if each["Name"] == "/dask-main-worker-a"]
        return found


class Services(Deployment):
    launcher = "swarm"

    def definition(
        self, name: str, image: str = OLD, command: t.Sequence[str] = ("dask",), secret: str = "dask-main-identity-1"
    ) -> str:
        digest = "{0}:{1}:{2}".format(image, command, secret)
        deploy = {
            "labels": {**OURS, DEFINITION: digest},
            "placement": {"constraints": ["node.labels.flotilla.dask.main.workers==true"]},
            "replicas": 1,
            "update_config": {"parallelism": 1},
        }
        service = {
            "command": command,
            "deploy": deploy,
            "environment": {"A": "$b", "VERSION": PLACEHOLDER},
            "image": image,
        }
        return json.dumps(
            {
                "services": {name: service},
                "networks": {"cluster": {"name": "dask-main"}},
                "secrets": {"identity": {"name": secret}},
            }
        )

    def service(self) -> dict[str, t.Any]:
        found = [each for each in self.engine.swarm["service"].values() if each["Spec"]["Name"] == "dask-main_worker-a"]
        assert len(found) == 1
        return found[0]


@pytest.fixture
def containers(tmp_path: Path, engine: Engine) -> Containers:
    return Containers(tmp_path, engine)


@pytest.fixture
def services(tmp_path: Path, engine: Engine) -> Services:
    return Services(tmp_path, engine)


@pytest.fixture(params=[Containers, Services])
def deployment(request: pytest.FixtureRequest, tmp_path: Path, engine: Engine) -> Deployment:
    return t.cast("Deployment", request.param(tmp_path, engine))


def test_a_second_run_changes_nothing_and_what_is_removed_leaves_nothing(deployment: Deployment) -> None:
    engine = deployment.engine
    assert deployment.run(check=True)["started"] == ["worker-a"]
    assert (engine.names(), engine.names("service")) == (set(), set())
    assert deployment.run()["changed"]
    assert not deployment.run()["changed"]
    assert deployment.run(command=["other"])["restarted"] == ["worker-a"]
    assert not deployment.run(command=["other"])["changed"]
    assert deployment.run("absent")["removed"] == ["worker-a"]
    assert not deployment.run("absent")["changed"]
    assert not any((engine.containers, *engine.swarm.values()))


def test_a_changed_secret_restarts_what_has_it_and_is_in_nothing_that_an_engine_tells(deployment: Deployment) -> None:
    engine, other = deployment.engine, {"worker-b": {"TOKEN": "of another group"}}
    first = deployment.run(secrets={"worker-a": {"TOKEN": "hunter22"}, **other})
    assert (first["started"], first["restarted"]) == (["worker-a"], [])
    again = deployment.run(secrets={"worker-a": {"TOKEN": "hunter22"}, "worker-b": {"TOKEN": "changed"}})
    assert (again["started"], again["restarted"], again["versions"]) == (
        [],
        [],
        {**first["versions"], "worker-b": again["versions"]["worker-b"]},
    )
    predicted = deployment.run(secrets={"worker-a": {"TOKEN": "hunter23"}, **other}, check=True)
    changed = deployment.run(secrets={"worker-a": {"TOKEN": "hunter23"}, **other})
    assert predicted == changed
    assert changed["restarted"] == ["worker-a"]
    assert not deployment.run(secrets={"worker-a": {"TOKEN": "hunter23"}, **other})["changed"]
    told = json.dumps([first, changed, engine.containers, engine.swarm], default=str)
    assert "hunter2" not in told
    assert changed["versions"]["worker-a"] in told
    assert deployment.run()["restarted"] == ["worker-a"]
    assert not Path(deployment.directories["secrets"]).exists()


def test_a_run_that_was_killed_after_it_wrote_a_secret_is_made_good(deployment: Deployment) -> None:
    deployment.run(secrets={"worker-a": {"TOKEN": "hunter22"}})
    Store(deployment.directories["secrets"], "worker", {"worker-a": {"TOKEN": "hunter23"}}).write()
    assert deployment.run(secrets={"worker-a": {"TOKEN": "hunter23"}})["restarted"] == ["worker-a"]
    assert not deployment.run(secrets={"worker-a": {"TOKEN": "hunter23"}})["changed"]


# Containers


def test_somebodys_container_with_our_labels_is_neither_stopped_nor_removed(containers: Containers) -> None:
    for name in ("bob", "dask-main-bob"):
        containers.engine.add_container(name, Labels={**OURS, DEFINITION: "copied"})
    containers.engine.add_container("lines", Labels={CLUSTER: "main\tx\ny", KIND: "worker"})
    before = json.dumps(list(containers.engine.containers.values()))
    for state in ("started", "stopped", "started", "absent"):
        assert [each.split()[1] for each in containers.run(state)["remarks"]] == ["bob", "dask-main-bob"]
    assert json.dumps(list(containers.engine.containers.values())) == before


@pytest.mark.parametrize("state", ["started", "absent"])
@pytest.mark.parametrize("check", [True, False])
def test_somebodys_container_with_a_name_of_ours_is_refused(containers: Containers, state: str, check: bool) -> None:
    containers.run()
    containers.engine.containers.clear()
    containers.engine.add_container("dask-main-worker-a", Labels=OURS)
    with pytest.raises(DaskError, match="Container dask-main-worker-a is refused"):
        containers.run(state, check)
    assert containers.container()["State"]["Status"] == "running"


def test_a_name_that_is_taken_before_the_first_run_is_refused_before_anything_is_written(
    containers: Containers,
) -> None:
    containers.engine.add_container("dask-main-worker-a")
    with pytest.raises(DaskError, match="Container dask-main-worker-a is refused"):
        containers.run()
    assert not Path(containers.directories["configuration"], "containers").exists()


@pytest.mark.parametrize(
    "change", [{"Cmd": ["other"]}, {"Image": "other"}, {"User": "0"}, {"Env": ["A=2"]}, {"Env": None}]
)
def test_a_container_that_runs_something_else_than_its_label_says_is_replaced(
    containers: Containers, change: dict[str, t.Any]
) -> None:
    containers.run()
    first = containers.container()
    first["Config"].update(change)
    assert containers.run()["restarted"] == ["worker-a"]
    assert containers.container()["Id"] != first["Id"]
    assert not containers.run()["changed"]


def test_a_container_that_compose_made_is_ours(containers: Containers) -> None:
    containers.run()
    containers.container()["Config"]["Labels"]["com.docker.compose.project"] = "dask-main"
    containers.container()["Config"]["Env"].append("PATH=/bin")  # of the image
    assert not containers.run()["changed"]


def test_a_run_that_was_killed_between_definition_and_container_is_made_good(containers: Containers) -> None:
    containers.run()
    containers.engine.containers.clear()
    assert containers.run()["started"] == ["worker-a"]
    assert not containers.run()["changed"]
    containers.container()["State"]["Status"] = "created"  # by a run that was killed before it was started
    assert containers.run()["started"] == ["worker-a"]


def test_the_image_that_is_needed_no_longer_goes_and_those_of_others_stay(containers: Containers) -> None:
    engine, software = containers.engine, containers.directories["software"]
    for name in (OLD, NEW):
        Images(software).expect(name)
        engine.add_image(name, **OURS)
        Images(software).settle()
    ours = set(engine.images)
    theirs = engine.add_image("lab:1", **OURS)
    containers.run(image=OLD)
    assert containers.run(image=NEW)["remarks"] == []
    assert set(engine.images) == {theirs, max(ours)}
    engine.add_image("lab:2", parent=max(ours))
    [sentence] = containers.run("absent")["remarks"]
    assert sentence == "Image {0} stays on this host: other images are built upon it.".format(NEW)


# Services


def test_somebodys_service_with_our_labels_is_neither_scaled_nor_removed(services: Services) -> None:
    for name in ("bob", "dask-main_bob"):
        services.engine.add("service", name, **OURS, **{NAMESPACE: "dask-main", DEFINITION: "copied"})
    services.engine.add("service", "dask-main_lab", **{NAMESPACE: "dask-main"})
    before = json.dumps(list(services.engine.swarm["service"].values()))
    for state in ("started", "absent"):
        assert [each.split()[1] for each in services.run(state)["remarks"]] == ["bob", "dask-main_bob"]
    assert json.dumps(list(services.engine.swarm["service"].values())) == before


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("kind", "name", "labels", "words"),
    [
        ("service", "dask-main_worker-a", {}, "Service dask-main_worker-a is refused"),
        ("service", "dask-main_worker-a", {**OURS, NAMESPACE: "dask-main"}, "Service dask-main_worker-a is refused"),
        ("network", "dask-main", {}, "Network dask-main is refused"),
        ("network", "dask-main", {NAMESPACE: "lab"}, "Network dask-main is refused"),
        ("secret", "dask-main-identity-1", {}, "Secret dask-main-identity-1 is refused"),
    ],
)
def test_somebodys_thing_with_a_name_of_ours_is_refused_before_anything_is_written(
    services: Services, check: bool, kind: str, name: str, labels: dict[str, str], words: str
) -> None:
    services.engine.add(kind, name, **labels)
    with pytest.raises(DaskError, match=words):
        services.run(check=check)
    assert services.engine.names(kind) == {name}
    assert not Path(services.directories["configuration"], "stack").exists()


def test_a_service_of_ours_that_somebody_made_anew_is_refused_at_removal(services: Services) -> None:
    services.run()
    services.engine.swarm["service"].clear()
    services.engine.add("service", "dask-main_worker-a", **OURS)
    with pytest.raises(DaskError, match="Service dask-main_worker-a is refused"):
        services.run("absent")
    assert services.engine.names("service") == {"dask-main_worker-a"}


def test_what_others_have_in_a_stack_of_our_name_stays(services: Services) -> None:
    services.run()
    for kind in ("secret", "config", "network"):
        services.engine.add(kind, "dask-main-lab", **{NAMESPACE: "dask-main"})
    services.run(secret="dask-main-identity-2")
    assert services.engine.names("secret") == {"dask-main-identity-2", "dask-main-lab"}
    services.run("absent")
    for kind in ("secret", "config", "network"):
        assert services.engine.names(kind) == {"dask-main-lab"}


def test_a_network_that_somebody_uses_is_said(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.flotilla.dask.plugins.module_utils.launchers.swarm.START_SECONDS", 0.1)
    services.run()
    [network] = services.engine.swarm["network"].values()
    network["in use"] = True
    with pytest.raises(DaskError, match=r"network dask-main are left\. Somebody uses them"):
        services.run("absent")
    network["in use"] = False
    assert services.run("absent")["changed"], "what a removal left is removed by the next one"
    assert services.engine.names("network") == set()
    assert not services.run("absent")["changed"]


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["TaskTemplate"]["ContainerSpec"].update(Image="other"),
        lambda spec: spec["TaskTemplate"]["ContainerSpec"].update(Args=["other"]),
        lambda spec: spec["TaskTemplate"]["ContainerSpec"].update(Env=["A=other"]),
        lambda spec: spec["TaskTemplate"]["Placement"].update(Constraints=None),
        lambda spec: spec["Mode"]["Replicated"].update(Replicas=7),
    ],
)
def test_a_service_that_somebody_changed_is_what_it_was_after_the_next_run(
    services: Services, change: t.Callable[[dict[str, t.Any]], None]
) -> None:
    services.run()
    before = json.dumps(services.service())
    change(services.service()["Spec"])
    assert json.dumps(services.service()) != before
    assert services.run()["restarted"] == ["worker-a"]
    assert json.loads(before) == services.service()
    assert not services.run()["changed"]


@pytest.mark.parametrize("state", ["paused", "updating", "rollback_completed"])
def test_an_update_that_was_given_up_or_never_waited_for_is_done_again(services: Services, state: str) -> None:
    services.run()
    services.service()["UpdateStatus"] = {"State": state}
    assert services.run()["changed"]
    services.service()["UpdateStatus"] = {"State": "completed"}
    assert not services.run()["changed"]


def test_a_run_that_was_killed_between_definition_and_deployment_is_made_good(services: Services) -> None:
    services.run()
    stack = Stack("dask-main", services.directories["configuration"] + "/stack")
    stack.write("worker-a", services.definition("worker-a", command=["other"], secret="dask-main-identity-2"))
    assert services.run(command=["other"], secret="dask-main-identity-2")["restarted"] == ["worker-a"]
    assert services.service()["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"] == ["other"]
    assert services.engine.names("secret") == {"dask-main-identity-2"}


def test_a_run_that_was_killed_before_it_recorded_what_it_made_leaves_nothing(services: Services) -> None:
    services.run()
    Path(services.directories["configuration"], "stack", RECORD).unlink()
    assert not services.run()["changed"]
    services.run(secret="dask-main-identity-2")
    assert services.engine.names("secret") == {"dask-main-identity-2"}
    services.run("absent")
    assert not any(services.engine.swarm.values())


def test_a_record_that_is_not_ours_removes_nothing(services: Services) -> None:
    services.run()
    Path(services.directories["configuration"], "stack", RECORD).write_text('{"network": 7}')
    with pytest.raises(DaskError, match="created is refused: it is not what the collection wrote"):
        services.run("absent")
    assert services.engine.names("service") == {"dask-main_worker-a"}


def test_nothing_to_do_looks_for_nothing_of_others(services: Services) -> None:
    services.run()
    launcher = Swarm(services.directories, "main", "worker")
    services.engine.said.clear()
    launcher.check(Plan())
    assert services.engine.said == []
