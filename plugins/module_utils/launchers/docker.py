# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docker: a process is a container (private to this collection).

A definition is one service of a Compose file, as JSON. So the Compose file that is written for people cannot say
anything else than what runs, and containers that Compose made from it are taken for what they are.

A container is the cluster's if it has the name of a definition, and as labels what that says, its digest included.
Labels alone prove nothing: whoever makes a container of the cluster's image, or copies a command line, has them too.
"""

from __future__ import annotations

import glob
import json
import os
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._images import Images
from ansible_collections.flotilla.dask.plugins.module_utils._service import Launcher, Observed, Plan, run

CLUSTER, KIND, DEFINITION = ("flotilla.dask." + name for name in ("cluster", "kind", "definition"))
"""Labels of a container."""
LISTED = '{{{{.ID}}}}\t{{{{.Names}}}}\t{{{{json (.Label "{0}")}}}}\t{{{{json (.Label "{1}")}}}}'.format(CLUSTER, KIND)
"""What Docker is to say of each container; of labels as JSON, since one may have lines and tabs of its own."""
STRANGER = "{0} {1} has the labels of the cluster, but the collection did not make it. It stays as it is."
STATES = ("running", "restarting", "paused")
STARTS_AT_ONCE = 8

OPTIONS = {
    "container_name": "--name",
    "cpuset": "--cpuset-cpus",
    "hostname": "--hostname",
    "mem_limit": "--memory",
    "memswap_limit": "--memory-swap",
    "network_mode": "--network",
    "pids_limit": "--pids-limit",
    "restart": "--restart",
    "shm_size": "--shm-size",
    "stop_grace_period": "--stop-timeout",
    "user": "--user",
    "working_dir": "--workdir",
}
REPEATED = {
    "cap_drop": "--cap-drop",
    "ports": "--publish",
    "security_opt": "--security-opt",
    "tmpfs": "--tmpfs",
    "volumes": "--volume",
}
PAIRS = {"environment": "--env", "labels": "--label"}
FLAGS = {"init": "--init", "read_only": "--read-only"}


class Listed(t.NamedTuple):
    """A container, as Docker lists it. ``process``: the rest of a name such as the cluster's, or nothing."""

    identity: str
    name: str
    process: str
    labels: tuple[str, str]


