# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's private key, its certificate, and whom it trusts, as files (private to this collection)."""

from __future__ import annotations

import grp
import os
import posixpath
import pwd
import re
import stat
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    directory_status,
    make_directory,
    read_text,
    status,
    write_text,
)

ISSUE: dict[str, dict[str, t.Any]] = {
    "names": {"type": "list", "elements": "str", "required": True},
    "usage": {"type": "list", "elements": "str", "required": True},
    "days": {"type": "int", "required": True},
    "directory": {"type": "path"},
    "passphrase": {"type": "str", "no_log": True},
}
"""What the controller is told of a certificate that it is to make."""

_PEM = re.compile("-----BEGIN CERTIFICATE-----.*", re.DOTALL)

Options = t.Mapping[str, t.Any]


def install(options: Options, check_mode: bool) -> dict[str, t.Any]:
    """Writes what the options of the module ``dask_identity`` say, and returns the module's result.

    The authorities come first, and key and certificate are one file: a run that is killed in between leaves a host that
    trusts the new authorities, and has the certificate that it had.

    :raises DaskError: there is no such account or group, or something is in the way.
    """
    owner = _owner(options["owner"], options["group"], check_mode)
    diff = []
    wanted: list[tuple[str, str, int, tuple[int, int] | None]] = []
    if options["authorities_path"]:
        wanted.append((options["authorities_path"], options["authorities"], 0o644, _ours()))
    if options["certificate"]:
        identity = options["key"].rstrip("\n") + "\n" + options["certificate"]
        wanted.append((options["path"], identity, int(options["mode"], 8), owner))
        if options["certificate_path"]:
            wanted.append((options["certificate_path"], options["certificate"], 0o444, _ours()))
    for path, text, mode, numbers in wanted:
        directory = posixpath.dirname(path)
        before = (read_text(path) or "") if directory_status(directory) is not None else ""
        if before == text and _is(path, mode, numbers):
            continue
        diff.append({"before_header": path, "after_header": path, "before": _shown(before), "after": _shown(text)})
        if not check_mode:
            if directory_status(directory) is None:
                make_directory(directory)
            write_text(path, text, mode, numbers)
    return {"changed": bool(diff), "diff": diff, "certificate": options["certificate"]}


def _shown(text: str) -> str:
    """Returns what a diff shows of a file: not its private key."""
    found = _PEM.search(text)
    return found.group() if found else "" if "PRIVATE KEY" in text else text.lstrip("\n")


def _ours() -> tuple[int, int]:
    return os.geteuid(), os.getegid()


def _owner(account: str, group: str, check_mode: bool) -> tuple[int, int] | None:
    """Returns the numbers of account and group. In check mode None for one that is still to be made."""
    user, number = _ours()
    try:
        return pwd.getpwnam(account).pw_uid if account else user, grp.getgrnam(group).gr_gid if group else number
    except KeyError as error:
        if check_mode:
            return None
        raise DaskError("{0}. Run flotilla.dask.site, which makes it.".format(error.args[0])) from error


def _is(path: str, mode: int, owner: tuple[int, int] | None) -> bool:
    found = status(path)
    return (
        found is not None
        and owner is not None
        and (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, *owner)
    )
