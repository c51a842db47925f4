# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's own pip: which wheels fit, and where they come from (private to this collection)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._downloads import file_name
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError

MACHINES = {"64": "x86_64", "aarch64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "arm64": "arm64"}
GLIBC = 34
"""Minor version of the GNU C library that wheels may need; see ``_rattler_side.GLIBC``."""


class PipError(DaskError):
    """pip refused; the message is what it said."""


@dataclass(frozen=True)
class ControllerPip:
    """pip of the Python that runs Ansible.

    ``cache``: directory. ``ca_bundle``: file with the authorities that are trusted; empty for the system's.
    ``wheelhouse``: directory or address of the wheels to take instead of an index; empty for none.
    """

    cache: str
    ca_bundle: str = ""
    wheelhouse: str = ""

    def run(self, command: str, *words: str) -> None:
        """:raises PipError: pip refused."""
        source = ["--no-index", "--find-links", self.wheelhouse] if self.wheelhouse else []
        trust = ["--cert", self.ca_bundle] if self.ca_bundle else []
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", command, "--quiet"]
        done = subprocess.run(
            [*pip, *source, *trust, *words],
            env={**os.environ, "PIP_CACHE_DIR": os.path.join(self.cache, "pip-cache")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise PipError(" ".join([line for line in lines if line.startswith("ERROR")] or lines[-3:]))

    def resolve(
        self, requirements: t.Sequence[str], constraints: str, version: str, platforms: t.Sequence[str], *words: str
    ) -> list[dict[str, str]]:
        """Returns the wheels that meet requirements: ``name``, ``version``, ``file``, ``url`` and ``sha256`` of each.

        :param constraints: The text of pip's constraints file.
        :param version: Of the Python that they are for. ``platforms``: what ``wheel_platforms`` returns for it.
        :raises PipError: there are none that fit to each other.
        """
        with tempfile.TemporaryDirectory(prefix="flotilla-") as directory:
            limits, report = os.path.join(directory, "constraints.txt"), os.path.join(directory, "report.json")
            with open(limits, "w", encoding="utf-8") as file:
                file.write(constraints + "\n")
            self.run(
                *("install", "--dry-run", "--ignore-installed", "--report", report, "--constraint", limits),
                *("--target", os.path.join(directory, "target"), "--only-binary", ":all:", "--python-version", version),
                *(word for name in platforms for word in ("--platform", name)),
                *words,
                *requirements,
            )
            with open(report, encoding="utf-8") as file:
                return [_described(each) for each in json.load(file)["install"]]


def _described(found: dict[str, t.Any]) -> dict[str, str]:
    source = found["download_info"]
    return {
        "name": found["metadata"]["name"],
        "version": found["metadata"]["version"],
        "file": file_name(source["url"]),
        "url": source["url"],
        "sha256": (source["archive_info"].get("hashes") or {}).get("sha256", ""),
    }


def wheel_platforms(platform: str, glibc: int = GLIBC) -> list[str]:
    """Returns pip's names for a platform, the newest first.

    :param glibc: Minor version of the GNU C library 2.
    """
    system, _dash, name = platform.partition("-")
    machine = MACHINES.get(name, name)
    if system == "osx":
        return ["macosx_{0}_{1}".format(version, machine) for version in ("13_0", "12_0", "11_0", "10_15", "10_9")]
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    names = []
    for minor in range(glibc, 4, -1):
        names.append("manylinux_2_{0}_{1}".format(minor, machine))
        names += ["{0}_{1}".format(legacy[minor], machine)] if minor in legacy else []
    return [*names, "linux_" + machine]
