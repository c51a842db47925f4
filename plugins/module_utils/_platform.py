# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What packages have to fit to: this machine's platform, and an interpreter (private to this collection)."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass

MACHINES = {"64": "x86_64", "aarch64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "arm64": "arm64"}
"""What others call the machines of conda's platforms."""
OLDEST_PYTHON = "3.11"
"""The oldest Python that hosts may have for virtual environments."""
GLIBC = 34
"""Minor version of the GNU C library that wheels may need where a host's is unknown; see ``_rattler_side.GLIBC``."""

OLDEST_GLIBC = 17
"""Minor version of the GNU C library that uv, and most wheels, need."""

_CONDAS = {"x86_64": "64", "amd64": "64", "aarch64": "aarch64", "arm64": "aarch64"}


def host_platform() -> str:
    """Returns what conda calls this machine's platform, e.g. ``linux-64``."""
    machine = os.uname().machine.lower()
    if sys.platform == "darwin":
        return "osx-64" if machine == "x86_64" else "osx-arm64"
    return "{0}-{1}".format(sys.platform, _CONDAS.get(machine, machine))


def libc_version() -> str:
    """Returns the version of this machine's GNU C library, e.g. ``2.36``; empty where there is another one."""
    name, version = platform.libc_ver()
    return version if name == "glibc" else ""


def runs_uv(platform_name: str, libc: str) -> bool:
    """Whether the controller can send a uv that runs there."""
    if not platform_name.startswith("linux-"):
        return platform_name in ("osx-64", "osx-arm64")
    major, _dot, minor = libc.partition(".")
    fits = major == "2" and minor.isdigit() and int(minor) >= OLDEST_GLIBC
    return fits and platform_name.partition("-")[2] in MACHINES


@dataclass(frozen=True)
class Python:
    """An interpreter that packages are for.

    ``version``: in full. ``platform``: as conda calls it. ``libc``: version of the GNU C library, empty where unknown.
    """

    version: str
    platform: str
    libc: str = ""

    @property
    def key(self) -> str:
        """What is the same for all hosts that get the same files."""
        return "{0}, Python {1}{2}".format(self.platform, self.version, ", glibc " + self.libc if self.libc else "")

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    def wheel_tags(self) -> list[str]:
        """Returns the tags of the wheels that fit, the best first."""
        from packaging import tags

        minor = self.libc.partition("2.")[2]
        platforms = wheel_platforms(self.platform, int(minor)) if minor.isdigit() else wheel_platforms(self.platform)
        found = [*tags.cpython_tags(self.minor, platforms=platforms)]
        found += tags.compatible_tags(self.minor, "cp{0}{1}".format(*self.minor), platforms)
        return list(map(str, found))

    def markers(self) -> dict[str, str]:
        """Returns what a requirement's marker can ask for."""
        system, _dash, machine = self.platform.partition("-")
        return {
            "extra": "",
            "implementation_name": "cpython",
            "implementation_version": self.version,
            "os_name": "posix",
            "platform_machine": MACHINES.get(machine, machine),
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Darwin" if system == "osx" else "Linux",
            "platform_version": "",
            "python_full_version": self.version,
            "python_version": "{0}.{1}".format(*self.minor),
            "sys_platform": "darwin" if system == "osx" else system,
        }


def wheel_platforms(platform: str, glibc: int = GLIBC) -> list[str]:
    """Returns pip's names for a platform, the newest first.

    :param glibc: Minor version of the GNU C library 2.
    """
    system, _dash, name = platform.partition("-")
    machine = MACHINES.get(name, name)
    if system == "osx":
        from packaging import tags

        return list(tags.mac_platforms((13, 0), machine))
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    names = []
    for minor in range(glibc, 4, -1):
        names.append("manylinux_2_{0}_{1}".format(minor, machine))
        names += ["{0}_{1}".format(legacy[minor], machine)] if minor in legacy else []
    return [*names, "linux_" + machine]
