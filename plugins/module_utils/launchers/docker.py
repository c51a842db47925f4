# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docker: a process is a container (private to this collection).

A definition is one service of a Compose file, as JSON. So the Compose file that is written for people cannot say
anything else than what runs, and containers that Compose made from it are taken for what they are: a container carries
the digest of its definition as a label.
"""

from __future__ import annotations

import glob
import json
import os
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import Launcher, Observed, Plan, run

CLUSTER, KIND, DEFINITION = ("flotilla.dask." + name for name in ("cluster", "kind", "definition"))
"""Labels of a container."""
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


class Docker(Launcher):
    """The containers of one kind of one cluster: ``dask-CLUSTER-PROCESS``, one for each process.

    :param directories: The plan's directories. What a container was made from is kept in ``containers`` below the one
        of the configuration.
    """

    def __init__(self, directories: t.Mapping[str, str], cluster: str, kind: str) -> None:
        self.definitions = os.path.join(directories["configuration"], "containers")
        self.prefix = "dask-{0}-".format(cluster)
        self.filters = ["--filter=label={0}={1}".format(*each) for each in ((CLUSTER, cluster), (KIND, kind))]
        self.kind = kind
        self.there: set[str] = set()  # of which there is a container, as observed

    def observe(self) -> dict[str, Observed]:
        columns = '{{{{.Names}}}}\\t{{{{.State}}}}\\t{{{{.Label "{0}"}}}}'.format(DEFINITION).replace("\\t", "\t")
        listing = run(["docker", "container", "ls", "--all", "--no-trunc", *self.filters, "--format", columns])
        observed = {}
        for line in listing.splitlines():
            container, state, made_from = line.split("\t")
            name = container[len(self.prefix) :]
            text = read_text(self._path(name)) or ""
            same = text and made_from == json.loads(text)["labels"][DEFINITION]
            observed[name] = Observed(definition=text if same else "", running=state in STATES)
        self.there = set(observed)
        paths = glob.glob(os.path.join(glob.escape(self.definitions), self.kind + "*.json"))
        for name in (os.path.basename(path)[: -len(".json")] for path in paths):
            # Somebody removed the container: what is left of it goes, or it is made anew.
            observed.setdefault(name, Observed(definition="", running=False))
        return observed

    def apply(self, steps: Plan) -> None:
        # All that stops does so at once, and before anything starts, as one may take over the other's ports.
        stopping = [*steps.stop, *steps.restart, *steps.remove]
        if self.there.intersection(stopping):
            run(["docker", "stop", *(self.prefix + name for name in stopping if name in self.there)])
        obsolete = [name for name in (*steps.write, *steps.remove) if name in self.there]
        if obsolete:
            run(["docker", "rm", *(self.prefix + name for name in obsolete)])
        for name in steps.remove:
            os.unlink(self._path(name))
        os.makedirs(self.definitions, mode=0o700, exist_ok=True)
        for name, definition in steps.write.items():
            write_text(self._path(name), definition, mode=0o600)
        with ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
            list(pool.map(lambda name: self._start(name, name in steps.write), (*steps.restart, *steps.start)))
        if obsolete:
            # Images of the cluster that no container is of any more. They can be built again.
            run(["docker", "image", "prune", "--all", "--force", self.filters[0]])

    def _start(self, name: str, new: bool) -> None:
        if new:
            run(["docker", "run", "--detach", *arguments(json.loads(read_text(self._path(name)) or "{}"))])
        else:
            run(["docker", "start", self.prefix + name])

    def _path(self, name: str) -> str:
        return os.path.join(self.definitions, name + ".json")


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
