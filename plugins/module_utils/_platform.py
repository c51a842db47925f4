# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The platform of this machine (private to this collection)."""

from __future__ import annotations

import os
import sys

_MACHINES = {"x86_64": "64", "amd64": "64", "aarch64": "aarch64", "arm64": "aarch64"}


def host_platform() -> str:
    """Returns what conda calls this machine's platform, e.g. ``linux-64``."""
    machine = os.uname().machine.lower()
    if sys.platform == "darwin":
        return "osx-64" if machine == "x86_64" else "osx-arm64"
    return "{0}-{1}".format(sys.platform, _MACHINES.get(machine, machine))
