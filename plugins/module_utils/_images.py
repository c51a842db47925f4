# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images that the collection brought to a host, and those alone are removed (private to this collection).

Labels prove nothing, as whoever builds upon an image inherits them. So the identity of each image is recorded, in a
directory of root's. An image that is about to come is recorded by its name first: a run that is killed before it knows
the identity is made good by the next one.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, remove_tree, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import run
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll

RECORD = "images.json"
"""Name of the file, in the directory of the software, that says which images were brought to the host."""

ENVIRONMENT = "flotilla.dask.environment"
"""Label of an image: the environment in it."""

STAGE = "flotilla.dask.stage"
"""Label of what an image is built in, each time with another value."""

LEAVING_SECONDS = 60
"""How long an engine may take to remove the containers of a service that is no more."""

BUILT_UPON = "image has dependent child images"
"""What Docker says of an image that it cannot remove, as others are built upon it."""


class Images:
    """The record of one cluster on this host.

    :param directory: The plan's directory of the software, which belongs to root.
    :raises DaskError: the record is not what the collection wrote.
    """

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, RECORD)
        text = read_text(self.path)
        try:
            found = json.loads(text) if text else {"coming": None, "images": []}
            self.images: list[dict[str, str]] = [
                {"id": _text(each["id"]), "name": _text(each["name"])} for each in found["images"]
            ]
            coming = found["coming"]
            self.coming: dict[str, str] | None = (
                {key: _text(coming[key]) for key in ("name", "stage")} if coming else None
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DaskError(
                "{0} is refused: it is not what the collection wrote ({1!r}). It lists the images that were brought to "
                "this host for the cluster. Remove the file; those images have to be removed by hand, with "
                "'docker image rm'.".format(self.path, error)
            ) from error

    def expect(self, name: str) -> str:
        """Records that the image ``name`` is about to come. Returns the value of label ``STAGE`` to build it with."""
        self.settle()
        if self.coming is None or self.coming["name"] != name:
            self.coming = {"name": name, "stage": secrets.token_hex(8)}
            self._write()
        return self.coming["stage"]

    def is_unsettled(self) -> bool:
        """Whether an image was about to come, and is here."""
        return self.coming is not None and inspect_image(self.coming["name"]) is not None

    def settle(self) -> None:
        """Records the image that was about to come, if it is here, and removes what it was built in."""
        if self.coming is None:
            return
        found = inspect_image(self.coming["name"])
        if found is None:
            return
        for each in _built_in(self.coming["stage"]):
            run(["docker", "image", "rm", each], accept=(0, 1))  # 1: it went with another one
        self.images = [each for each in self.images if each["id"] != found["Id"]]
        self.images.append({"id": found["Id"], "name": self.coming["name"]})
        self.coming = None
        self._write()

    def is_empty(self) -> bool:
        return not self.images and self.coming is None

    def remove(self, names: t.Container[str] = (), latest: int = 0, patience: float = 0) -> list[str]:
        """Removes the recorded images that nothing uses. Never by force: Docker is asked, and may refuse.

        :param names: Images that are kept, by their names.
        :param latest: How many of the images that were brought last are kept.
        :param patience: Seconds to wait for containers that a swarm is about to remove.
        :returns: In a sentence each, the images that would have been removed and stay.
        """
        self.settle()
        here = set(run(["docker", "image", "ls", "--all", "--quiet", "--no-trunc"]).split())
        kept = [each for each in self.images if each["id"] in here]
        recent = [each["id"] for each in kept[len(kept) - latest :]] if latest else []
        stay = []
        for each in list(kept):
            if each["name"] in names or each["id"] in recent:
                continue
            problem = self._remove(each, patience)
            if problem:
                stay.append("Image {0} stays on this host: {1}.".format(each["name"], problem))
            else:
                kept.remove(each)
        if kept != self.images:
            self.images = kept
            self._write()
        return stay

    def forget(self) -> None:
        """Removes the record itself."""
        remove_tree(self.path)

    def _remove(self, image: t.Mapping[str, str], patience: float) -> str:
        """Removes an image. Returns why it stays, or nothing."""
        found = inspect_image(image["id"])
        if found is None:
            return ""
        ours = {familiar(each["name"]) for each in self.images if each["id"] == image["id"]}
        others = sorted(set(found.get("RepoTags") or []) - ours)
        if others:
            return "somebody calls it {0} too".format(", ".join(others))
        poll(lambda: not _only_leaving(image["id"]), patience)
        users = sorted(name for name, _state, _task in _containers_of(image["id"]))
        if users:
            return "the containers {0} are made of it, or of images that are built upon it".format(", ".join(users))
        outcome = subprocess.run(
            ["docker", "image", "rm", image["id"]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not outcome.returncode or inspect_image(image["id"]) is None:
            return ""
        said = outcome.stderr.strip()
        return (
            "other images are built upon it" if BUILT_UPON in said else "Docker refuses to remove it ({0})".format(said)
        )

    def _write(self) -> None:
        text = json.dumps({"coming": self.coming, "images": self.images}, indent=2, sort_keys=True) + "\n"
        write_text(self.path, text, mode=0o600)


def inspect_image(name: str) -> dict[str, t.Any] | None:
    """Returns what Docker knows of an image, by name or identity; None where there is none.

    :raises DaskError: the engine does not answer.
    """
    run(["docker", "version", "--format", "{{.Server.Version}}"])  # else a dead engine would have no images
    found = json.loads(run(["docker", "image", "inspect", name], accept=(0, 1)) or "[]")
    return t.cast("dict[str, t.Any]", found[0]) if found else None


def environment_of(image: t.Mapping[str, t.Any]) -> str:
    """Returns the name of the environment that an image was made from; empty for an image that has none."""
    return str(((image.get("Config") or {}).get("Labels") or {}).get(ENVIRONMENT, ""))


def familiar(name: str) -> str:
    """Returns the name of an image as Docker lists it."""
    for prefix in ("docker.io/library/", "docker.io/"):
        if name.startswith(prefix):
            name = name[len(prefix) :]
            break
    return name if "@" in name or ":" in name.rsplit("/", 1)[-1] else name + ":latest"


def _text(value: t.Any) -> str:
    if not isinstance(value, str) or not value or value.startswith("-"):
        raise ValueError("no name: {0!r}".format(value))
    return value


def _built_in(stage: str) -> list[str]:
    """Returns the images without a name that a build left, the latest first."""
    filters = ["--filter=dangling=true", "--filter=label={0}={1}".format(STAGE, stage)]
    return run(["docker", "image", "ls", "--quiet", "--no-trunc", *filters]).split()


def _containers_of(image: str) -> list[tuple[str, str, str]]:
    """Returns name, state and task of a swarm of all containers that are made of an image or of one built upon it."""
    shape = '{{.Names}}\t{{.State}}\t{{.Label "com.docker.swarm.task.id"}}'
    listing = run(["docker", "container", "ls", "--all", "--filter=ancestor=" + image, "--format", shape])
    return [t.cast("tuple[str, str, str]", tuple(line.split("\t"))) for line in listing.splitlines()]


def _only_leaving(image: str) -> bool:
    """Whether all that uses an image is containers that a swarm has ended and is about to remove."""
    users = _containers_of(image)
    return bool(users) and all(task and state != "running" for _name, state, task in users)
