# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a cluster's files are on a host. Private to this collection.

Everything a cluster owns is in directories of its own, so that several clusters share a host and removing one is
removing its directories.
"""

from __future__ import annotations

import posixpath
import re
import typing as t
from dataclasses import dataclass

DESCRIPTION = "cluster.json"
"""Name of the file, in the configuration directory, that says what runs here; modules find a cluster by it."""

ACCOUNT = "dask"
"""The account that runs processes of scope ``system``."""

MEMBERS = "members.json"
"""Name of the file, in the configuration directory, that lists the hosts that have the cluster."""

USER_HOME = ".dask"
"""Directory below a user's home that holds the clusters of a user without root."""

CLIENT_PRELOAD = "DASK_DISTRIBUTED__CLIENT__PRELOAD"
"""The variable by which every client on a host of the cluster loads certificates again when they change. It names a
module that ``PYTHONPATH`` has, and so goes with that and isn't in Dask's configuration file."""


_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SYSTEM = ("/", "/dev", "/home", "/root", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool")
"""Directories of the system that are nobody's to give away."""
_NOBODYS = (
    "/boot",
    "/lost+found",
    "/proc",
    "/sys",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/dpkg",
    "/var/lib/rpm",
)
_SYSTEM_TREES = (*_NOBODYS, "/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/run", "/sbin", "/usr", "/var/run")
_CONTROL = ("containerd", "crio", "dbus", "podman", "systemd", "user")
_SOCKETS = ("containerd.sock", "crio.sock", "docker.sock", "podman.sock")
"""What gives root, or another user's rights, to whoever can speak to it: in ``/run``, and wherever it is."""
_PRODUCT = ("/etc/dask", "/etc/dask-firewall", "/etc/dask-proxy", "/opt/dask", "/opt/dask-proxy", "/var/lib/dask")


def absolute(path: str) -> str:
    """Returns an absolute path in the one form that others are compared with."""
    return "/" + posixpath.normpath(path).lstrip("/")


def is_identifier(name: t.Any) -> bool:
    """Whether a name can be that of a cluster, a group or an environment, and so part of paths and of units' names."""
    return isinstance(name, str) and _IDENTIFIER.fullmatch(name) is not None


def refusal(path: str, mounted: bool = False) -> str:
    """Returns in words why a directory cannot be the cluster's, or in its containers; nothing, if it can.

    :param path: An absolute path.
    :param mounted: Whether it is only mounted into containers, which takes less.
    """
    path = absolute(path)
    trees = (*_NOBODYS, "/dev") if mounted else _SYSTEM_TREES
    controls = tuple(posixpath.join(run, name) for run in ("/run", "/var/run") for name in _CONTROL)
    if path in (*_SYSTEM, *_SYSTEM_TREES) or any(is_in(path, tree) for tree in trees):
        return "it is the system's"
    if mounted and (any(is_in(path, control) for control in controls) or posixpath.basename(path) in _SOCKETS):
        return "whoever reaches it is root"
    if any(is_in(path, tree) for tree in _PRODUCT):
        return "it is the collection's own"
    return ""


def is_in(path: str, directory: str) -> bool:
    """Whether a path is a directory, or below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


@dataclass(frozen=True)
class Layout:
    """The directories of one cluster on one host, all absolute.

    ``software``: environments and plugins. ``configuration``: Dask's YAML and the description. ``state``: what
    processes write. ``own``: what to remove with the cluster. ``parents``: what to remove once it is empty.
    """

    software: str
    configuration: str
    state: str
    own: tuple[str, ...]
    parents: tuple[str, ...]

    @property
    def environments(self) -> str:
        return posixpath.join(self.software, "envs")

    @property
    def bootstrap(self) -> str:
        return posixpath.join(self.software, "bootstrap")

    @property
    def spill(self) -> str:
        return posixpath.join(self.state, "spill")

    @property
    def jobs(self) -> str:
        return posixpath.join(self.state, "jobs")

    @property
    def logs(self) -> str:
        return posixpath.join(self.state, "logs")

    @property
    def authorities(self) -> str:
        """The certificates of the authorities that are trusted."""
        return posixpath.join(self.configuration, "tls", "ca.crt")

    @property
    def identity(self) -> str:
        """The host's private key and its certificate: one file, so that both change at once."""
        return posixpath.join(self.configuration, "tls", "host.pem")

    @property
    def dask_configuration(self) -> str:
        return posixpath.join(self.configuration, "dask.yaml")

    @property
    def in_process(self) -> str:
        """On the path of every process; what is in there is imported by name, as Dask would copy a preloaded file."""
        return posixpath.join(self.configuration, "python")

    @property
    def description(self) -> str:
        return posixpath.join(self.configuration, DESCRIPTION)

    @property
    def readers(self) -> str:
        """Numbers of the accounts of this host that may read the pages of its processes."""
        return posixpath.join(self.configuration, "readers")

    @property
    def secrets(self) -> str:
        """The secrets that processes of this host have, in a directory for each kind of process and group."""
        return posixpath.join(self.configuration, "secrets")

    @property
    def members(self) -> str:
        return posixpath.join(self.configuration, MEMBERS)

    @property
    def membership(self) -> str:
        """Of a host that became a node of a swarm for the cluster's sake: which node."""
        return posixpath.join(self.configuration, "swarm")

    def as_dict(self) -> dict[str, t.Any]:
        names = "software environments bootstrap configuration state spill jobs logs authorities identity"
        names += " dask_configuration in_process description readers members membership secrets"
        paths: dict[str, t.Any] = {name: getattr(self, name) for name in names.split()}
        return {**paths, "own": list(self.own), "parents": list(self.parents)}


def own_directory(cluster: str) -> str:
    """The name of a cluster's own directory below one that a user names: it changes owner and goes with the cluster."""
    return "dask-" + cluster


def layout(cluster: str, scope: str, home: str, user_directory: str) -> Layout:
    """Returns the layout of ``cluster``.

    :param scope: ``system`` (FHS directories, needs root) or ``user`` (everything below one directory).
    :param home: One directory for everything, instead of the scope's default; empty for the default.
    :param user_directory: The connecting user's home directory, for scope ``user``.
    """
    if scope == "system" and not home:
        parents = ("/opt/dask", "/etc/dask", "/var/lib/dask")
        software, configuration, state = own = tuple(posixpath.join(parent, cluster) for parent in parents)
        return Layout(software=software, configuration=configuration, state=state, own=own, parents=parents)
    base = home or posixpath.join(user_directory, USER_HOME)
    root = posixpath.join(base, cluster)
    return Layout(
        software=posixpath.join(root, "opt"),
        configuration=posixpath.join(root, "etc"),
        state=posixpath.join(root, "var"),
        own=(root,),
        parents=(base,),
    )
