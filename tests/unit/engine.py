# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for the program ``docker`` with an engine, of which it has what the collection asks for.

It answers as an engine 20.10 does, with the exit statuses and the words of that one. Whatever else it is asked fails.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import typing as t

ALONE = ("info", "inspect", "rm", "run", "start", "stop", "version")
"""Commands of ``docker`` that are no kind with a verb."""

STACK = "com.docker.stack.namespace"


class RefusedError(Exception):
    """What Docker says on standard error, with exit status 1."""


class Engine:
    """``containers``, ``images`` and, for the manager of a swarm, its objects by their kind. Each by its identity."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.containers: dict[str, dict[str, t.Any]] = {}
        self.images: dict[str, dict[str, t.Any]] = {}
        self.swarm: dict[str, dict[str, dict[str, t.Any]]] = {
            kind: {} for kind in ("service", "secret", "config", "network")
        }
        self.said: list[list[str]] = []

    def run(self, argv: t.Sequence[str], **_options: t.Any) -> subprocess.CompletedProcess[str]:
        """Stands for ``subprocess.run``."""
        self.said.append(list(argv))
        program, *words = argv
        assert program == "docker", argv
        kind, verb = ("host", words[0]) if words[0] in ALONE else (words[0], words[1])
        method = getattr(self, "_{0}_{1}".format(kind, verb))
        try:
            output = method(words[1:] if kind == "host" else words[2:])
        except RefusedError as refused:
            return subprocess.CompletedProcess(argv, 1, "[]\n" if verb == "inspect" else "", str(refused))
        return subprocess.CompletedProcess(argv, 0, output, "")

    def add_image(self, name: str, parent: str = "", **labels: str) -> str:
        """Makes an image, of an empty ``name`` one without; it inherits labels. Returns its identity."""
        identity = "sha256:{0:064x}".format(next(self.numbers))
        inherited = self.images[parent]["Config"]["Labels"] if parent else {}
        self.images[identity] = {
            "Id": identity,
            "Parent": parent,
            "RepoTags": [name] if name else [],
            "Config": {"Labels": {**inherited, **{key.replace("__", "."): value for key, value in labels.items()}}},
        }
        return identity

    def add_container(self, name: str, image: str = "lab", **config: t.Any) -> str:
        """Makes a container that runs. ``config``: as Docker describes it. Returns its identity."""
        identity = "{0:064x}".format(next(self.numbers))
        base = {"Image": image, "Cmd": [], "User": "", "Env": [], "Labels": {}}
        self.containers[identity] = {
            "Id": identity,
            "Name": "/" + name,
            "Image": self._image(image, missing=image),
            "State": {"Status": "running"},
            "Config": {**base, **config},
        }
        return identity

    def add(self, kind: str, name: str, **labels: str) -> str:
        """Makes an object of the swarm, with labels. Returns its identity."""
        identity = "{0}{1:024d}".format(kind[0], next(self.numbers))
        self.swarm[kind][identity] = {"ID": identity, "Spec": {"Name": name, "Labels": labels}}
        return identity

    def names(self, kind: str = "") -> set[str]:
        """The names of all objects of a kind; of containers where that is empty."""
        if not kind:
            return {each["Name"].lstrip("/") for each in self.containers.values()}
        return {each["Spec"]["Name"] for each in self.swarm[kind].values()}

    # What is asked of the engine.

    def _host_version(self, _words: list[str]) -> str:
        return "20.10.24\n"

    def _host_info(self, _words: list[str]) -> str:
        return "true\n"

    def _host_run(self, words: list[str]) -> str:
        options: dict[str, list[str]] = {}
        rest = list(words)
        while rest[0].startswith("-"):
            word = rest.pop(0)
            value = "" if word in ("--detach", "--init", "--read-only") or "=" in word else rest.pop(0)
            options.setdefault(word, []).append(value)
        name = options["--name"][0]
        if name in self.names():
            raise RefusedError("Conflict. The container name {0!r} is already in use".format("/" + name))
        labels = dict(each.split("=", 1) for each in options.get("--label", []))
        user = options.get("--user", [""])[0]
        return self.add_container(name, rest[0], Cmd=rest[1:], User=user, Env=options.get("--env", []), Labels=labels)

    def _host_start(self, words: list[str]) -> str:
        return self._each(words, lambda found: found["State"].update(Status="running"))

    def _host_stop(self, words: list[str]) -> str:
        return self._each(words, lambda found: found["State"].update(Status="exited"))

    def _host_rm(self, words: list[str]) -> str:
        return self._each(words, lambda found: self.containers.pop(found["Id"]))

    def _container_ls(self, words: list[str]) -> str:
        found = list(self.containers.values())
        for word in words:
            if word.startswith("--filter=ancestor="):
                wanted = word.rpartition("=")[2]
                found = [each for each in found if wanted in self._line(each["Image"])]
        values = [
            {**each, "ID": each["Id"], "Names": each["Name"].lstrip("/"), "State": each["State"]["Status"]}
            for each in found
        ]
        return self._listing(words, [(each, each["Config"]["Labels"]) for each in values])

    def _container_inspect(self, words: list[str]) -> str:
        return json.dumps([self.containers[each] for each in words])

    def _image_ls(self, words: list[str]) -> str:
        found = list(self.images.values())
        if "--filter=dangling=true" in words:
            [label] = [word for word in words if word.startswith("--filter=label=")]
            key, value = label.removeprefix("--filter=label=").split("=")
            found = [each for each in found if not each["RepoTags"] and each["Config"]["Labels"].get(key) == value]
        return "".join(each["Id"] + "\n" for each in found)

    def _image_inspect(self, words: list[str]) -> str:
        return json.dumps([self.images[self._image(words[0])]])

    def _image_rm(self, words: list[str]) -> str:
        assert "--force" not in words
        identity = self._image(words[0])
        refused = "conflict: unable to delete {0} (cannot be forced) - ".format(identity[7:19])
        if any(each["Parent"] == identity for each in self.images.values()):
            raise RefusedError(refused + "image has dependent child images")
        if any(each["Image"] == identity for each in self.containers.values()):
            raise RefusedError(refused + "image is being used by running container")
        del self.images[identity]
        return ""

    # What is asked of a swarm.

    def _node_ls(self, _words: list[str]) -> str:
        return ""

    def _service_ls(self, words: list[str]) -> str:
        return self._kept_ls("service", words)

    def _secret_ls(self, words: list[str]) -> str:
        return self._kept_ls("secret", words)

    def _config_ls(self, words: list[str]) -> str:
        return self._kept_ls("config", words)

    def _network_ls(self, words: list[str]) -> str:
        return self._kept_ls("network", words)

    def _service_inspect(self, words: list[str]) -> str:
        return json.dumps([self.swarm["service"][each] for each in words])

    def _service_rm(self, words: list[str]) -> str:
        return self._remove("service", words)

    def _secret_rm(self, words: list[str]) -> str:
        return self._remove("secret", words)

    def _config_rm(self, words: list[str]) -> str:
        return self._remove("config", words)

    def _network_rm(self, words: list[str]) -> str:
        return self._remove("network", words)

    def _service_ps(self, words: list[str]) -> str:
        return "".join(word + "\n" for word in words if not word.startswith("-"))

    def _service_update(self, words: list[str]) -> str:
        [service] = [each for each in self.swarm["service"].values() if each["Spec"]["Name"] == words[-1]]
        service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = words[words.index("--image") + 1]
        return ""

    def _host_inspect(self, words: list[str]) -> str:
        running = {"State": "running"}
        return json.dumps([{"CreatedAt": "", "DesiredState": "running", "Status": running} for _service in words[2:]])

    def _stack_ps(self, _words: list[str]) -> str:
        return ""

    def _stack_deploy(self, words: list[str]) -> str:
        stack = words[-1]
        for path in (value for option, value in zip(words, words[1:]) if option == "--compose-file"):
            with open(path, encoding="utf-8") as file:
                definition = json.loads(file.read().replace("$$", "$"))
            for kind in ("network", "config", "secret"):
                for each in definition.get(kind + "s", {}).values():
                    if each["name"] not in self.names(kind):
                        self.add(kind, each["name"], **{STACK: stack})
            for name, service in definition["services"].items():
                self._deploy("{0}_{1}".format(stack, name), stack, service)
        return ""

    def _deploy(self, name: str, stack: str, service: dict[str, t.Any]) -> None:
        found = [each for each in self.swarm["service"].values() if each["Spec"]["Name"] == name]
        made = found[0] if found else self.swarm["service"][self.add("service", name)]
        spec, deploy = made["Spec"], service["deploy"]
        image = service["image"]
        if found and spec["Labels"].get("com.docker.stack.image") == image:
            image = spec["TaskTemplate"]["ContainerSpec"]["Image"]  # as it is, whoever changed it
        spec["Labels"] = {**deploy["labels"], STACK: stack, "com.docker.stack.image": service["image"]}
        spec["Mode"] = {"Replicated": {"Replicas": deploy["replicas"]}}
        spec["TaskTemplate"] = {
            "ContainerSpec": {
                "Image": image,
                "Args": service["command"],
                "Env": ["{0}={1}".format(*each) for each in service["environment"].items()],
            },
            "Placement": {"Constraints": deploy["placement"]["constraints"]},
        }
        made.pop("UpdateStatus", None)

    # How Docker says it.

    def _kept_ls(self, kind: str, words: list[str]) -> str:
        found = list(self.swarm[kind].values())
        for word in words:
            if word.startswith("--filter=label="):
                key, value = word.removeprefix("--filter=label=").split("=")
                found = [each for each in found if each["Spec"]["Labels"].get(key) == value]
        return self._listing(
            words, [({**each, "Name": each["Spec"]["Name"]}, each["Spec"]["Labels"]) for each in found]
        )

    def _remove(self, kind: str, words: list[str]) -> str:
        for word in words:
            if self.swarm[kind][word].get("in use"):
                raise RefusedError("{0} {1} is in use".format(kind, word))
            del self.swarm[kind][word]
        return ""

    def _each(self, words: list[str], do: t.Callable[[dict[str, t.Any]], t.Any]) -> str:
        for word in words:
            do(self.containers[word])
        return ""

    def _image(self, name: str, missing: str | None = None) -> str:
        for identity, image in self.images.items():
            if name == identity or name in image["RepoTags"]:
                return identity
        if missing is None:
            raise RefusedError("Error: No such image: {0}".format(name))
        return missing

    def _line(self, image: str) -> list[str]:
        """An image and those that it is built upon."""
        line = [image]
        while line[-1] in self.images and self.images[line[-1]]["Parent"]:
            line.append(self.images[line[-1]]["Parent"])
        return line

    def _listing(self, words: list[str], rows: list[tuple[dict[str, t.Any], dict[str, str]]]) -> str:
        if "--quiet" in words:
            return "".join(values["ID"] + "\n" for values, _labels in rows)
        shape = words[words.index("--format") + 1]

        def filled(values: dict[str, t.Any], labels: dict[str, str]) -> str:
            text = re.sub(
                r'{{json \(.Label "(.*?)"\)}}', lambda found: json.dumps(labels.get(found.group(1), "")), shape
            )
            text = re.sub(r'{{.Label "(.*?)"}}', lambda found: labels.get(found.group(1), ""), text)
            return re.sub(r"{{\.(\w+)}}", lambda found: str(values[found.group(1)]), text)

        return "".join(filled(*row) + "\n" for row in rows)
