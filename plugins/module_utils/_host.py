# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster's account, directories and files on a host (private to this collection).

What is made outside the cluster's own directories is recorded, so that exactly that is removed with the cluster.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import posixpath
import pwd
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    directory_status,
    make_directory,
    names_in,
    read_text,
    remove_tree,
    status,
    write_text,
)
from ansible_collections.flotilla.dask.plugins.module_utils._service import run

RECORD = "created.json"
"""Name of the file, in the configuration directory, that says what was made outside the cluster's own directories."""

COMMENT = "Dask clusters"
"""What the account that the collection makes says of itself. One without it is somebody else's, and stays as it is."""

_MODE = 0o755

Steps = t.List["Step"]
Options = t.Mapping[str, t.Any]


@dataclass(frozen=True)
class Step:
    """One thing to do. ``what`` names it in a diff, ``before`` and ``after`` are the diff's two sides."""

    what: str
    before: str
    after: str
    do: t.Callable[[], object]


def configure(options: Options, check_mode: bool) -> dict[str, t.Any]:
    """Makes the host what the options of the module ``dask_host`` say, or takes everything away.

    :raises DaskError: something is there that is not the collection's.
    """
    host = Host(options)
    steps = host.plan_present() if options["state"] == "present" else host.plan_absent()
    if not check_mode:
        for step in steps:
            step.do()
    return {
        "changed": bool(steps),
        "account": host.account_numbers(),
        "diff": [
            {"before_header": each.what, "after_header": each.what, "before": each.before, "after": each.after}
            for each in steps
        ],
    }


