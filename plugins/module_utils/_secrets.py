# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Secrets: what may be one, and the files on a host that processes have them from (private to this collection).

A process is told the names of its secrets in ``FLOTILLA_SECRETS``, and in ``CREDENTIALS_DIRECTORY`` the directory that
has a file for each. ``_in_process`` makes environment variables of them. No value is in a message, a definition or an
argument of a command. A definition has the version of the process's secrets instead: a digest that nobody can compare
with that of a guess, as the key to it stays on the host, where only this account reads it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import Account
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    make_directory,
    names_in,
    read_owned_text,
    read_text,
    remove_tree,
    write_text,
)

NAMES, DIRECTORY, VERSION = "FLOTILLA_SECRETS", "CREDENTIALS_DIRECTORY", "FLOTILLA_SECRETS_VERSION"
"""Variables of a process: the names of its secrets, where their files are, and the version that it was started with."""
PLACEHOLDER = "@secrets@"
"""What a definition has where the version of the process's secrets is to be."""
IN_CONTAINERS = "/run/secrets"
"""Where containers have the files, by the custom of Docker."""
LEAST_CHARACTERS = 4
"""Ansible removes the value of a secret from all results. Of a shorter one little would be left of them."""
LARGEST = 64 * 2**10
"""Bytes of a value. Linux starts no program with a variable of more than 128 KiB."""
LARGEST_SUM = 256 * 2**10
"""Bytes of all values of a mapping. A process has two of them at most, and systemd takes 1 MiB for a unit."""
KEY = "key"
"""Name of the file with the key to the versions."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_RESERVED = re.compile(
    r"(DASK|FLOTILLA|LC|LD)_.*|PYTHON[A-Z0-9]+|CREDENTIALS_DIRECTORY|HOME|LANG|LOGNAME|PATH|SHELL|SPT_NOENV|TMPDIR|USER",
    re.IGNORECASE,
)

Sets = t.Mapping[str, t.Mapping[str, str]]
"""Names and values of secrets, by the set that they are in; see ``set_of``."""


def set_of(kind: str, group: str) -> str:
    """Returns the name of the set of secrets that the processes of a kind, or of one group of workers, have."""
    return "{0}-{1}".format(kind, group) if group else kind


def read_secrets(variable: str, value: t.Any, others: t.Container[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Returns secrets by their names, and in words what is wrong with them, without a value.

    :param variable: What they are called, for the words.
    :param others: Names of environment variables that are given otherwise.
    """
    if value is None:
        return {}, []
    if not isinstance(value, t.Mapping):
        allowed = "a mapping of names of environment variables to their values"
        return {}, ["{0}: {1} is refused. Allowed: {2}.".format(variable, _kind_of(value), allowed)]
    found: dict[str, str] = {}
    problems = []
    for name, each in value.items():
        where = "{0}.{1}".format(variable, name)
        text = str(each) if isinstance(each, (str, int, float)) and not isinstance(each, bool) else None
        problem = _problem_of_name(str(name), others) or _problem_of_value(each, text)
        if problem:
            problems.append("{0}: {1}.".format(where, problem))
        else:
            found[str(name)] = text or ""
    if sum(len(each.encode()) for each in found.values()) > LARGEST_SUM:
        problems.append(
            "{0}: more than {1} KiB is refused. Allowed: at most that for all values together. Bring larger files to "
            "the hosts by a task of your own.".format(variable, LARGEST_SUM // 2**10)
        )
    return found, problems


def shown(value: t.Any) -> t.Any:
    """Returns a setting as a message may show it: of secrets within it only the names."""
    if isinstance(value, t.Mapping):
        return {key: _shown_secrets(each) if key == "secrets" else shown(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(each) for each in value]
    return str(value) if isinstance(value, str) else value  # Ansible wraps text in subclasses with a long repr


def _shown_secrets(value: t.Any) -> t.Any:
    return dict.fromkeys(map(str, value), "(secret)") if isinstance(value, t.Mapping) else "(secret)"


def _problem_of_name(name: str, others: t.Container[str]) -> str:
    if not _NAME.fullmatch(name):
        return (
            "the name {0!r} is refused. Allowed: names of environment variables, which are at most 100 letters, digits "
            "and '_' and start with no digit".format(name)
        )
    if _RESERVED.fullmatch(name):
        return (
            "the name {0} is refused, as Dask, Python, the system or this collection reads the variable before a "
            "process has its secrets. Allowed: another name".format(name)
        )
    if name in others:
        return (
            "the name {0} is refused, as environment variables have it too. Allowed: a name in one of both. Remove it "
            "from the environment".format(name)
        )
    return ""


def _problem_of_value(value: t.Any, text: str | None) -> str:
    if text is None:
        return "{0} is refused. Allowed: text (quote booleans)".format(_kind_of(value))
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        return (
            "a value with a NUL character, or that is not Unicode, is refused. Allowed: text; encode it, as by base64"
        )
    if len(text) < LEAST_CHARACTERS:
        return (
            "a value of {0} characters is refused. Allowed: at least {1}, as Ansible removes secrets from all that it "
            "shows. Put what is no secret into the environment".format(len(text), LEAST_CHARACTERS)
        )
    size = len(text.encode())
    if size > LARGEST:
        return (
            "a value of {0} bytes is refused. Allowed: at most {1} KiB, as Linux starts no process with much larger "
            "variables. Bring a larger file to the hosts by a task of your own".format(size, LARGEST // 2**10)
        )
    return ""


def _kind_of(value: t.Any) -> str:
    """What a value is, without the value."""
    if value is None:
        return "no value"
    for kind, words in ((bool, "a boolean"), (str, "text"), ((int, float), "a number"), (t.Mapping, "a mapping")):
        if isinstance(value, t.cast("type", kind)):
            return words
    return "a list" if isinstance(value, t.Sequence) else "a value of another type"


def write_secrets(directory: str, values: t.Mapping[str, str], mode: int, owner: tuple[int, int] | None = None) -> None:
    """Writes a file for each secret, readable by its owner alone, into a directory of this process's own.

    :param mode: That of the directory. :param owner: Numbers of user and group that the files belong to.
    """
    make_directory(directory, mode, take={os.geteuid()})
    for name, value in values.items():
        write_text(os.path.join(directory, name), value, 0o400, owner)


class Store:
    """The secrets of a cluster's processes of one kind on this host: a directory for each set, a file for each secret.

    :param directory: Where they are, below one that belongs to whoever runs this.
    :param kind: The kind of the processes. Sets of others are left alone.
    :param sets: Of all kinds, those without secrets included.
    :param reader: The account that reads the files; None for whoever runs this. It can change the files, which the next
        run sees, and no name in their directory.
    """

    def __init__(self, directory: str, kind: str, sets: Sets, reader: Account | None = None) -> None:
        self.directory = directory
        self.sets = {name: values for name, values in sets.items() if values}
        self.own = {name: values for name, values in self.sets.items() if _is_of(name, kind)}
        self.owner = (reader.uid, reader.gid) if reader and reader.is_other else None
        self._mode = 0o711 if self.owner else 0o700
        self._key_path = os.path.join(directory, KEY)
        self._key = read_text(self._key_path)
        self.lacks_key = not self._key and bool(self.sets)
        self._key = self._key or os.urandom(32).hex()
        self.outdated = sorted(name for name in self.own if not self._is_written(name))
        there = [name for name in names_in(directory) if _is_of(name, kind)]
        self.left = [os.path.join(directory, name) for name in there if name not in self.own]
        for name, values in self.own.items():
            path = os.path.join(directory, name)
            self.left += [os.path.join(path, each) for each in names_in(path) if each not in values]

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.lacks_key or self.outdated or self.left)

    def version(self, name: str) -> str:
        """Returns what is different whenever a name or a value of a set is; empty for a set without secrets."""
        values = self.sets.get(name)
        text = json.dumps(values, sort_keys=True)
        return hmac.new(str(self._key).encode(), text.encode(), hashlib.sha256).hexdigest()[:12] if values else ""

    def versions(self) -> dict[str, str]:
        """Returns the versions of all sets that have secrets."""
        return {name: self.version(name) for name in self.sets}

    def diff(self) -> list[dict[str, str]]:
        """Returns in the shape of Ansible's diff mode what is written and removed, by names alone."""
        changes = [
            ("secrets of " + name, "", "".join("{0}: (secret)\n".format(each) for each in sorted(self.own[name])))
            for name in self.outdated
        ]
        changes += [(path, "(secret)\n", "") for path in self.left]
        return [
            {"before_header": what, "after_header": what, "before": before, "after": after}
            for what, before, after in changes
        ]

    def write(self) -> None:
        """Has the files. Processes that are to have them start afterwards."""
        if self.lacks_key or self.outdated:
            make_directory(self.directory, self._mode, take={os.geteuid()})
        if self.lacks_key:  # which is that of other kinds, too
            write_text(self._key_path, str(self._key), 0o400)
        for name in self.outdated:
            write_secrets(os.path.join(self.directory, name), self.own[name], self._mode, self.owner)

    def prune(self) -> None:
        """Removes what nothing uses any more, and with the last set the key to versions too."""
        for path in self.left:
            remove_tree(path)
        if not self.sets and set(names_in(self.directory)) <= {KEY}:
            remove_tree(self.directory)

    def _is_written(self, name: str) -> bool:
        """Whether the files of a set are there, as they should be."""
        if self.lacks_key:
            return False
        path = os.path.join(self.directory, name)
        try:
            return stat.S_IMODE(os.stat(path).st_mode) == self._mode and all(
                self._is_file(os.path.join(path, each), value) for each, value in self.own[name].items()
            )
        except (DaskError, OSError):
            return False

    def _is_file(self, path: str, value: str) -> bool:
        found = read_owned_text(path)
        if found is None:
            return False
        text, status = found
        owner = self.owner[0] if self.owner else os.geteuid()
        return text == value and (stat.S_IMODE(status.st_mode), status.st_uid) == (0o400, owner)


def _is_of(name: str, kind: str) -> bool:
    return name == kind or name.startswith(kind + "-")
