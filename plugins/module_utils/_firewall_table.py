# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's firewall table: loaded, confirmed over a new connection, or taken back (private to this collection).

Observe, plan, apply as in ``_service.py``. Rules that change something stay out of what outlives a reboot until they
are confirmed: the table is loaded, and a timer of systemd's puts back what was in force before. Confirming stops that
timer, and only then writes the file that is loaded at boot. A run that ends in between changes nothing for good.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import NO_UNIT, run, unit_states

DIRECTORY = "/etc/dask-firewall"
"""Of its own: it has to be there before networks are, which the directories of clusters may come from."""

RUNTIME = "/run/dask-firewall"
"""What isn't confirmed, which a reboot forgets."""

UNITS = "/etc/systemd/system"
BOOTED_BY_SYSTEMD = "/run/systemd/system"


@dataclass(frozen=True)
class Observed:
    """What there is of a firewall.

    ``rules``: the text that is loaded at boot. ``in_force``: what nft lists of the table, and ``as_loaded``: what it
    listed when those rules were loaded. ``unit``: the text of the unit that loads them; ``enabled``, ``active``: it is;
    ``read``: systemd has read it as it is.
    ``unconfirmed``: rules wait to be confirmed or taken back. ``traces``: something is there at all. Texts are None for
    what isn't there.
    """

    rules: str | None = None
    in_force: str | None = None
    as_loaded: str | None = None
    unit: str | None = None
    enabled: bool = False
    active: bool = False
    read: bool = True
    unconfirmed: bool = False
    traces: bool = False

    @property
    def effective(self) -> str:
        """The rules in force, as they were written unless something else has changed the table since."""
        if self.in_force is None:
            return ""
        return self.rules if self.rules is not None and self.in_force == self.as_loaded else self.in_force


@dataclass(frozen=True)
class Plan:
    """What has to be done. ``load``: the rules. ``unit``: what has to be mended of the unit, in words."""

    load: bool = False
    unit: tuple[str, ...] = ()
    remove: bool = False

    def __bool__(self) -> bool:
        return bool(self.load or self.unit or self.remove)


def plan_present(rules: str, unit: str, observed: Observed) -> Plan:
    """Returns how to have exactly ``rules`` in force, now and after a reboot."""
    wrong = {
        "definition": observed.unit != unit,
        "not read by systemd": not observed.read,
        "not enabled": not observed.enabled,
        "not started": not observed.active,
    }
    return Plan(
        load=observed.unconfirmed or observed.effective != rules or observed.rules != rules,
        unit=tuple(word for word, applies in wrong.items() if applies),
    )


def plan_absent(observed: Observed) -> Plan:
    """Returns how to have nothing left."""
    return Plan(remove=observed.traces)


def diff(steps: Plan, observed: Observed, table: str, rules: str, unit: str) -> list[dict[str, str]]:
    """Returns rules and unit before and after, in the shape of Ansible's diff mode."""
    state = "".join("# {0}\n".format(word) for word in steps.unit if word != "definition" and observed.unit is not None)
    changes = [
        (table, observed.effective, rules, steps.load or steps.remove),
        (table + " at boot", state + (observed.unit or ""), unit, bool(steps.unit) or steps.remove),
    ]
    return [
        {"before_header": name, "after_header": name, "before": before, "after": after}
        for name, before, after, changed in changes
        if changed
    ]


def find_nft() -> str | None:
    """Returns the path of nft, which ordinary users' search path need not have, or None."""
    return shutil.which("nft", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))


def has_traces(cluster: str) -> bool:
    """Returns whether the host has, or had until it booted, a firewall of the cluster's; runs nothing."""
    firewall = FirewallTable(cluster)
    return any(map(os.path.exists, (firewall.rules_path, firewall.unit_path, firewall.pending_path)))


