# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of every scenario: a secret of the cluster reaches its processes, and is nowhere else, however it is looked for."""

from __future__ import annotations

import re

from testbed import SECRET, Deployment, Hosts, wait_until

# No command has the secret as it is, which a journal, a log or a list of processes would show then.
PATTERN = f"{SECRET[:-1]}[{SECRET[-1]}]"
PLACES = "/etc /home /opt/dask /root /run /shared /tmp /var/lib/dask /var/log /var/spool"
KEPT = re.compile(r"/secrets/[A-Za-z0-9/_-]*LAB_TOKEN|/run/credentials/dask-main-[a-z0-9-]+\.service/LAB_TOKEN")
"""Where the secret is to be."""

# Environments have nothing of the cluster's, and take long to read.
FILES = f"grep --recursive --files-with-matches --no-messages --devices=skip --exclude-dir=envs -e '{PATTERN}' {PLACES}"
PROCESSES = f"grep --files-with-matches --no-messages --text -e '{PATTERN}' /proc/[0-9]*/environ"
TOLD = f"""
{{
  cat /proc/[0-9]*/cmdline
  journalctl --quiet --no-pager --all
  systemctl show --no-pager --all '*dask*'
  systemctl cat --no-pager 'dask*'
  docker ps --all --quiet | xargs --no-run-if-empty docker inspect
  docker service ls --quiet | xargs --no-run-if-empty docker service inspect
  docker secret ls --quiet | xargs --no-run-if-empty docker secret inspect
  scontrol show jobs --details
}} 2>/dev/null | grep --count --text -e '{PATTERN}'
"""


def as_nobody(command: str) -> str:
    return f'runuser -u nobody -- sh -c "{command}"'


def test_a_secret_is_in_its_processes_and_in_files_that_they_alone_read(hosts: Hosts) -> None:
    everywhere = hosts.group("all")
    wait_until(lambda: any(host.run(PROCESSES).stdout for host in everywhere.values()), "a process has the secret")
    found = {name: host.run(FILES).stdout.splitlines() for name, host in everywhere.items()}
    assert any(found.values())
    assert [path for paths in found.values() for path in paths if not KEPT.search(path)] == []
    for name, host in everywhere.items():
        assert host.run(TOLD).stdout.strip() == "0", name
        for command in (FILES, PROCESSES):
            assert host.run(as_nobody(command)).stdout == "", name


def test_no_run_says_a_secret(first_runs: Deployment) -> None:
    for run in (first_runs.predicted, first_runs.applied, first_runs.again):
        assert SECRET not in run.output
