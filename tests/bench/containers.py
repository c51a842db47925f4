# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers in containers on one host: started by the module as Ansible starts it there, and by `docker run`."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils.launchers.docker import arguments

DEFINITIONS = "/etc/dask/main/containers"
CONTAINERS = "docker ps --all --quiet --filter label=flotilla.dask.kind=worker"


@dataclass(frozen=True)
class Host:
    """A host with an engine, reached over SSH. ``known``: its variables in the inventory."""

    known: dict[str, str]

    @property
    def address(self) -> str:
        return self.known["ansible_host"]

    def run(self, command: str) -> str:
        """What a command says, as root."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        key = ["-i", self.known["ansible_private_key_file"], *(word for option in options for word in ("-o", option))]
        login = f"{self.known['ansible_user']}@{self.address}"
        words = ["ssh", *key, login, "sudo", "sh", "-e", "-c", shlex.quote(command)]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def definitions(self) -> list[dict[str, object]]:
        """What the workers' containers are made from."""
        lines = self.run(f"for file in {DEFINITIONS}/worker-*.json; do tr -d '\\n' <$file; echo; done").splitlines()
        return [json.loads(line) for line in lines]

    def payload(self) -> str:
        """The command that runs the module again, as Ansible started it there last."""
        found = self.run("ls -t /home/*/.ansible/tmp/*/AnsiballZ_dask_processes.py").split()
        return f"python3 {found[0]}"

    def by_hand(self) -> str:
        """The commands that run the same containers, one after the other."""
        commands = [shlex.join(["docker", "run", "--detach", *arguments(each)]) for each in self.definitions()]
        return " && ".join(commands)

    def remove_workers(self) -> None:
        """Remove all containers of workers, without a drain."""
        self.run(f"{CONTAINERS} | xargs --no-run-if-empty docker rm --force")
