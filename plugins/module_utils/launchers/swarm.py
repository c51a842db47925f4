# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""swarm: a process, with all its replicas, is a service of a Docker stack (private to this collection).

A definition is a whole stack file with this one service in it. A service carries the digest of its definition as a
label, so that nobody has to know all that Docker makes of it.

Who deploys a stack of the same name, or copies labels, has the labels of this one. So the identities of what was made
are recorded, beside the definitions, and nothing else is changed or removed.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import time
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import Launcher, Observed, Plan, run
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.docker import (
    CLUSTER,
    DEFINITION,
    KIND,
    STRANGER,
)

NAMESPACE = "com.docker.stack.namespace"
"""Docker's own label of all that belongs to a stack."""

START_SECONDS = 120
"""How long a task may take to run, its image pulled, and what a swarm finds out about a node that is lost included."""

SETTLED = ("", "completed")
"""The states of an update that is over and went well."""

KEPT = ("secret", "config", "network")
"""What belongs to a stack and has no tasks."""

RECORD = "created"
"""Name of the file, beside the definitions, that says what was made in the swarm: identities, by their kind."""

SERVICE = "service"

LEFT = "rest"
"""What a removal that was killed has left of a stack, among the processes that are to be removed."""


class Stack:
    """One cluster's services, and what they need, in the swarm that this host manages."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.directory = directory
        self.filter = "--filter=label={0}={1}".format(NAMESPACE, name)
        self._record = os.path.join(directory, RECORD)

    def is_here(self) -> bool:
        """Whether this host manages a swarm at all."""
        return run(["docker", "info", "--format", "{{.Swarm.ControlAvailable}}"]).strip() == "true"

    def services(self, *labels: tuple[str, str]) -> dict[str, dict[str, t.Any]]:
        """Returns what Docker knows of the stack's own services that have these labels, by their names within it."""
        filters = ["--filter=label={0}={1}".format(*label) for label in labels]
        identifiers = run(["docker", "service", "ls", "--quiet", self.filter, *filters]).split()
        if not identifiers:
            return {}
        found = json.loads(run(["docker", "service", "inspect", *identifiers]))
        recorded = self._recorded()[SERVICE]
        services = {each["Spec"]["Name"][len(self.name) + 1 :]: each for each in found}
        return {
            name: each for name, each in services.items() if each["ID"] in recorded or self._is_deployed(name, each)
        }

    def strangers(self, *labels: tuple[str, str]) -> list[str]:
        """Returns the names of the services that have these labels and are not the stack's own."""
        filters = ["--filter=label={0}={1}".format(*label) for label in labels]
        names = run(["docker", "service", "ls", "--format", "{{.Name}}", *filters]).split()
        return sorted(set(names) - set(map(self.full, self.services(*labels))))

    def check(self, names: t.Iterable[str], definitions: t.Iterable[str]) -> None:
        """Looks whether somebody else has services of these names, or what definitions are about to make.

        :raises DaskError: somebody has.
        """
        ours = {self.full(name): each["ID"] for name, each in self.services().items()}
        listing = run(["docker", "service", "ls", "--format", "{{.ID}}\t{{.Name}}"])
        there = {name: identity for identity, name in (line.split("\t") for line in listing.splitlines())}
        problems = [
            "Service {0} is refused: it is not one that the collection made. Remove it with 'docker service rm', and "
            "make it under another name.".format(name)
            for name in map(self.full, names)
            if name in there and name not in ours
        ]
        needed = _names_in(map(json.loads, definitions))
        for kind in KEPT:
            recorded = self._recorded()[kind]
            problems += [
                "{0} {1} is refused: it is not one that the collection made. Remove it with 'docker {2} rm', and make "
                "it under another name.".format(kind.capitalize(), name, kind)
                for identity, name, stack in self._kept(kind)
                if name in needed[kind] and stack != self.name and identity not in recorded
            ]
        if problems:
            raise DaskError("\n".join(problems))

    def record(self) -> None:
        """Writes down what of the stack is there and its own: what was recorded before, and what definitions make."""
        recorded, mentioned = self._recorded(), self._mentioned()
        made = {SERVICE: sorted(each["ID"] for each in self.services().values())}
        for kind in KEPT:
            made[kind] = sorted(
                identity
                for identity, name, stack in self._kept(kind)
                if identity in recorded[kind] or (name in mentioned[kind] and stack == self.name)
            )
        if made != recorded and (any(made.values()) or os.path.isdir(self.directory)):
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            write_text(self._record, json.dumps(made, indent=2, sort_keys=True) + "\n", mode=0o600)

    def is_left(self) -> bool:
        """Whether secrets, configurations or networks are left of a stack that has no services any more."""
        recorded = self._recorded()
        mentioned = self._mentioned()
        return any(recorded[kind] for kind in KEPT) and not any(mentioned.values())

    def lost_nodes(self) -> dict[str, str]:
        """Returns the names of the nodes that the swarm has lost, by their numbers; nobody hears of their tasks."""
        listing = run(["docker", "node", "ls", "--format", "{{.ID}}\t{{.Hostname}}\t{{.Status}}"])
        nodes = (line.split("\t") for line in listing.splitlines())
        return {number: name for number, name, status in nodes if status != "Ready"}

    def tasks(self, *services: str) -> list[dict[str, t.Any]]:
        """Returns what Docker knows of the tasks of services, the latest of each slot first."""
        names = [self.full(name) for name in services]
        identifiers = run(["docker", "service", "ps", "--quiet", "--no-trunc", *names]).split() if names else []
        if not identifiers:
            return []
        # 1: Docker has forgotten some of them meanwhile, and tells of the others.
        found = json.loads(run(["docker", "inspect", "--type", "task", *identifiers], accept=(0, 1)))
        return sorted(found, key=lambda task: str(task["CreatedAt"]), reverse=True)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name + ".json")

    def full(self, name: str) -> str:
        return "{0}_{1}".format(self.name, name)

    def read(self, name: str) -> str:
        """Returns a definition as it was rendered; in the file it has what Compose needs to leave it as it is."""
        return (read_text(self.path(name)) or "").replace("$$", "$")

    def write(self, name: str, definition: str) -> None:
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        write_text(self.path(name), definition.replace("$", "$$"), mode=0o600)

    def deploy(self, names: t.Sequence[str]) -> None:
        """Makes services what their definitions say. :raises DaskError: Docker refused, or somebody has the names."""
        self.check(names, map(self.read, names))
        self.record()  # what a run made that was killed
        files = [word for name in names for word in ("--compose-file", self.path(name))]
        words = ["docker", "stack", "deploy", "--resolve-image", "never", "--with-registry-auth"]
        run([*words, *files, self.name])
        self.record()
        services = self.services()
        for name in names:
            image = _service(json.loads(self.read(name)), name)["image"]
            if services[name]["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] != image:
                # Somebody gave the service another one, which a deployment keeps where the definition's is the same.
                run(
                    ["docker", "service", "update", "--detach", "--no-resolve-image", "--image", image, self.full(name)]
                )

    def remove(self, names: t.Sequence[str], seconds: float) -> None:
        """Removes services, and returns when none of their tasks is left. :raises DaskError: some don't go."""
        there = self.services()
        identifiers = [there[name]["ID"] for name in names if name in there]
        if identifiers:
            run(["docker", "service", "rm", *identifiers])
        left: list[str] = []

        def gone() -> bool:
            # Tasks of services that are no more are named by the number of the service.
            left[:] = [task for task in self._tasks_left() if task.split(".")[0] in identifiers]
            return not left

        if not poll(gone, seconds):
            raise DaskError(
                "Waited {0:g} s for the tasks of {1} to end, in vain: {2} are left. 'docker stack ps {3}' shows them; "
                "on their nodes 'docker ps' does.".format(seconds, ", ".join(names), len(left), self.name)
            )

    def vanish(self, seconds: float) -> None:
        """Removes all that is left of what the stack made. :raises DaskError: it does not go."""
        left: list[str] = []

        def gone() -> bool:
            left.clear()
            recorded = self._recorded()
            for kind in KEPT:
                # A network is in use for a moment longer than the tasks that used it.
                for identity, name, _stack in self._kept(kind):
                    if identity in recorded[kind]:
                        left.append("{0} {1}".format(kind, name))
                        run(["docker", kind, "rm", identity], accept=(0, 1))
            return not left

        if not poll(gone, seconds):
            raise DaskError(
                "Waited {0:g} s for all of stack {1} to be gone, in vain: {2} are left. Somebody uses them: look with "
                "'docker network inspect' and 'docker service ls', end what does, and run this again.".format(
                    seconds, self.name, ", ".join(left)
                )
            )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._record)

    def prune(self) -> None:
        """Removes earlier secrets, configurations and networks that no definition mentions any more."""
        recorded, mentioned = self._recorded(), self._mentioned()
        for kind in KEPT:
            for identity, name, _stack in self._kept(kind):
                if identity in recorded[kind] and name not in mentioned[kind]:
                    run(["docker", kind, "rm", identity], accept=(0, 1))  # 1: a stage of a pipeline has it

    def _is_deployed(self, name: str, service: t.Mapping[str, t.Any]) -> bool:
        """Whether a service is what somebody has made of the definition of that name."""
        text = self.read(name)
        labels = _service(json.loads(text), name)["deploy"]["labels"] if text else {}
        return bool(labels) and all(service["Spec"]["Labels"].get(key) == value for key, value in labels.items())

    def _mentioned(self) -> dict[str, set[str]]:
        """The names of what all definitions need, by the kind."""
        paths = glob.glob(os.path.join(glob.escape(self.directory), "*.json"))
        return _names_in(json.loads(read_text(path) or "{}") for path in paths)

    def _kept(self, kind: str) -> list[tuple[str, str, str]]:
        """Identity, name and stack of all of a kind that the swarm has, whosever they are."""
        shape = '{{{{.ID}}}}\t{{{{.Name}}}}\t{{{{json (.Label "{0}")}}}}'.format(NAMESPACE)
        words = ["--no-trunc", "--filter=scope=swarm"] if kind == "network" else []
        listing = run(["docker", kind, "ls", *words, "--format", shape])
        lines = (line.split("\t") for line in listing.split("\n") if line)
        return [(identity, name, json.loads(stack)) for identity, name, stack in lines]

    def _recorded(self) -> dict[str, list[str]]:
        """Identities of what was made, by the kind. :raises DaskError: the record is not what the collection wrote."""
        text = read_text(self._record)
        try:
            found = json.loads(text) if text else {}
            made = {kind: list(map(str, found.get(kind, []))) for kind in (SERVICE, *KEPT)}
        except (AttributeError, TypeError, ValueError) as error:
            raise DaskError(
                "{0} is refused: it is not what the collection wrote ({1!r}). It lists what was made in the swarm. "
                "Remove the file; secrets, configurations and networks that 'docker' lists with the label {2}={3} and "
                "that nothing uses have to be removed by hand.".format(self._record, error, NAMESPACE, self.name)
            ) from error
        return made

    def _tasks_left(self) -> list[str]:
        shape = "{{.Name}}\t{{.Node}}\t{{.CurrentState}}"
        listing = run(["docker", "stack", "ps", "--format", shape, self.name], accept=(0, 1))
        lost = set(self.lost_nodes().values())
        tasks = (line.split("\t") for line in listing.splitlines())
        return [name for name, node, state in tasks if node not in lost and is_alive(state.split()[0].lower())]


