#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_host_facts
short_description: What the launch plan has to know about a host
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Finds out, without changing anything, what the launch plan needs from a host, in one module execution.
  - Refuses a Python that is none, and an existing environment that cannot run Dask, before anything is installed.
options:
  cluster:
    description: Name of the cluster that is being planned; the ports of all others on the host are taken.
    type: str
    required: true
  home:
    description: Directory that holds clusters' files instead of the default ones.
    type: str
    default: ""
  scope:
    description: Whether the cluster's files are those of the system or of the user; by default that depends on root.
    type: str
    default: auto
  environment_path:
    description:
      - Prefix of an existing environment whose C(bin/python) must be able to import C(distributed) and
        C(prometheus_client).
    type: str
    default: ""
  python:
    description: The Python that makes virtual environments here, to be asked what packages have to fit to.
    type: str
  containers:
    description: Whether containers are to run on the host, so that its Docker Engine matters.
    type: bool
    default: false
  swarm:
    description: Whether the host is to be a node of a swarm.
    type: bool
    default: false
  directories:
    description: Directories that have to be there, such as those that containers mount.
    type: list
    elements: str
    default: []
  local_directories:
    description: Directories that workers spill to, in which the cluster has a directory of its own.
    type: list
    elements: str
    default: []
  removes:
    description: Whether the cluster is to be removed from the host.
    type: bool
    default: false
  paths:
    description: Paths to look for.
    type: list
    elements: str
    default: []
  texts:
    description: Patterns of paths of text files to read, such as V(/etc/dask-proxy/*.json).
    type: list
    elements: str
    default: []
  units:
    description:
      - Units of systemd that may run with something older than their files, as after a run that was interrupted. Each
        has patterns of the files that its process reads when it starts, C(restart), and when it reloads, C(reload).
    type: dict
    default: {}
  exclusive:
    description:
      - Whether this run is to be the only one that changes the cluster, from now on until it ends; meant for the host
        of the scheduler. Another one that changes the cluster is waited for, or this one is refused.
      - In check mode a run takes place beside others, with a warning.
    type: bool
    default: false
  members:
    description: Whether to tell which hosts have the cluster, as this host wrote it down.
    type: bool
    default: false
  wait:
    description: For how many seconds another run is waited for, with O(exclusive).
    type: int
    default: 0
  run:
    description: What identifies the run. The action plugin sets it.
    type: str
    default: ""
  holder:
    description: Who runs it, in words. The action plugin sets it.
    type: str
    default: ""
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.attributes.info
  - flotilla.dask.attributes.facts
"""

EXAMPLES = r"""
- name: Find out what the plan needs
  flotilla.dask.dask_host_facts:
    cluster: main
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: success
  type: dict
  contains:
    dask_host:
      description: What the plan knows about the host.
      type: dict
      returned: success
      contains:
        run:
          description: What identifies the run that asked; see P(flotilla.dask.run#lookup).
          type: str
          returned: success
        cluster:
          description: The cluster that it asked for.
          type: str
          returned: success
        address:
          description: The address that the host's default route leaves from; empty if there is none.
          type: str
          returned: success
        ipv6:
          description: Whether the host speaks IPv6.
          type: bool
          returned: success
        memory:
          description: The memory in bytes, of the host or of the control group that it is confined to.
          type: int
          returned: success
        service_manager:
          description: The name of process 1.
          type: str
          returned: success
        root:
          description: Whether the play acts as root here.
          type: bool
          returned: success
        user:
          description: The user that the play acts as.
          type: str
          returned: success
        user_directory:
          description: That user's home directory.
          type: str
          returned: success
        taken:
          description: Ports of the other clusters on the host, with the name of the cluster.
          type: dict
          returned: success
        authorities:
          description: The certificates of the authorities that the cluster trusts here; empty where there are none.
          type: str
          returned: success
        certificate:
          description: The host's certificate in the cluster; empty where it has none.
          type: str
          returned: success
        firewall:
          description: Whether the cluster has a firewall here.
          type: bool
          returned: success
        nft:
          description: Whether the program that loads a firewall is installed.
          type: bool
          returned: success
        engine:
          description: The version of the host's Docker Engine; empty where none answers, or it was not asked.
          type: str
          returned: success
        engine_problem:
          description: Why none answers.
          type: str
          returned: success
        swarm:
          description: What the host's Docker Engine has of a swarm, where that matters.
          type: dict
          returned: success
          contains:
            state:
              description: Docker's word for it; V(inactive) for a host that is no node.
              type: str
              returned: success
            node:
              description: The number that the node has in the swarm.
              type: str
              returned: success
            manager:
              description: Whether it is a manager.
              type: bool
              returned: success
            managers:
              description: The numbers of the managers that the node knows.
              type: list
              elements: str
              returned: success
        members:
          description:
            - The hosts that have the cluster by their names, with C(address) and whether they were C(declared), as this
              host wrote it down; with O(members).
          type: dict
          returned: success
        membership:
          description:
            - The number of the node that the host became in a swarm for the cluster's sake; empty where it did not.
            - V(joining) where that was about to happen.
          type: str
          returned: success
        encryption_problem:
          description: Why the kernel cannot encrypt what containers on several hosts send each other, or nothing.
          type: str
          returned: success
        missing:
          description: Those of O(directories) that are not there.
          type: list
          elements: str
          returned: success
        real_paths:
          description: Where each of O(directories) is, links followed.
          type: dict
          returned: success
        problems:
          description: In words what is in the way of the cluster's account and directories, or of their removal.
          type: list
          elements: str
          returned: success
        unclaimed:
          description: Whether the cluster's own directories are still to be made, or to be marked as its own.
          type: bool
          returned: success
        paths:
          description: Whether each of O(paths) is there.
          type: dict
          returned: success
        texts:
          description: What is in the files that match O(texts), by their paths.
          type: dict
          returned: success
        overdue:
          description: Those of O(units) that have to V(restart) or to V(reload) to run with their files as they are.
          type: dict
          returned: success
        account:
          description: Numbers of the account that system processes have and of its group, as C(998:998), or empty.
          type: str
          returned: success
        launcher:
          description: What runs the cluster here already; empty where nothing does.
          type: str
          returned: success
        managed_by:
          description: The host that told a swarm what the cluster runs; empty where the cluster is not in one.
          type: str
          returned: success
        kinds:
          description: The kinds of processes that the cluster has here already, V(worker) and V(scheduler).
          type: list
          elements: str
          returned: success
        requests:
          description: Whether the host's Python has what modules talk to Docker by.
          type: bool
          returned: success
        docker_sdk:
          description: Whether it has what modules talk to a swarm by.
          type: bool
          returned: success
        platform:
          description: What conda calls the host's platform, such as V(linux-64).
          type: str
          returned: success
        libc:
          description: The version of the host's GNU C library; empty where it has another one.
          type: str
          returned: success
        python:
          description: C(version), C(platform) and C(libc) that packages for O(python) have to fit to, if it was given.
          type: dict
          returned: success
"""

import glob
import importlib.util
import json
import os
import posixpath
import pwd
import re
import shutil
import socket
import subprocess
import typing as t
from dataclasses import asdict
from itertools import chain

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import (
    account_numbers,
    find_account,
    is_only_roots,
    this_account,
)
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import (
    find_clusters,
    read_description,
    user_directory,
)
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text
from ansible_collections.flotilla.dask.plugins.module_utils._firewall_table import (
    BOOTED_BY_SYSTEMD,
    UNITS,
    find_nft,
    has_traces,
)
from ansible_collections.flotilla.dask.plugins.module_utils._host import Host
from ansible_collections.flotilla.dask.plugins.module_utils._interpreters import supported_interpreter
from ansible_collections.flotilla.dask.plugins.module_utils._platform import host_platform, libc_version
from ansible_collections.flotilla.dask.plugins.module_utils._runs import (
    become_the_only_run,
    in_words,
    other_run,
    record_path,
)
from ansible_collections.flotilla.dask.plugins.module_utils._service import overdue, run
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import (
    ACCOUNT,
    Layout,
    absolute,
    is_identifier,
    layout,
    own_directory,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launch.members import parse_members
from ansible_collections.flotilla.dask.plugins.module_utils.launchers import kinds_here

CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
ENCRYPT = [
    *("unshare", "--net", "ip", "xfrm", "state", "add", "src", "127.0.0.1", "dst", "127.0.0.2", "proto", "esp"),
    *("spi", "0x100", "mode", "transport", "aead", "rfc4106(gcm(aes))", "0x" + 20 * "00", "64"),
]
NOBODY = "nobody"
CHECK_SECONDS = 60.0
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def read_own(path: str) -> str:
    """The text of a file of the cluster's, or nothing where there is none or only root may read it."""
    try:
        return (read_text(path) or "").strip()
    except PermissionError:
        return ""


def memory() -> int | None:
    """Bytes, of the host or of its control group, whichever is less."""
    limits = [int(limit) for limit in map(read, CGROUP_LIMITS) if limit.isdigit()]
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limits.append(int(line.split()[1]) * 1024)
    return min(limits) if limits else None


def address() -> str:
    """The source address of the default route; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def overdue_units(units: dict[str, t.Any]) -> dict[str, str]:
    """Asks systemd only of units that the collection has changed here."""
    changed = {unit: each for unit, each in units.items() if glob.glob(os.path.join(UNITS, unit + "*"))}
    return overdue(changed) if changed and os.path.isdir(BOOTED_BY_SYSTEMD) else {}


def is_systems(options: dict[str, t.Any]) -> bool:
    """Whether the cluster's files are the system's, and its processes those of an account of their own."""
    return options["scope"] == "system" or (options["scope"] != "user" and os.geteuid() == 0)


def place_of(options: dict[str, t.Any]) -> Layout:
    """Where the cluster's files are, or will be."""
    home = absolute(options["home"]) if options["home"].startswith("/") else options["home"]
    return layout(options["cluster"], "system" if is_systems(options) else "user", home, user_directory())


def claims(options: dict[str, t.Any], place: Layout) -> dict[str, t.Any]:
    """Whether the cluster's directories have to be made its own yet, and what is in the way of that."""
    if options["home"] and not options["home"].startswith("/"):
        return {"problems": [], "unclaimed": False}  # which the plan refuses
    named = [absolute(path) for path in options["local_directories"] if path.startswith("/")]
    local = [posixpath.join(path, own_directory(options["cluster"])) for path in named]
    host = Host(
        {
            "cluster": options["cluster"],
            "account": ACCOUNT if is_systems(options) else "",
            "directories": place.as_dict(),
            "writable": [place.state, *local],
            "files": [],
            "keep": [],
            "state": "claimed",
        }
    )
    problems = host.problems(options["removes"])
    return {"problems": problems, "unclaimed": not problems and bool(host.plan_claims())}


def installed(place: Layout) -> dict[str, str]:
    """What the cluster has here already. The private key stays where it is."""
    certificate = CERTIFICATE.search(read_own(place.identity))
    description = read_description(place.description) if os.path.lexists(place.description) else {}
    return {
        "authorities": read_own(place.authorities),
        "certificate": certificate.group() if certificate else "",
        "launcher": description.get("launcher", ""),
        "managed_by": (description.get("swarm") or {}).get("host", ""),
        "membership": read(place.membership),
    }


def check_environment(prefix: str, systems: bool) -> None:
    """Looks whether an environment has what processes need, as the account that will run them.

    Before there is such an account, it is nobody who looks: the environment may be anybody's, and root runs nothing
    that others can change.

    :raises DaskError: there is no Python in ``prefix``, or it can't import what processes need.
    """
    python = os.path.join(prefix, "bin", "python")
    account = (find_account(ACCOUNT) or find_account(NOBODY)) if systems else this_account()
    problem = ""
    if not os.access(python, os.X_OK):
        problem = "there is no {0} on this host".format(python)
    elif account is None:
        problem = "there is no account {0} on this host to try it as".format(NOBODY)
    elif account.uid == 0 and not is_only_roots(python):
        problem = "others than root can change {0}, and root would run it".format(python)
    if problem or account is None:
        raise DaskError(
            "dask_environment_path: {0!r} is refused: {1}. Allowed: the prefix of a Python environment that exists on "
            "every host of the cluster.".format(prefix, problem)
        )
    code = "import distributed\nimport prometheus_client"
    try:
        status, said = account.output([python, "-I", "-c", code], account.environment(), CHECK_SECONDS)
    except OSError as error:
        status, said = 1, str(error)
    if status:
        lines = said.strip().splitlines() or ["exit status {0}".format(status)]
        raise DaskError(
            "dask_environment_path: {0!r} is refused: {1}, run by {3}, cannot import distributed and "
            "prometheus_client, without which there are no processes and no metrics ({2}). Install them there with "
            "'{1} -m pip install distributed prometheus_client', have it readable for everybody, or name another "
            "environment.".format(prefix, python, lines[-1], account.name)
        )


def engine() -> dict[str, str]:
    """The version of the Docker Engine, or why there is none."""
    try:
        version = run(["docker", "version", "--format", "{{.Server.Version}}"]).strip()
    except DaskError as error:
        return {"engine": "", "engine_problem": str(error)}
    return {"engine": version, "engine_problem": ""}


def swarm() -> dict[str, t.Any]:
    """What the engine, if there is one, says about its swarm, if it is in one."""
    try:
        said = json.loads(run(["docker", "info", "--format", "{{json .Swarm}}"])) or {}
    except DaskError:
        said = {}
    return {
        "state": said.get("LocalNodeState") or "inactive",
        "node": said.get("NodeID", ""),
        "manager": bool(said.get("ControlAvailable")),
        "managers": [each["NodeID"] for each in said.get("RemoteManagers") or []],
    }


def encryption_problem() -> str:
    """Makes what Docker makes for an encrypted network, where it is gone at once: Docker itself says it in its log."""
    if not all(map(shutil.which, ENCRYPT[:1] + ENCRYPT[2:3])):
        return ""
    outcome = subprocess.run(ENCRYPT, capture_output=True, text=True, check=False)
    return outcome.stderr.strip() if outcome.returncode else ""


def be_exclusive(module: AnsibleModule, record: str) -> None:
    """:raises DaskError: another run changes the cluster."""
    cluster, run = module.params["cluster"], module.params["run"]
    if not module.check_mode:
        become_the_only_run(record, cluster, run, module.params["holder"], module.params["wait"])
        return
    other = other_run(record, run)
    if other:
        module.warn("What this says may soon not be true: {0}".format(in_words(other, cluster)))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "home": {"type": "str", "default": ""},
            "scope": {"type": "str", "default": "auto"},
            "environment_path": {"type": "str", "default": ""},
            "python": {"type": "str"},
            "containers": {"type": "bool", "default": False},
            "swarm": {"type": "bool", "default": False},
            "directories": {"type": "list", "elements": "str", "default": []},
            "local_directories": {"type": "list", "elements": "str", "default": []},
            "removes": {"type": "bool", "default": False},
            "paths": {"type": "list", "elements": "str", "default": []},
            "texts": {"type": "list", "elements": "str", "default": []},
            "units": {"type": "dict", "default": {}},
            "exclusive": {"type": "bool", "default": False},
            "members": {"type": "bool", "default": False},
            "wait": {"type": "int", "default": 0},
            "run": {"type": "str", "default": ""},
            "holder": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    options: dict[str, t.Any] = module.params
    place = place_of(options)
    # A name that is none is refused by the plan, and leads to no file before that.
    named = options["exclusive"] and is_identifier(options["cluster"])
    record = record_path(options["cluster"], place.configuration, user_directory()) if named else ""
    kept: dict[str, str] = {}  # what the controller removes when the run ends, also where the host is refused
    try:
        directories = [absolute(path) for path in options["directories"]]
        if record:
            # First of all, as what is found out is true only while no other run changes it.
            be_exclusive(module, record)
            kept = {} if module.check_mode else {"record": record}
        if options["environment_path"]:
            check_environment(options["environment_path"], is_systems(options))
        account = pwd.getpwuid(os.geteuid())
        root = account.pw_uid == 0
        clusters, problems = find_clusters(options["home"])
        for problem in problems:
            module.warn(problem)
        others = [found for found in clusters if found["cluster"] != options["cluster"]]
        facts = {
            "run": options["run"],
            "cluster": options["cluster"],
            "address": address(),
            "ipv6": os.path.exists("/proc/net/if_inet6"),
            "memory": memory(),
            "service_manager": read("/proc/1/comm"),
            "root": root,
            "user": account.pw_name,
            "user_directory": user_directory(),
            "platform": host_platform(),
            "libc": libc_version(),
            "python": {} if options["python"] is None else asdict(supported_interpreter(options["python"])),
            "taken": {str(port): found["cluster"] for found in others for port in found.get("ports", [])},
            "firewall": has_traces(options["cluster"]),
            "nft": find_nft() is not None,
            "account": account_numbers(ACCOUNT),
            "requests": importlib.util.find_spec("requests") is not None,
            "docker_sdk": importlib.util.find_spec("docker") is not None,
            "overdue": overdue_units(options["units"]),
            "missing": [path for path in directories if not os.path.isdir(path)],
            "real_paths": {path: os.path.realpath(path) for path in directories},
            "paths": {path: os.path.lexists(path) for path in options["paths"]},
            "texts": {path: read_text(path) or "" for path in chain(*map(glob.glob, options["texts"]))},
            **(engine() if options["containers"] else {}),
            **({"swarm": swarm(), "encryption_problem": encryption_problem()} if options["swarm"] else {}),
            "members": parse_members(read_text(place.members), place.members) if options["members"] else {},
            "kinds": kinds_here(place.configuration, options["cluster"]),
            **installed(place),
            **claims(options, place),
        }
    except DaskError as error:
        module.fail_json(msg=str(error), **kept)
    module.exit_json(changed=False, ansible_facts={"dask_host": facts}, **kept)


if __name__ == "__main__":
    main()
