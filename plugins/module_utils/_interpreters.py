# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks an interpreter what packages have to fit to (private to this collection)."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import is_only_roots
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._platform import (
    OLDEST_PYTHON,
    Python,
    host_platform,
    libc_version,
)
from ansible_collections.flotilla.dask.plugins.module_utils._service import run

# A program that is looked for in PATH, or an absolute path.
_COMMAND = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+-]*|/[^\x00-\x1f\x7f]*")
_FACTS = """
import json, platform, sys, sysconfig
print(json.dumps({
    "version": platform.python_version(),
    "ordinary": platform.python_implementation() == "CPython" and not sysconfig.get_config_var("Py_GIL_DISABLED"),
}))
"""


_REFUSAL = (
    "dask_environment_python: {{0!r}} is refused: {{1}}. Allowed: the name or the absolute path of a Python, {0} or "
    "newer, that every host has, such as python3 or /opt/python3.12/bin/python3."
).format(OLDEST_PYTHON)


def supported_interpreter(command: str) -> Python:
    """``interpreter`` for virtual environments with Dask. :raises DaskError: it is too old for that, too."""
    found = interpreter(command)
    if found.minor < Python(OLDEST_PYTHON, "").minor:
        raise DaskError(_REFUSAL.format(command, "it is Python " + found.version))
    return found


def refuse_others_programs(command: str) -> None:
    """Root runs no program that others can change. :raises DaskError: it would be one."""
    path = shutil.which(command)
    prefix = os.path.dirname(os.path.dirname(path or ""))
    # Python runs what lies in these when it starts.
    places = glob.glob(os.path.join(glob.escape(prefix), "lib", "python*", "*-packages"))
    places += glob.glob(os.path.join(glob.escape(prefix), "pyvenv.cfg"))
    if os.geteuid() == 0 and path and not all(map(is_only_roots, (path, *places))):
        raise DaskError(
            "{0} is refused: others than root can change {1}, its link, its packages, or a directory above, and "
            "root would run it. Name one that belongs to root (dask_environment_python), or leave out what root would "
            "do with it (dask_environment_plugins where dask_environment_method is existing).".format(command, path)
        )


def interpreter(command: str) -> Python:
    """Returns what packages for an interpreter of this host have to fit to.

    :raises DaskError: it is not a program's name or an absolute path, can't be run, or no wheels are made for it.
    """
    if not _COMMAND.fullmatch(command):
        raise DaskError(_REFUSAL.format(command, "it is neither a program's name nor an absolute path"))
    refuse_others_programs(command)
    try:
        facts = json.loads(run([command, "-I", "-c", _FACTS]))
    except DaskError as error:
        raise DaskError(_REFUSAL.format(command, error)) from error
    except ValueError as error:
        raise DaskError(_REFUSAL.format(command, "it is not a Python, as it does not say its version")) from error
    if not facts["ordinary"]:
        raise DaskError(_REFUSAL.format(command, "it is not CPython, or has no global lock, so that few wheels fit"))
    return Python(facts["version"].rstrip("+"), host_platform(), libc_version())