def is_alive(state: str) -> bool:
    """Whether a task in this state has a container that runs, or will have one."""
    return state not in ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")


class Swarm(Launcher):
    """The services of one kind of one cluster: ``dask-CLUSTER_PROCESS``, one for each process with its replicas.

    :param directories: The plan's directories. The definitions are kept in ``stack`` below that of the configuration.
    """

    reads_secrets = False  # what the swarm keeps of them never changes

    def __init__(self, directories: t.Mapping[str, str], cluster: str, kind: str) -> None:
        self.stack = Stack("dask-" + cluster, os.path.join(directories["configuration"], "stack"))
        self.labels = ((CLUSTER, cluster), (KIND, kind))
        self.kind = kind

    def observe(self) -> dict[str, Observed]:
        is_here = self.stack.is_here()
        services = self.stack.services(*self.labels) if is_here else {}
        observed = {}
        for name, service in services.items():
            text = self.stack.read(name)
            # What counts is what runs, whatever its label says.
            same = bool(text) and runs(service, _service(json.loads(text), name))
            replicas = service["Spec"]["Mode"]["Replicated"]["Replicas"]
            observed[name] = Observed(definition=text if same else "", running=replicas > 0)
        self.remarks = [
            STRANGER.format("Service", name) for name in (self.stack.strangers(*self.labels) if is_here else ())
        ]
        paths = glob.glob(os.path.join(glob.escape(self.stack.directory), self.kind + "*.json"))
        for name in (os.path.basename(path)[: -len(".json")] for path in paths):
            # Somebody removed the service: what is left of it goes, or it is made anew.
            observed.setdefault(name, Observed(definition="", running=False))
        if is_here and self.stack.is_left():
            observed[LEFT] = Observed(definition="", running=False)
        return observed

    def check(self, steps: Plan) -> None:
        if steps and self.stack.is_here():
            self.stack.check((*steps.write, *steps.remove), steps.write.values())

    def apply(self, steps: Plan) -> None:
        if self.stack.is_here():
            self.stack.record()  # what the definitions mention that are about to change
        seconds = {name: self._stop_seconds(name) for name in (*steps.stop, *steps.remove)}
        if steps.stop:
            run(["docker", "service", "scale", "--detach", *(self.stack.full(name) + "=0" for name in steps.stop)])
            self._wait_until_settled(steps.stop, max(seconds.values()))
        if steps.remove:
            self.stack.remove(steps.remove, max(seconds.values()))
            for name in steps.remove:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.stack.path(name))
        for name, definition in steps.write.items():
            self.stack.write(name, definition)
        starting = sorted({*steps.write, *steps.start, *steps.restart})
        if starting:
            self.stack.deploy(starting)
            self._wait_until_settled(starting, max(map(self._update_seconds, starting)))
        if self.stack.is_here():
            self.stack.prune()
            if steps.remove and not self.stack.services():  # of ours
                self.stack.vanish(START_SECONDS)

    def _definition(self, name: str) -> dict[str, t.Any]:
        text = self.stack.read(name)
        return _service(json.loads(text), name) if text else {}

    def _stop_seconds(self, name: str) -> int:
        """How long a service may take to stop."""
        return int(self._definition(name).get("stop_grace_period", "0s").rstrip("s")) + START_SECONDS

    def _update_seconds(self, name: str) -> int:
        """How long it may take until every replica has been replaced."""
        deploy = self._definition(name)["deploy"]
        batches = -(-deploy["replicas"] // deploy["update_config"]["parallelism"])
        return int(batches) * self._stop_seconds(name)

    def _wait_until_settled(self, names: t.Sequence[str], seconds: float) -> None:
        """Returns when all replicas that are wanted run, as they are wanted. :raises DaskError: they don't."""
        unsettled: list[str] = []

        def settled() -> bool:
            services = self.stack.services(*self.labels)
            unsettled[:] = [name for name in names if not self._is_settled(services[name])]
            return not unsettled

        began = time.monotonic()
        if not poll(settled, seconds, longest_pause=1):
            raise DaskError(
                "\n".join(
                    "Service {0} isn't as it should be after {1:.0f} s: {2}.".format(
                        self.stack.full(name),
                        time.monotonic() - began,
                        "; ".join(problems(self.stack.tasks(name))) or "its tasks don't tell why",
                    )
                    for name in unsettled
                )
            )

    def _is_settled(self, service: t.Mapping[str, t.Any]) -> bool:
        name = service["Spec"]["Name"][len(self.stack.name) + 1 :]
        state = service.get("UpdateStatus", {}).get("State", "")
        if state.startswith(("paused", "rollback")):
            raise DaskError(
                "Docker gave up replacing service {0}: {1}. {2}".format(
                    self.stack.full(name),
                    service["UpdateStatus"].get("Message", state),
                    "; ".join(problems(self.stack.tasks(name))),
                )
            )
        if state not in SETTLED:
            return False
        lost = self.stack.lost_nodes()
        tasks = [
            (task["DesiredState"], task["Status"]["State"])
            for task in self.stack.tasks(name)
            if is_alive(task["Status"]["State"]) and task.get("NodeID") not in lost
        ]
        return tasks == [("running", "running")] * service["Spec"]["Mode"]["Replicated"]["Replicas"]


def problems(tasks: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """Returns in words what keeps tasks from running, each reason once."""
    found = (
        "{0}: {1}".format(task["Status"]["State"], task["Status"].get("Err") or task["Status"].get("Message", ""))
        for task in tasks
        if task["Status"]["State"] != "running"
    )
    return sorted(set(found))[:5]


def runs(service: t.Mapping[str, t.Any], definition: t.Mapping[str, t.Any]) -> bool:
    """Whether a service, as Docker describes it, is all that its definition says, in words that nobody changed."""
    spec, deploy = service["Spec"], definition["deploy"]
    task = spec["TaskTemplate"]
    container = task["ContainerSpec"]
    environment = {"{0}={1}".format(*each) for each in definition["environment"].items()}
    return bool(
        spec["Labels"].get(DEFINITION) == deploy["labels"][DEFINITION]
        and spec["Mode"]["Replicated"]["Replicas"] in (0, deploy["replicas"])
        and service.get("UpdateStatus", {}).get("State", "") in SETTLED
        and container["Image"] == definition["image"]
        and container.get("Args", []) == definition["command"]
        and set(container.get("Env", [])) == environment
        and sorted(task.get("Placement", {}).get("Constraints") or []) == sorted(deploy["placement"]["constraints"])
    )


def _names_in(definitions: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, set[str]]:
    """The names of what definitions need besides their services, by the kind."""
    names: dict[str, set[str]] = {kind: set() for kind in KEPT}
    for definition in definitions:
        for kind in KEPT:
            names[kind] |= {each["name"] for each in definition.get(kind + "s", {}).values()}
    return names


def _service(definition: t.Mapping[str, t.Any], name: str) -> dict[str, t.Any]:
    service: dict[str, t.Any] = definition["services"][name]
    return service
