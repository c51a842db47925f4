# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs with an interpreter that has py-rattler (private to this collection).

It is handed over as text, so it imports nothing of the collection. It reads a task from its input and writes the answer
to its output, both JSON. What the user can mend is answered as ``{"error": …}``.

``solve``: requirements for one platform to packages. ``missing``: which packages a cache lacks. ``install``: packages,
each cached or a local file, to a prefix.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import typing as t
from pathlib import Path

with contextlib.suppress(ImportError):  # where this is only read, to be handed over
    import rattler

GLIBC = "2.34"
"""The oldest that the collection's platforms have: Enterprise Linux 9."""
MACHINES = {"64": "x86_64", "aarch64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "arm64": "m1"}

REFUSALS = ("GatewayError", "InstallerError", "InvalidChannelError", "InvalidMatchSpecError", "SolverError")
"""Names of what rattler raises where the user can mend something."""

Task = t.Dict[str, t.Any]


def virtual_packages(platform: str) -> list[rattler.GenericVirtualPackage]:
    """What the hosts of a platform bring along, by conda's rules."""
    system, machine = platform.split("-")
    named = [("__unix", "0", "0"), ("__archspec", "1", MACHINES.get(machine, machine))]
    named += [("__osx", "13.0", "0")] if system == "osx" else [("__linux", "5.10", "0"), ("__glibc", GLIBC, "0")]
    return [
        rattler.GenericVirtualPackage(rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build))
        for name, version, build in named
    ]


def client() -> rattler.Client:
    """Trusts the authorities that the system and ``SSL_CERT_FILE`` name."""
    return rattler.Client.from_config(rattler.Config.from_toml('tls-root-certs = "system"'))


def stem(file: str) -> str:
    """The name of a package file without its ending: name, version and build."""
    return file[: -len(".tar.bz2")] if file.endswith(".tar.bz2") else file[: -len(".conda")]


def locked(package: Task) -> rattler.RepoDataRecord:
    """A record with what a lock says about a package."""
    name, version, build = stem(package["file"]).rsplit("-", 2)
    record = rattler.PackageRecord(
        name=name,
        version=version,
        build=rattler.BuildString(build),
        build_number=0,
        subdir=package["url"].rsplit("/", 2)[-2],
        sha256=bytes.fromhex(package["sha256"]) if package["sha256"] else None,
        md5=bytes.fromhex(package["md5"]) if package["md5"] else None,
    )
    return rattler.RepoDataRecord(record, package["file"], package["url"], package["url"].rsplit("/", 2)[0])


async def solve(task: Task) -> Task:
    gateway = rattler.Gateway(cache_dir=task["cache"], client=client())
    records = await rattler.solve(
        task["channels"],
        task["requirements"],
        gateway=gateway,
        platforms=[task["platform"], "noarch"],
        locked_packages=await known(gateway, task),
        virtual_packages=virtual_packages(task["platform"]),
    )
    return {"packages": [described(record) for record in records]}


async def known(gateway: rattler.Gateway, task: Task) -> list[rattler.RepoDataRecord]:
    """What the channels say about the packages to stay with. The solver takes their records for the truth."""
    if not task["preferred"]:
        return []
    names = sorted({stem(package["file"]).rsplit("-", 2)[0] for package in task["preferred"]})
    found = await gateway.query(task["channels"], [task["platform"], "noarch"], names, recursive=False)
    hashes = {package["sha256"] for package in task["preferred"] if package["sha256"]}
    return [record for records in found for record in records if record.sha256 and record.sha256.hex() in hashes]


def described(record: rattler.RepoDataRecord) -> Task:
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "url": record.url,
        "md5": record.md5.hex() if record.md5 else "",
        "sha256": record.sha256.hex() if record.sha256 else "",
        "dependencies": {
            name: words[0] if words else "" for name, *words in (each.split(" ", 1) for each in record.depends)
        },
    }


async def install(task: Task) -> Task:
    """Links packages into a prefix. What is in the cache is verified, file by file, against its own list of hashes.

    Where a package is neither among the files nor whole in the cache, nothing is done, and all such are ``missing``.
    """
    files: dict[str, str] = task["files"]
    index = await rattler.PackageCache(task["cache"]).index()
    cached = [package for package in task["packages"] if package["file"] not in files]
    missing = [package["file"] for package in cached if not index.contains_record(locked(package))]
    if missing:
        return {"missing": missing}
    records = [await rattler.RepoDataRecord.from_package_archive(path) for path in files.values()]
    for package in task["packages"]:
        if package["file"] not in files:
            path = os.path.join(task["cache"], stem(package["file"]), "info", "index.json")
            hashes = {key: package[key] or None for key in ("sha256", "md5")}
            record = rattler.PackageRecord.from_index_json(Path(path), **hashes)
            records.append(rattler.RepoDataRecord(record, package["file"], package["url"], locked(package).channel))
    full = rattler.ValidationMode.full()
    cache = rattler.PackageCache.new_layered([task["cache"]], validation_mode=full)
    await rattler.install(records, task["prefix"], package_cache=cache, show_progress=False, execute_link_scripts=True)
    for package in task["packages"]:
        if package["file"] in files:
            tell_origin(task["prefix"], package)
    return {"missing": []}


def tell_origin(prefix: str, package: Task) -> None:
    """Writes where a package is from, instead of the passing file that it was installed from, into conda's record."""
    path = os.path.join(prefix, "conda-meta", stem(package["file"]) + ".json")
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    content.update(url=package["url"], channel=package["url"].rsplit("/", 2)[0])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


TASKS: dict[str, t.Callable[[Task], t.Coroutine[t.Any, t.Any, Task]]] = {
    "solve": solve,
    "install": install,
}


def main() -> None:
    task = json.load(sys.stdin)
    try:
        answer = asyncio.run(TASKS[task["task"]](task))
    except Exception as error:
        if type(error).__name__ not in REFUSALS:
            raise
        answer = {"error": str(error), "kind": type(error).__name__}
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    # Without Python's own ending, which rattler's threads may still call into, and crash.
    os._exit(0)


if __name__ == "__main__":
    main()
