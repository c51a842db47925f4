# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of all scenarios work with: the hosts, and Ansible run on them as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

Result = dict[str, Any]


class Hosts:
    """The scenario's hosts, over SSH, with root's rights: `hosts["worker1"]`, `hosts.group("dask_workers")`."""

    def __init__(self, inventory: str) -> None:
        self._inventory = inventory
        self._runner = AnsibleRunner(inventory)

    def __getitem__(self, name: str) -> Host:
        return testinfra.get_host(f"ansible://{name}?ansible_inventory={self._inventory}")

    def group(self, pattern: str) -> dict[str, Host]:
        return {name: self[name] for name in self._runner.get_hosts(pattern)}


@dataclass(frozen=True)
class Run:
    """What a run of Ansible did.

    `stats` are the numbers of its recap by host, `tasks` the results of its tasks in order, each by host.
    """

    returncode: int
    stats: dict[str, dict[str, int]] = field(repr=False)
    tasks: list[tuple[str, dict[str, Result]]] = field(repr=False)
    output: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def changed(self) -> dict[str, list[str]]:
        """The hosts on which a task changed something, by the task's name."""
        return self._having("changed")

    @property
    def failed(self) -> dict[str, list[str]]:
        """The hosts on which a task failed or that it could not reach, by the task's name."""
        return self._having("failed", "unreachable")

    @property
    def problems(self) -> str:
        """What went wrong, in Ansible's words, for the message of an assertion."""
        words = [
            f"{name}, {host}: {result.get('msg', result)}"
            for name, results in self.tasks
            for host, result in results.items()
            if result.get("failed") or result.get("unreachable")
        ]
        return "\n".join(words) or self.output

    def _having(self, *keys: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, results in self.tasks:
            for host, result in results.items():
                if any(result.get(key) for key in keys):
                    found.setdefault(name, []).append(host)
        return found


class Ansible:
    """Ansible's own commands, run on the scenario's inventory."""

    def __init__(self, inventory: Path) -> None:
        self._inventory = inventory

    def module(self, hosts: str, module: str, *options: str, **args: object) -> dict[str, Result]:
        """The results of one module by host, failed ones too; options are those of the command, as `--check`."""
        arguments = ["--args", json.dumps(args)] if args else []
        run = self._run("ansible", hosts, "--module-name", module, *arguments, *options)
        assert run.tasks, run.output
        return run.tasks[-1][1]

    def playbook(self, playbook: str, *options: str, extra_vars: Mapping[str, object] | None = None) -> Run:
        """Runs a playbook: of the collection (`flotilla.dask.site`) or a file."""
        return self._run("ansible-playbook", playbook, "--extra-vars", json.dumps(extra_vars or {}), *options)

    def start(self, playbook: str, *options: str, extra_vars: Mapping[str, object]) -> subprocess.Popen[bytes]:
        """Starts a playbook as a process group of its own, for a test that ends it."""
        command = ["ansible-playbook", playbook, "--extra-vars", json.dumps(extra_vars), *options]
        return subprocess.Popen(
            [*command, "--inventory", str(self._inventory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _run(self, *command: str) -> Run:
        environment = {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true"}
        done = subprocess.run(
            [*command, "--inventory", str(self._inventory)],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
        )
        start = done.stdout.find("{")  # what comes before are notices
        report = json.loads(done.stdout[start:]) if start >= 0 else {"plays": [], "stats": {}}
        tasks = [(task["task"]["name"], task["hosts"]) for play in report["plays"] for task in play["tasks"]]
        return Run(done.returncode, report["stats"], tasks, done.stdout + done.stderr)


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Waits for a condition, and fails in words if it does not come true within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout:g} s until {what}, in vain"
        time.sleep(0.2)
