# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster's account, directories and files on a host (private to this collection).

Only what the collection made is removed. A directory that belongs to root, or to whom this runs as, carries a mark in
it. One that processes write to, who could change a mark, stands in a record in the configuration directory. Which
clusters use the account stands in one place of the host.
"""

from __future__ import annotations

import grp
import json
import os
import posixpath
import pwd
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import (
    account_numbers,
    end_processes,
    find_account,
    processes_of,
    read_json,
)
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    directory_status,
    is_mount_point,
    make_directory,
    names_in,
    read_text,
    refuse_mounted,
    remove_tree,
    rename,
    stale_parts,
    status,
    write_text,
)
from ansible_collections.flotilla.dask.plugins.module_utils._service import run
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import is_in

MARK = ".flotilla-dask"
"""Name of the file in a directory that the collection owns."""

RECORD = "created.json"
"""Name of the file in the configuration directory that says which directories processes write to, and whether each was
made (true), or was there and empty (false)."""

USERS = "/etc/dask/account"
"""Which clusters of this host use the account, by their configuration directories."""

COMMENT = "Dask clusters"
"""What the account that the collection makes says of itself. One without it is somebody else's, and stays as it is."""

NO_LOGIN = ("nologin", "false")
"""Names of shells that nobody can log in with."""

_NOT_OURS = (
    "{0} is refused: it is not empty, and nothing of this collection made it. Move it away, or set another dask_home, "
    "dask_cluster_name or local_directory."
)
_MODE = 0o755
_LOST_AND_FOUND = "lost+found"

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
    problems = host.problems(removes=options["state"] == "absent")
    if problems:
        raise DaskError("\n".join(problems))
    steps = {"claimed": host.plan_claims, "present": host.plan_present, "absent": host.plan_absent}[options["state"]]()
    if not check_mode:
        for step in steps:
            step.do()
    return {
        "changed": bool(steps),
        "account": account_numbers(host.account),
        "unknown": [] if check_mode else host.unknown,
        "diff": [
            {"before_header": _shown(each.what), "after_header": _shown(each.what)}
            | {"before": each.before, "after": each.after}
            for each in steps
        ],
    }