def dask_firewall(options: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Makes a host's table what the options of the module say.

    :raises DaskError: the rules were refused, or the host lacks what they need; what was in force still is.
    """
    firewall, state = FirewallTable(options["cluster"]), options["state"]
    if not os.path.isdir(BOOTED_BY_SYSTEMD):
        if state == "absent" and not has_traces(options["cluster"]):
            return {"changed": False, "unconfirmed": 0}
        raise DaskError(
            "This host has no firewall of ours without systemd as process 1: it loads the rules at boot, and takes "
            "back those that lock you out. Set 'dask_firewall: false' for the host."
        )
    if os.geteuid() != 0:
        raise DaskError("A firewall needs root here (ansible_become: true), or 'dask_firewall: false'.")
    if state == "confirmed":
        waiting = firewall.observe().unconfirmed
        return {"changed": waiting if check_mode else firewall.confirm(), "unconfirmed": 0}
    rules, unit = (options["rules"], options["unit"]) if state == "present" else ("", "")
    observed = firewall.observe()
    steps = plan_present(rules, unit, observed) if state == "present" else plan_absent(observed)
    if steps.load and find_nft():
        firewall.check(rules)
    if not check_mode:
        if steps.remove:
            firewall.remove()
        elif steps.load:
            firewall.load(rules, unit, options["confirm_seconds"])
        elif steps.unit:
            firewall.mend_unit(unit)
    return {
        "changed": bool(steps),
        "unconfirmed": options["confirm_seconds"] if steps.load and not check_mode else 0,
        "diff": diff(steps, observed, firewall.table, rules, unit),
    }


class FirewallTable:
    """The table ``dask_CLUSTER`` of a host, and the files and units that belong to it."""

    def __init__(self, cluster: str) -> None:
        self.table = "dask_" + cluster
        self.rules_path = os.path.join(DIRECTORY, cluster + ".nft")
        self.loaded_path = os.path.join(DIRECTORY, cluster + ".loaded")
        self.pending_path = os.path.join(RUNTIME, cluster + ".json")
        self.rollback_path = os.path.join(RUNTIME, cluster + ".rollback.nft")
        self.unit = "dask-{0}-firewall.service".format(cluster)
        self.unit_path = os.path.join(UNITS, self.unit)
        self.rollback = "dask-{0}-firewall-rollback".format(cluster)

    def observe(self) -> Observed:
        """:raises DaskError: nft or systemd refused to tell."""
        states = self._states()
        paths = (self.rules_path, self.loaded_path, self.pending_path, self.rollback_path, self.unit_path)
        in_force = self._listing()
        return Observed(
            rules=read_text(self.rules_path),
            in_force=in_force,
            as_loaded=read_text(self.loaded_path),
            unit=read_text(self.unit_path),
            enabled=states[self.unit].get("UnitFileState") == "enabled",
            active=states[self.unit].get("ActiveState") == "active",
            read=states[self.unit].get("NeedDaemonReload") != "yes",
            unconfirmed=states[self.rollback + ".timer"].get("ActiveState") == "active",
            traces=in_force is not None or any(map(os.path.exists, paths)),
        )

    def check(self, rules: str) -> None:
        """:raises DaskError: nft would not take ``rules``. Changes nothing."""
        with tempfile.NamedTemporaryFile("w", prefix="flotilla-", suffix=".nft", encoding="utf-8") as file:
            file.write(rules)
            file.flush()
            self._nft("--check", "--file", file.name)

    def load(self, rules: str, unit: str, seconds: int) -> None:
        """Puts rules in force that are taken back after so many seconds, unless they are confirmed.

        :raises DaskError: nft or systemd refused; then what was in force still is.
        """
        self.take_back()
        before = self._listing(stateless=False) or ""
        os.makedirs(RUNTIME, mode=0o700, exist_ok=True)
        write_text(self.rollback_path, "table inet {0}\ndelete table inet {0}\n{1}".format(self.table, before))
        pending = {"rules": rules, "unit": unit, "loaded": None}
        write_text(self.pending_path, json.dumps(pending))
        nft = ("--", self._nft_path(), "--file", self.rollback_path)
        options = ("--property=Type=oneshot", "--on-active={0}s".format(seconds), "--timer-property=AccuracySec=100ms")
        run(["systemd-run", "--quiet", "--collect", "--unit", self.rollback, *options, *nft])
        try:
            with tempfile.NamedTemporaryFile("w", dir=RUNTIME, suffix=".nft", encoding="utf-8") as file:
                file.write(rules)
                file.flush()
                self._nft("--file", file.name)
        except DaskError:
            self._forget()
            raise
        write_text(self.pending_path, json.dumps({**pending, "loaded": self._listing()}))

    def take_back(self) -> None:
        """Puts back what was in force before rules that nobody has confirmed, at once."""
        if self._is_active(self.rollback + ".timer"):
            run(["systemctl", "start", self.rollback + ".service"])
        self._forget()

    def confirm(self) -> bool:
        """Keeps rules that wait for it, and has them loaded at boot; returns whether there were any.

        :raises DaskError: the rules could not be kept; then they are, or have been, taken back.
        """
        pending = json.loads(read_text(self.pending_path) or "{}")
        if pending.get("loaded") is None or not self._is_active(self.rollback + ".timer"):
            return False
        run(["systemctl", "stop", self.rollback + ".timer"])
        if self._listing() != pending["loaded"]:  # the timer was faster
            return False
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
        write_text(self.rules_path, pending["rules"])
        write_text(self.loaded_path, pending["loaded"])
        self.mend_unit(pending["unit"])
        self._forget()
        return True

    def mend_unit(self, text: str) -> None:
        """Has the rules loaded at boot, and counts them as loaded now."""
        if read_text(self.unit_path) != text:
            write_text(self.unit_path, text)
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "--quiet", "enable", self.unit])
        run(["systemctl", "start", self.unit])

    def remove(self) -> None:
        """Takes the table, its files and its units away."""
        self._forget()
        if os.path.exists(self.unit_path):
            run(["systemctl", "--quiet", "disable", "--now", self.unit])
            os.unlink(self.unit_path)
            run(["systemctl", "daemon-reload"])
            run(["systemctl", "reset-failed", self.unit], accept=(0, 1))
        if self._listing() is not None:
            self._nft("delete", "table", "inet", self.table)
        for path in (self.loaded_path, self.rules_path):  # by the last one the next run sees that something is left
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        for directory in (DIRECTORY, RUNTIME):
            with contextlib.suppress(OSError):  # of another cluster's, or not there
                os.rmdir(directory)

    def _forget(self) -> None:
        """Stops the timer, and removes what only it needs."""
        units = [self.rollback + ".timer", self.rollback + ".service"]
        run(["systemctl", "stop", *units], accept=(0, NO_UNIT))
        run(["systemctl", "reset-failed", *units], accept=(0, 1))
        for path in (self.pending_path, self.rollback_path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _listing(self, stateless: bool = True) -> str | None:
        """What nft says of the table, without its counters; None where there is none, or no nft."""
        if not find_nft() or "table inet {0}".format(self.table) not in self._nft("list", "tables").splitlines():
            return None
        return self._nft(*(("--stateless",) if stateless else ()), "list", "table", "inet", self.table)

    def _is_active(self, unit: str) -> bool:
        return self._states()[unit].get("ActiveState") == "active"

    def _states(self) -> dict[str, dict[str, str]]:
        """The properties of the unit and of the timer."""
        units = [self.unit, self.rollback + ".timer"]
        return unit_states(units, "ActiveState", "UnitFileState", "NeedDaemonReload")

    def _nft(self, *words: str) -> str:
        return run([self._nft_path(), *words])

    def _nft_path(self) -> str:
        path = find_nft()
        if path is None:
            raise DaskError("This host has no nft. The role dask_firewall installs it; so does the package nftables.")
        return path