class Host:
    """This host, and what the options say that it is to have.

    ``account``: name, empty where the processes are this user's. ``directories``: the plan's. ``writable``: those that
    processes write to. ``files``: ``path`` and ``content`` of each.
    """

    def __init__(self, options: Options) -> None:
        self.account: str = options["account"]
        self.own: list[str] = list(options["directories"]["own"])
        self.parents: list[str] = list(options["directories"]["parents"])
        self.configuration: str = options["directories"]["configuration"]
        self.writable: list[str] = list(options["writable"])
        self.files: list[t.Mapping[str, str]] = list(options["files"])
        self.record = posixpath.join(self.configuration, RECORD)

    def plan_present(self) -> Steps:
        """Returns how to get an account, directories and files as they should be."""
        steps: Steps = []
        if self.account and _account(self.account) is None:
            after = "account: {0}\n".format(self.account)
            steps.append(Step("account " + self.account, "", after, self._make_account))
        ours = sorted({posixpath.dirname(file["path"]) for file in self.files} | {self.configuration})
        for path in ours:
            steps += self._plan_directory(path, "")
        for path in self._account_homes():
            steps += self._plan_directory(path, "")
        outside = [path for path in self.writable if not self._is_own(path)]
        recorded = self._recorded()
        for path in self.writable:
            steps += self._plan_directory(path, self.account)
        made = [path for path in outside if directory_status(path) is None]
        if set(made) - set(recorded):
            # Written before they are made: an interrupted run must not leave what nobody knows of.
            first = next(index for index, step in enumerate(steps) if step.what in made)
            steps.insert(first, self._plan_record(recorded, made))
        for file in self.files:
            before = read_text(file["path"])
            if before != file["content"] or not _is_mode(file["path"], 0o644):
                steps.append(_writing(file["path"], before or "", file["content"]))
        return steps

    def plan_absent(self) -> Steps:
        """Returns how to remove what the cluster has here. The record goes last of all directories."""
        last = [path for path in self.own if _is_in(self.record, path)]
        recorded = [path for path in self._recorded() if self._may_take(path)]
        trees = [*recorded, *(path for path in self.own if path not in last), *last]
        steps = [_removing(path) for path in trees if status(path) is not None]
        left = {path: self._left_in(path, trees) for path in self.parents}
        steps += [_emptying(path) for path, names in left.items() if names is not None and not names]
        account = _account(self.account) if self.account else None
        if account and account.pw_gecos == COMMENT and not any(left.values()):
            before = "account: {0}\n".format(self.account)
            steps.append(Step("account " + self.account, before, "", lambda: run(["userdel", self.account])))
        return steps

    def account_numbers(self) -> str:
        """Returns the numbers of account and group, as ``998:998``; empty where there is none."""
        found = _account(self.account) if self.account else None
        return "{0}:{1}".format(found.pw_uid, found.pw_gid) if found else ""

    def _plan_directory(self, path: str, owner: str) -> Steps:
        """Returns how to have a directory that belongs to ``owner``; to whom runs this where that is empty."""
        found = directory_status(path)
        after = "directory, mode {0:04o}, owner {1}\n".format(_MODE, owner or _name_of(os.geteuid()))
        if found is None:
            return [Step(path, "", after, lambda: self._make_directory(path, owner))]
        if os.geteuid() == 0:
            self._refuse_foreign(path, found)
        wanted = _account(owner) if owner else None
        is_owner = (wanted is not None and found.st_uid == wanted.pw_uid) if owner else found.st_uid == os.geteuid()
        if is_owner and stat.S_IMODE(found.st_mode) & 0o777 == _MODE:
            return []
        before = "directory, mode {0:04o}, owner {1}\n".format(
            stat.S_IMODE(found.st_mode) & 0o777, _name_of(found.st_uid)
        )
        return [Step(path, before, after, lambda: self._make_directory(path, owner))]

    def _refuse_foreign(self, path: str, found: os.stat_result) -> None:
        if found.st_uid not in self._users():
            raise DaskError(
                "{0} is refused: it belongs to {1}. The cluster takes directories of root{2} alone. Remove it, or set "
                "another dask_home or local_directory.".format(
                    path, _name_of(found.st_uid), " and of account " + self.account if self.account else ""
                )
            )

    def _make_directory(self, path: str, owner: str) -> None:
        wanted = _account(owner) if owner else None
        numbers = (wanted.pw_uid, wanted.pw_gid) if wanted else (os.geteuid(), os.getegid())
        # Looked at once more: somebody may have made it since.
        make_directory(path, _MODE, numbers, self._users() if os.geteuid() == 0 else None)

    def _users(self) -> set[int]:
        """Numbers of the users whose directories the cluster takes, as root."""
        account = _account(self.account) if self.account else None
        return {0, account.pw_uid} if account else {0}

    def _make_account(self) -> None:
        group = ["--user-group"]
        with contextlib.suppress(KeyError):
            group = ["--gid", str(grp.getgrnam(self.account).gr_gid)]
        words = ["--system", *group, "--no-create-home", "--home-dir", self.parents[-1]]  # all its clusters'
        run(["useradd", *words, "--shell", "/usr/sbin/nologin", "--comment", COMMENT, self.account])

    def _account_homes(self) -> list[str]:
        """The directories above the writable ones, which belong to root: their owner could put links in them."""
        account = _account(self.account) if self.account else None
        home = account.pw_dir if account and account.pw_gecos == COMMENT else ""
        return [path for path in self.parents if path == home and directory_status(path) is not None]

    def _may_take(self, path: str) -> bool:
        """Whether what was written down before it was made is not what somebody else has made instead."""
        found = status(path)
        return found is None or os.geteuid() != 0 or found.st_uid in self._users()

    def _is_own(self, path: str) -> bool:
        return any(_is_in(path, own) for own in self.own)

    def _recorded(self) -> list[str]:
        text = read_text(self.record)
        try:
            found = json.loads(text)["directories"] if text else []
            if not isinstance(found, list) or not all(map(_may_be_removed, found)):
                raise ValueError("no list of absolute paths")
        except (KeyError, TypeError, ValueError) as error:
            raise DaskError(
                "{0} is refused: it is not what the collection wrote ({1}). It lists directories that were made for "
                "the cluster. Remove the file; those directories have to be removed by hand.".format(self.record, error)
            ) from error
        return list(found)

    def _plan_record(self, before: list[str], made: list[str]) -> Step:
        texts = [
            json.dumps({"directories": each}, indent=2, sort_keys=True) + "\n"
            for each in (before, sorted({*before, *made}))
        ]
        return _writing(self.record, texts[0] if before else "", texts[1], 0o600)

    def _left_in(self, path: str, removed: t.Sequence[str]) -> list[str] | None:
        """Returns what stays in a directory; None where there is no directory."""
        if directory_status(path) is None:
            return None
        return [name for name in names_in(path) if posixpath.join(path, name) not in removed]


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _may_be_removed(path: t.Any) -> bool:
    """Whether a recorded path can be one that was made: never one of the system's top directories."""
    return isinstance(path, str) and posixpath.isabs(path) and posixpath.normpath(path).count("/") >= 2


def _is_mode(path: str, mode: int) -> bool:
    found = status(path)
    return found is not None and stat.S_IMODE(found.st_mode) == mode


def _writing(path: str, before: str, after: str, mode: int = 0o644) -> Step:
    return Step(path, before, after, lambda: write_text(path, after, mode))


def _removing(path: str) -> Step:
    return Step(path, "present\n", "", lambda: remove_tree(path))


def _emptying(path: str) -> Step:
    """Removes a directory unless somebody has put something into it meanwhile."""
    return Step(path, "empty directory\n", "", lambda: names_in(path) or remove_tree(path))