class Host:
    """This host, and what the options say that it is to have.

    ``account``: name, empty where the processes are this user's. ``directories``: the plan's. ``writable``: those that
    processes write to. ``files``: ``path`` and ``content`` of each. ``unknown``: names of readers that have no account.
    ``keep``: directories that stay at a removal, unless they are empty.
    """

    def __init__(self, options: Options) -> None:
        directories = options["directories"]
        self.cluster: str = options["cluster"]
        self.account: str = options["account"]
        self.own: list[str] = list(directories["own"])
        self.configuration: str = directories["configuration"]
        self.jobs: str = directories["jobs"]
        self.writable: list[str] = list(options["writable"]) or [directories["state"]]
        self.files: list[t.Mapping[str, str]] = list(options["files"])
        self.unknown: list[str] = []
        if options["state"] == "present":
            self.files.append({"path": directories["readers"], "content": self._numbers(options["readers"])})
        self.keep: list[str] = list(options["keep"])
        self.home: str = directories["parents"][-1]
        self.marked = [path for path in self.own if path != directories["state"]]
        self.record = posixpath.join(self.configuration, RECORD)
        written = [*self.own, *self._recordable(), *([USERS] if self.account else [])]
        self.parents = sorted({above for path in written for above in _ancestors(path)} - set(self.marked))

    def _numbers(self, readers: t.Iterable[str]) -> str:
        """Returns the lines of the file of readers, each with a number and a name."""
        lines = []
        for name in readers:
            account = _account(name)
            if account is None:
                self.unknown.append(name)
            else:
                lines.append("{0} {1}\n".format(account.pw_uid, name))
        return "".join(lines)

    def problems(self, removes: bool = False) -> list[str]:
        """Returns in words what is in the way of the cluster on this host, or of its removal."""
        problems = []
        recordable = [path for path in self._recordable() if path in self.own or not removes]
        checks = [(self._refuse_unsafe_parents, path) for path in (*self.marked, *recordable)]
        checks += [(self._refuse_unmarked, path) for path in self.marked]
        checks += [(self._refuse_unrecorded, path) for path in recordable]
        checks += [(refuse_mounted, path) for path in self.own if removes]
        for check, path in checks:
            try:
                check(path)
            except (DaskError, OSError) as error:
                problems.append(str(error))
        if self.account and not removes and _account(self.account) is None and _is_group(self.account):
            problems.append(
                "Group {0} is refused: it is there without an account of its name, and would go with that. Remove it; "
                "or, if it is meant for Dask, make the account too, with the shell /usr/sbin/nologin.".format(
                    self.account
                )
            )
        found = _account(self.account) if self.account and not removes else None
        if found and posixpath.basename(found.pw_shell) not in NO_LOGIN:
            problems.append(
                "Account {0} is refused: it can log in, with {1}, so that it is a person's, and tasks would have all "
                "that is that person's. Rename it; or, if it is meant for Dask, set its shell to "
                "/usr/sbin/nologin.".format(self.account, found.pw_shell or "/bin/sh")
            )
        return list(dict.fromkeys(problems))

    def plan_claims(self) -> Steps:
        """Returns how to have the cluster's own directories, before anybody else puts something there."""
        steps: Steps = []
        for path in (*self.parents, *self.marked):
            if directory_status(path) is None:
                steps.append(_making(path, _mark_text(self.cluster if path in self.marked else "", made=True)))
            elif path in self.marked and self._mark(path) is None:
                steps.append(_writing(posixpath.join(path, MARK), "", _mark_text(self.cluster, made=False)))
        return self._plan_leftovers() + steps

    def plan_present(self) -> Steps:
        """Returns how to get an account, directories and files as they should be."""
        steps = self.plan_claims()
        if self.account:
            steps += self._plan_users([*self._users_of_account(), self.configuration])
            if _account(self.account) is None:
                after = "account: {0}\n".format(self.account)
                steps.append(Step("account " + self.account, "", after, self._make_account))
            for path in self.parents:
                steps += self._plan_directory(path, "") if self._mark(path) is not None else []
        for path in sorted({posixpath.dirname(file["path"]) for file in self.files} | {self.configuration}):
            steps += self._plan_directory(path, "")
        recorded = self._recorded()
        more = {path: directory_status(path) is None for path in self._recordable() if path not in recorded}
        if more:
            # Written before they are made: an interrupted run must not leave what nobody knows of.
            steps.append(self._plan_record(recorded, {**recorded, **more}))
        for path in self.writable:
            steps += self._plan_directory(path, self.account)
        for path in (self.jobs, posixpath.join(self.configuration, "pipelines")):
            steps += _closings(path)
        for file in self.files:
            before = read_text(file["path"])
            if before != file["content"] or not _is_mode(file["path"], 0o644):
                steps.append(_writing(file["path"], before or "", file["content"]))
        planned: dict[str, Step] = {}
        for step in steps:
            planned.setdefault(step.what, step)
        return list(planned.values())

    def plan_absent(self) -> Steps:
        """Returns how to remove what the cluster has here. What says that it is the cluster's goes last."""
        keep = [path for path in self.keep if _kept(path)]
        keep += [self.record] if keep else []
        users = self._users_of_account()
        others = [path for path in users if path != self.configuration]
        account = find_account(self.account) if self.account else None
        ours = account if account and _is_made(self.account) and not others else None
        steps: Steps = []
        if ours and ours.is_other and processes_of(ours):
            what = "processes of account " + self.account
            steps.append(Step(what, "running\n", "", lambda: end_processes(ours)))
        recorded = self._recorded()
        for path, made in recorded.items():
            if self._may_take(path):
                steps += _removals(path, keep, whole=made)
        for path in sorted(self.marked, key=lambda path: is_in(self.record, path)):
            mark = self._mark(path)
            if mark is not None:
                steps += _removals(path, keep, whole=mark["made"], marked=True)
        steps += self._plan_leftovers()
        if self.account and not keep:
            if ours:
                before = "account: {0}\n".format(self.account)
                steps.append(Step("account " + self.account, before, "", lambda: run(["userdel", self.account])))
            if users or status(USERS) is not None:
                steps += self._plan_users(others)
        gone = {step.what for step in steps if step.after == ""}
        above = {each for path in recorded for each in _ancestors(path)}
        for path in sorted({*self.parents, *above}, reverse=True):  # the innermost first
            left = {posixpath.join(path, name) for name in names_in(path)} - {posixpath.join(path, MARK)}
            if not left - gone and self._mark(path) is not None:
                steps.append(_emptying(path))
                gone.add(path)
        return steps

    def _recordable(self) -> list[str]:
        """The directories that processes write to and that are in none that carries a mark."""
        return [path for path in self.writable if not any(is_in(path, own) for own in self.marked)]

    def _refuse_unmarked(self, path: str) -> None:
        found = directory_status(path)
        if found is None:
            return
        if found.st_uid != os.geteuid():
            raise DaskError(
                "{0} is refused: it belongs to {1}. Remove it, or set another dask_home or dask_cluster_name.".format(
                    path, _name_of(found.st_uid)
                )
            )
        mark = self._mark(path)
        if mark is None and not _is_empty(path):
            raise DaskError(_NOT_OURS.format(path))
        if mark is not None and mark["cluster"] != self.cluster:
            raise DaskError("{0} is refused: it belongs to cluster {1!r}.".format(path, mark["cluster"]))

    def _refuse_unrecorded(self, path: str) -> None:
        found = directory_status(path)
        if found is None:
            return
        if os.geteuid() == 0 and found.st_uid not in self._user_numbers():
            raise DaskError(
                "{0} is refused: it belongs to {1}. The cluster takes directories of root{2} alone. Remove it, or set "
                "another dask_home or local_directory.".format(
                    path, _name_of(found.st_uid), " and of account " + self.account if self.account else ""
                )
            )
        recorded = path in self._recorded()
        if not _is_empty(path) and not (recorded and (found.st_uid != 0 or not self.account)):
            raise DaskError(_NOT_OURS.format(path))

    def _refuse_unsafe_parents(self, path: str) -> None:
        """Others could move away what is in a directory that they can write to, and put something else there."""
        trusted = {0, os.geteuid()}
        # A directory that everybody may put something into is for what workers spill, and not for programs and keys.
        shared = stat.S_ISVTX if path not in self.own or not self.account else 0
        own_group = {os.getegid()} if os.geteuid() else set()
        for above in dict.fromkeys([*_ancestors(path), *_ancestors(os.path.realpath(path))]):
            found = directory_status(above)
            if found is None:
                continue
            mark = self._mark(above)
            if mark is not None and mark["cluster"]:
                raise DaskError(
                    "{0} is refused: it is in {1}, which belongs to cluster {2!r} and goes with it. Name another "
                    "directory.".format(path, above, mark["cluster"])
                )
            others = found.st_mode & 0o002 or (found.st_mode & 0o020 and found.st_gid not in own_group)
            if found.st_uid not in trusted or (others and not found.st_mode & shared):
                raise DaskError(
                    "{0} is refused: others than {1} can write to {2} above it (owner {3}, mode {4:04o}), and so "
                    "replace it. Correct the owner and the mode, or name another directory.".format(
                        path, _name_of(os.geteuid()), above, _name_of(found.st_uid), stat.S_IMODE(found.st_mode)
                    )
                )

    def _plan_directory(self, path: str, owner: str) -> Steps:
        """Returns how to have a directory that belongs to ``owner``; to whom runs this where that is empty."""
        found = directory_status(path)
        after = "directory, mode {0:04o}, owner {1}\n".format(_MODE, owner or _name_of(os.geteuid()))
        if found is None:
            return [Step(path, "", after, lambda: self._make_directory(path, owner))]
        if os.geteuid() == 0 and found.st_uid not in self._user_numbers():
            raise DaskError("{0} is refused: it belongs to {1}.".format(path, _name_of(found.st_uid)))
        wanted = _account(owner) if owner else None
        is_owner = (wanted is not None and found.st_uid == wanted.pw_uid) if owner else found.st_uid == os.geteuid()
        if is_owner and stat.S_IMODE(found.st_mode) & 0o777 == _MODE:
            return []
        before = "directory, mode {0:04o}, owner {1}\n".format(
            stat.S_IMODE(found.st_mode) & 0o777, _name_of(found.st_uid)
        )
        return [Step(path, before, after, lambda: self._make_directory(path, owner))]

    def _make_directory(self, path: str, owner: str) -> None:
        wanted = _account(owner) if owner else None
        numbers = (wanted.pw_uid, wanted.pw_gid) if wanted else (os.geteuid(), os.getegid())
        # Looked at once more: somebody may have made it since.
        make_directory(path, _MODE, numbers, self._user_numbers() if os.geteuid() == 0 else None)

    def _user_numbers(self) -> set[int]:
        """Numbers of the users whose directories the cluster takes, as root."""
        account = _account(self.account) if self.account else None
        return {0, account.pw_uid} if account else {0}

    def _make_account(self) -> None:
        words = ["--system", "--user-group", "--no-create-home", "--home-dir", self.home]  # all its clusters'
        run(["useradd", *words, "--shell", "/usr/sbin/nologin", "--comment", COMMENT, self.account])

    def _users_of_account(self) -> list[str]:
        """Returns the configuration directories of the clusters that use the account."""
        if not self.account:
            return []
        text = read_text(USERS)
        found = read_json(text) if text else []
        if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
            raise DaskError(
                "{0} is refused: it is not what the collection wrote. It lists the configuration directories of the "
                "clusters that use account {1}. Correct it, as a list of paths.".format(USERS, self.account)
            )
        beside = posixpath.dirname(USERS)
        marked = [posixpath.join(beside, name) for name in names_in(beside)]
        found += [path for path in marked if _is_real_directory(path) and (self._mark(path) or {}).get("cluster")]
        return sorted({path for path in found if status(path) is not None})

    def _plan_users(self, users: t.Iterable[str]) -> Steps:
        before = read_json(read_text(USERS) or "[]")
        after = sorted(set(users))
        if before == after:
            return []
        texts = [json.dumps(each, indent=2) + "\n" if each else "" for each in (before, after)]
        if not after:
            return [Step(USERS, texts[0], "", lambda: remove_tree(USERS))]
        return [_writing(USERS, texts[0], texts[1], 0o600)]

    def _may_take(self, path: str) -> bool:
        """Whether what was written down before it was made is not what somebody else has made instead."""
        found = status(path)
        if found is None:
            return False
        account = _account(self.account) if self.account else None
        wanted = account.pw_uid if account else os.geteuid()
        return found.st_uid == wanted or (os.geteuid() == 0 and found.st_uid == 0 and _is_empty(path))

    def _recorded(self) -> dict[str, bool]:
        """Returns what the record says. :raises DaskError: somebody else wrote it."""
        text = read_text(self.record)
        found = read_json(text) if text else {"directories": {}}
        directories = found.get("directories") if isinstance(found, dict) else None
        if not isinstance(directories, dict) or not all(map(_may_be_recorded, directories.items())):
            raise DaskError(
                "{0} is refused: it is not what the collection wrote. It lists the directories that processes of the "
                "cluster write to. Remove the file; those directories have to be removed by hand.".format(self.record)
            )
        return directories

    def _plan_record(self, before: t.Mapping[str, bool], after: t.Mapping[str, bool]) -> Step:
        texts = [
            json.dumps({"directories": each}, indent=2, sort_keys=True) + "\n" if each else ""
            for each in (before, after)
        ]
        return _writing(self.record, texts[0], texts[1], 0o600)

    def _mark(self, path: str) -> dict[str, t.Any] | None:
        """Returns what the mark of a directory says; None where there is none that counts."""
        found = directory_status(path)
        if found is None or found.st_uid != os.geteuid():
            return None
        mark = read_json(read_text(posixpath.join(path, MARK)) or "null")
        is_mark = isinstance(mark, dict) and isinstance(mark.get("cluster"), str) and isinstance(mark.get("made"), bool)
        return mark if is_mark else None

    def _plan_leftovers(self) -> Steps:
        """Returns how to remove what a run that was killed left beside the cluster's directories."""
        left = [_part_of(path) for path in (*self.parents, *self.marked)]
        if self.account:
            left += stale_parts(USERS)
        found = [(path, status(path)) for path in left]
        return [_removing(path) for path, there in found if there is not None and there.st_uid == os.geteuid()]


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _is_group(name: str) -> bool:
    try:
        return bool(grp.getgrnam(name))
    except KeyError:
        return False