class Docker(Launcher):
    """The containers of one kind of one cluster: ``dask-CLUSTER-PROCESS``, one for each process.

    :param directories: The plan's directories. What a container was made from is kept in ``containers`` below the one
        of the configuration.
    """

    def __init__(self, directories: t.Mapping[str, str], cluster: str, kind: str) -> None:
        self.definitions = os.path.join(directories["configuration"], "containers")
        self.software = directories["software"]
        self.prefix = "dask-{0}-".format(cluster)
        self.labels = (cluster, kind)
        self.kind = kind
        self.there: dict[str, str] = {}  # the identities of the containers that are the cluster's, as observed
        self.remarks: list[str] = []

    def observe(self) -> dict[str, Observed]:
        definitions = {name: json.loads(read_text(self._path(name)) or "{}") for name in self._defined(self.kind)}
        listed = self._containers()
        identities = {each.process: each.identity for each in listed if each.process in definitions}
        observed = {}
        for name, found in zip(identities, _inspect(identities.values())):
            if not is_of(found, definitions[name]):
                continue
            self.there[name] = found["Id"]
            # What counts is what runs, whatever its label says.
            text = read_text(self._path(name)) if runs(found, definitions[name]) else None
            observed[name] = Observed(definition=text or "", running=found["State"]["Status"] in STATES)
        for name in definitions:
            # Somebody removed the container: what is left of it goes, or it is made anew.
            observed.setdefault(name, Observed(definition="", running=False))
        self.remarks = [
            STRANGER.format("Container", each.name)
            for each in listed
            if each.labels == self.labels and each.identity not in self.there.values()
        ]
        return observed

    def check(self, steps: Plan) -> None:
        here = {each.process: each.identity for each in self._containers() if each.process}
        foreign = [
            name for name in (*steps.write, *steps.remove) if name in here and here[name] != self.there.get(name)
        ]
        if foreign:
            raise DaskError(
                "\n".join(
                    "Container {0} is refused: it is not the one that the collection made, which has other labels. "
                    "Remove it with 'docker rm', or give it another name with 'docker rename'.".format(
                        self.prefix + name
                    )
                    for name in foreign
                )
            )

    def apply(self, steps: Plan) -> None:
        # All that stops does so at once, and before anything starts, as one may take over the other's ports.
        stopping = [*steps.stop, *steps.restart, *steps.remove]
        if self.there.keys() & set(stopping):
            run(["docker", "stop", *(self.there[name] for name in stopping if name in self.there)])
        obsolete = [name for name in (*steps.write, *steps.remove) if name in self.there]
        if obsolete:
            run(["docker", "rm", *(self.there[name] for name in obsolete)])
        for name in steps.remove:
            os.unlink(self._path(name))
        os.makedirs(self.definitions, mode=0o700, exist_ok=True)
        for name, definition in steps.write.items():
            write_text(self._path(name), definition, mode=0o600)
        with ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
            list(pool.map(lambda name: self._start(name, name in steps.write), (*steps.restart, *steps.start)))
        if obsolete:
            # Images that no container of the cluster is of any more. They can be built again.
            defined = {json.loads(read_text(self._path(name)) or "{}").get("image", "") for name in self._defined("")}
            self.remarks += Images(self.software).remove(names=defined)

    def _defined(self, kind: str) -> list[str]:
        """The names of all definitions of a kind; of all kinds where that is empty."""
        paths = glob.glob(os.path.join(glob.escape(self.definitions), kind + "*.json"))
        return sorted(os.path.basename(path)[: -len(".json")] for path in paths)

    def _containers(self) -> list[Listed]:
        """All containers of the host, whosever they are."""
        listing = run(["docker", "container", "ls", "--all", "--no-trunc", "--format", LISTED])
        found = []
        for line in filter(None, listing.split("\n")):
            identity, names, cluster, kind = line.split("\t")
            name = next(each for each in names.split(",") if "/" not in each)  # the others are links to it
            process = name[len(self.prefix) :] if name.startswith(self.prefix) else ""
            found.append(Listed(identity, name, process, (json.loads(cluster), json.loads(kind))))
        return found

    def _start(self, name: str, new: bool) -> None:
        if new:
            run(["docker", "run", "--detach", *arguments(json.loads(read_text(self._path(name)) or "{}"))])
        else:
            run(["docker", "start", self.there[name]])

    def _path(self, name: str) -> str:
        return os.path.join(self.definitions, name + ".json")


def is_of(container: t.Mapping[str, t.Any], definition: t.Mapping[str, t.Any]) -> bool:
    """Whether a container, as Docker describes it, was made from a definition, by the collection or by Compose."""
    labels = container["Config"]["Labels"] or {}
    return bool(definition) and all(labels.get(key) == value for key, value in definition["labels"].items())


def runs(container: t.Mapping[str, t.Any], definition: t.Mapping[str, t.Any]) -> bool:
    """Whether a container runs what its definition says, and as whom it says."""
    config = container["Config"]
    environment = {"{0}={1}".format(*each) for each in definition.get("environment", {}).items()}
    return bool(
        config["Image"] == definition["image"]
        and (config["Cmd"] or []) == definition["command"]
        and config["User"] == definition.get("user", "")
        and environment <= set(config["Env"] or [])
    )


def arguments(service: t.Mapping[str, t.Any]) -> list[str]:
    """Returns what ``docker run`` is told for a service of a Compose file.

    :param service: With the keys that the tables above name, ``image``, ``command`` and ``logging``, and values of one
        form each: lists of strings, mappings of strings, numbers as such, ``stop_grace_period`` as ``90s``.
    """
    words = []
    for key, value in sorted(service.items()):
        if key in OPTIONS:
            words += [OPTIONS[key], str(value).rstrip("s") if key == "stop_grace_period" else str(value)]
        elif key in REPEATED:
            words += [word for each in value for word in (REPEATED[key], each)]
        elif key in PAIRS:
            words += [word for each in sorted(value.items()) for word in (PAIRS[key], "{0}={1}".format(*each))]
        elif key in FLAGS:
            words += [FLAGS[key]] if value else []
        elif key == "logging":
            words += ["--log-driver", value["driver"]]
            words += ["--log-opt={0}={1}".format(*each) for each in sorted(value["options"].items())]
        elif key not in ("command", "image"):
            raise KeyError(key)
    return [*words, service["image"], *service["command"]]


def _inspect(containers: t.Collection[str]) -> list[dict[str, t.Any]]:
    """Returns what Docker knows of containers, in their order."""
    if not containers:
        return []
    return t.cast("list[dict[str, t.Any]]", json.loads(run(["docker", "container", "inspect", *containers])))
