# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Observe, plan, apply: how a host's processes are made what the launch plan says (private to this collection).

A launcher observes and applies; ``plan`` between them is pure, and feeds check mode, diff and the real run alike.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import glob
import os
import re
import socket
import subprocess
import time
import types
import typing as t
from dataclasses import dataclass, field

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import PATIENCE, Account
from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import PLACEHOLDER as SECRETS

NO_UNIT = 5
"""Exit status of systemctl where there is no such unit to stop."""
PLACEHOLDER = "@definition@"
"""What a template has where the digest of the definition itself is to be."""
_VARIABLES = "FLOTILLA_"
"""What the names of some environment variables of every process start with."""
_DEFINITION = _VARIABLES + "DEFINITION="


@dataclass(frozen=True)
class Wanted:
    """One process as it should be. ``listen``: (address, port) of every port it will serve."""

    name: str
    definition: str
    listen: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Observed:
    """One process as it is.

    ``definition``: that on disk if the process runs with it, else empty. ``running``: now, a process that is being
    stopped included; ``stopping``: being stopped, by whoever; ``enabled``: at the next boot too.
    """

    definition: str
    running: bool = True
    enabled: bool = True
    stopping: bool = False


@dataclass(frozen=True)
class Plan:
    """What has to be done, each a set of process names; ``write`` maps a name to its new definition."""

    write: t.Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    enable: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.write or self.remove or self.enable or self.start or self.restart or self.stop)


def plan(
    wanted: t.Sequence[Wanted],
    observed: t.Mapping[str, Observed],
    restart_all: bool = False,
    restart: t.Container[str] = (),
) -> Plan:
    """Returns how to get from ``observed`` to ``wanted``.

    A process restarts only if its own definition changed or is not the one that it runs with, if it is being stopped,
    if ``restart`` names it, or with ``restart_all``.
    """
    changed = {
        process.name: process.definition
        for process in wanted
        if process.name not in observed or observed[process.name].definition != process.definition
    }
    running = {name for name, state in observed.items() if state.running}
    stopping = {name for name, state in observed.items() if state.stopping}
    names = [process.name for process in wanted]
    return Plan(
        write=changed,
        remove=tuple(sorted(set(observed) - set(names))),
        enable=tuple(name for name in names if name not in observed or not observed[name].enabled),
        start=tuple(name for name in names if name not in running),
        restart=tuple(
            name
            for name in names
            if name in running and (restart_all or name in changed or name in stopping or name in restart)
        ),
    )


def plan_stop(observed: t.Mapping[str, Observed]) -> Plan:
    """Returns how to stop all that runs, and leave its definition for the next start."""
    return Plan(stop=tuple(sorted(name for name, state in observed.items() if state.running)))


def diff(steps: Plan, observed: t.Mapping[str, Observed]) -> list[dict[str, str]]:
    """Returns the definitions before and after, in the shape of Ansible's diff mode."""
    changes = [
        (name, observed[name].definition if name in observed else "", steps.write.get(name, ""))
        for name in (*steps.write, *steps.remove)
    ]
    changes += [(name, "running\n", "stopped\n") for name in steps.stop]
    return [
        {"before_header": name, "after_header": name, "before": before, "after": after}
        for name, before, after in changes
    ]


class Launcher(abc.ABC):
    """What keeps processes running on a host. ``remarks``: what a person is to know of it, in sentences."""

    remarks: t.Sequence[str] = ()
    reads_secrets: t.ClassVar[bool] = True
    """Whether processes read the files of their secrets when they start, and so restart where a file was another."""

    def outdated(self) -> bool:
        """Whether the launcher itself has to restart, and with it every process."""
        return False

    @abc.abstractmethod
    def observe(self) -> dict[str, Observed]:
        """Returns the processes that this launcher has, by name."""

    def check(self, steps: Plan) -> None:
        """Looks whether steps meet something that is not the collection's. :raises DaskError: they do."""
        del steps  # Only where names may be somebody else's there is something to look at.

    @abc.abstractmethod
    def apply(self, steps: Plan) -> None:
        """Carries the plan out. :raises DaskError: the launcher refused."""


def check_ports(wanted: t.Iterable[Wanted], observed: t.Mapping[str, Observed], steps: Plan) -> None:
    """Refuses to start processes that would not get their ports; Dask itself would silently take others for HTTP.

    Ports of processes that stop first are free by then: those that their definitions mention.

    :raises DaskError: an address isn't this host's, or a port is in use.
    """
    problems = []
    stopping = [observed[name].definition for name in (*steps.remove, *steps.restart)]
    released = set(re.findall(r"\d+", " ".join(stopping)))
    if any(observed[name].running and not observed[name].definition for name in (*steps.remove, *steps.restart)):
        return  # which ports that process has is not known: it may be any
    for process in wanted:
        for address, port in process.listen:
            starts = process.name in steps.start
            # One that restarts has its own ports: what it is known to have stays out of this.
            restarts = process.name in steps.restart and observed[process.name].definition
            if not (starts or restarts) or str(port) in released:
                continue
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except OSError as error:
                    reason = {
                        errno.EADDRINUSE: "another program has the port ('ss -ltnp' names it); stop it or plan another",
                        errno.EADDRNOTAVAIL: "the address isn't this host's; correct dask_host_address",
                    }.get(error.errno or 0, str(error))
                    problems.append(
                        "{0} cannot listen on {1} port {2}: {3}.".format(process.name, address, port, reason)
                    )
    if problems:
        raise DaskError("\n".join(problems))