def _is_real_directory(path: str) -> bool:
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _is_made(name: str) -> bool:
    """Whether an account is the collection's own."""
    found = _account(name)
    return found is not None and found.pw_gecos == COMMENT and posixpath.basename(found.pw_shell) in NO_LOGIN


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _shown(name: str) -> str:
    """A name that need not be text, as text."""
    return name.encode(errors="backslashreplace").decode()


def _ancestors(path: str) -> t.Iterator[str]:
    """Yields the directories above a path, without the root directory."""
    while posixpath.dirname(path) not in (path, "/"):
        path = posixpath.dirname(path)
        yield path


def _is_empty(path: str) -> bool:
    """Whether nothing is in a directory. A new file system that is mounted there has one directory of its own."""
    return all(name == _LOST_AND_FOUND for name in names_in(path))


def _may_be_recorded(entry: tuple[t.Any, t.Any]) -> bool:
    """Whether a recorded path can be one that was made: never one of the system's top directories."""
    path, made = entry
    is_path = isinstance(path, str) and posixpath.isabs(path) and posixpath.normpath(path).count("/") >= 2
    return is_path and isinstance(made, bool)


def _is_mode(path: str, mode: int) -> bool:
    found = status(path)
    return found is not None and stat.S_IMODE(found.st_mode) == mode


def _kept(path: str) -> bool:
    """Whether there is something to keep: a directory with something in it, and not what tasks have made instead."""
    try:
        found = status(path)
        return found is not None and stat.S_ISDIR(found.st_mode) and bool(names_in(path))
    except DaskError:
        return False


def _mark_text(cluster: str, made: bool) -> str:
    return json.dumps({"cluster": cluster, "made": made}, sort_keys=True) + "\n"


def _part_of(path: str) -> str:
    """The name under which a directory is made, and removed, so that it is there as a whole or not at all."""
    return posixpath.join(posixpath.dirname(path), ".{0}.flotilla-part".format(posixpath.basename(path)))


def _make_marked(path: str, mark: str) -> None:
    """Makes a directory with its mark in it. :raises DaskError: somebody made one there meanwhile."""
    part = _part_of(path)
    make_directory(part, _MODE, (os.geteuid(), os.getegid()), {os.geteuid()})
    write_text(posixpath.join(part, MARK), mark)
    try:
        rename(part, path)
    except OSError as error:
        remove_tree(part)
        raise DaskError(_NOT_OURS.format(path)) from error


def _remove_marked(path: str) -> None:
    refuse_mounted(path)
    rename(path, _part_of(path))
    remove_tree(_part_of(path))


def _remove_empty(path: str) -> None:
    """Removes a directory that has nothing but its mark, unless somebody has put something there meanwhile."""
    if set(names_in(path)) <= {MARK} and not is_mount_point(path):
        _remove_marked(path)