def stamped(text: str, secrets: str = "") -> str:
    """Returns a rendered definition with its own digest, as a variable that tells what a process was started with.

    :param secrets: The version of the process's secrets.
    """
    text = text.replace(SECRETS, secrets)
    return text.replace(PLACEHOLDER, digest(text))


def runs_with(pid: int, definition: str) -> bool:
    """Returns whether a process was started with a definition, as far as its environment variables tell.

    A process can change what the kernel says of them, but gains nothing by it: it is restarted, or goes on as it is.
    One whose variables cannot be read, or that has overwritten them, is taken to run with the definition.
    """
    try:
        with open("/proc/{0}/environ".format(pid), "rb") as file:
            variables = os.fsdecode(file.read()).split("\0")
    except OSError:
        return True
    if not any(each.startswith(_VARIABLES) for each in variables):
        return True
    told = [each[len(_DEFINITION) :] for each in variables if each.startswith(_DEFINITION)]
    return any(each and each in definition for each in told)


def unit_states(units: t.Sequence[str], *properties: str) -> dict[str, dict[str, str]]:
    """Returns properties of systemd's units by their names.

    :param units: Names, each of which the result has, and patterns for the names of units that are loaded.
    :raises DaskError: systemd refused to tell.
    """
    output = run(["systemctl", "show", "--property=" + ",".join(("Id", *properties)), *units])
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in output.strip("\n").split("\n\n")  # systemctl separates units by an empty line
    ]
    return {block["Id"]: block for block in blocks if "Id" in block}


def overdue(units: t.Mapping[str, t.Mapping[str, t.Sequence[str]]]) -> dict[str, str]:
    """Returns what systemd's units wait for whose files a run has written that was interrupted: a restart, or a reload.

    :param units: Names, each with patterns of the files that its process reads when it starts (``restart``), and when
        it reloads (``reload``).
    :returns: Those that run with something older than their files, with ``restart`` or ``reload``.
    :raises DaskError: systemd refused to tell.
    """
    properties = ("ActiveState", "NeedDaemonReload", "FragmentPath", "DropInPaths")
    times = {"restart": "ExecMainStartTimestampMonotonic", "reload": "StateChangeTimestampMonotonic"}
    found = {}
    for unit, state in unit_states(list(units), *properties, *times.values()).items():
        if state.get("ActiveState") != "active" or unit not in units:
            continue
        own = [state.get("FragmentPath", ""), *state.get("DropInPaths", "").split()]
        paths = {"restart": [*own, *_matching(units[unit].get("restart", ()))]}
        paths["reload"] = _matching(units[unit].get("reload", ()))
        late = [each for each in times if _is_newer(paths[each], int(state.get(times[each]) or 0) / 1e6)]
        if late or state.get("NeedDaemonReload") == "yes":
            found[unit] = "reload" if late == ["reload"] and state.get("NeedDaemonReload") != "yes" else "restart"
    return found


def _matching(patterns: t.Iterable[str]) -> list[str]:
    return [path for pattern in patterns for path in glob.glob(pattern)]


def _is_newer(paths: t.Iterable[str], moment: float) -> bool:
    """Whether one of some files was written after a moment, in seconds of the monotonic clock."""
    offset = time.time() - time.monotonic()
    times = []
    for path in filter(None, paths):
        with contextlib.suppress(OSError):
            times.append(os.stat(path).st_mtime - offset)
    return bool(moment) and max(times, default=0.0) > moment


def module_text(module: types.ModuleType) -> str:
    """Returns the text of a module, also from within the archive that Ansible packs a module into."""
    loader = module.__spec__.loader if module.__spec__ else None
    text: str | bytes = t.cast("t.Any", loader).get_source(module.__name__)
    return text.decode() if isinstance(text, bytes) else text  # Ansible's own loader has bytes


def run(
    argv: t.Sequence[str],
    accept: t.Container[int] = (0,),
    environment: t.Mapping[str, str] | None = None,
    lines: int | None = 10,
    account: Account | None = None,
    seconds: float = PATIENCE,
) -> str:
    """Runs a command and returns its output.

    :param environment: All of its environment variables; by default this process's own, or those of ``account``.
    :param lines: How many of its last lines an error has, one after the other; None for all, as they are.
    :param account: Who runs it, where that may be another one than whom this process acts as.
    :param seconds: How long another one may take.
    :raises DaskError: it isn't there, or its exit status isn't one of ``accept``.
    """
    if environment is None:
        environment = account.environment() if account else os.environ
    variables = {**environment, "LC_ALL": "C.UTF-8"}
    try:
        if account and account.is_other:
            status, output = account.output(argv, variables, seconds)
            errors = ""
        else:
            outcome = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=variables, check=False
            )
            status, output, errors = outcome.returncode, outcome.stdout, outcome.stderr
    except OSError as error:
        raise DaskError("{0} cannot be run: {1}".format(argv[0], error)) from error
    if status not in accept:
        said = errors.strip() or output.strip()
        said = said if lines is None else " / ".join(said.splitlines()[-lines:])
        raise DaskError("'{0}' ended with exit status {1}: {2}".format(" ".join(argv), status, said))
    return output