def _removals(path: str, keep: t.Sequence[str], whole: bool, marked: bool = False) -> Steps:
    """Returns how to remove a directory, or what is in it.

    :param keep: Paths that stay, with their directories and the marks of those.
    :param whole: Whether the directory itself goes too, where nothing in it stays.
    """
    kept = any(is_in(each, path) for each in keep)
    if whole and not kept:
        return [_removing(path, marked)] if status(path) is not None else []
    steps: Steps = []
    for name in names_in(path):
        below = posixpath.join(path, name)
        if below not in keep and name not in (MARK, _LOST_AND_FOUND):
            steps += _removals(below, keep, whole=True)
    if marked and not kept:
        steps.append(_removing(posixpath.join(path, MARK)))
    return steps


def _writing(path: str, before: str, after: str, mode: int = 0o644) -> Step:
    return Step(path, before, after, lambda: write_text(path, after, mode))


def _closings(path: str) -> Steps:
    """Returns how to close a directory to all but its owner, as those of jobs and stages have not always been."""
    try:
        found = status(path)
    except DaskError:  # what a task has put there instead, as is a link
        return []
    open_mode = stat.S_IMODE(found.st_mode) if found and stat.S_ISDIR(found.st_mode) else 0
    if not open_mode & 0o077:
        return []
    before, after = ("directory, mode {0:04o}\n".format(mode) for mode in (open_mode, 0o700))
    return [Step(path, before, after, lambda: make_directory(path, 0o700))]


def _making(path: str, mark: str) -> Step:
    return Step(path, "", "directory\n", lambda: _make_marked(path, mark))


def _emptying(path: str) -> Step:
    return Step(path, "empty directory\n", "", lambda: _remove_empty(path))


def _removing(path: str, marked: bool = False) -> Step:
    return Step(path, "present\n", "", lambda: _remove_marked(path) if marked else remove_tree(path))
