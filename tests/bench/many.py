# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller itself computes in a check of many hosts, which are all this machine."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

# Runs a module as a host would, and writes down the CPU time of that: it is the host's and not the controller's.
INTERPRETER = """#!/bin/bash
{python} "$@"
status=$?
times >"{log}/$$"
exit $status
"""
SCHEDULER, PORTS = 28786, {"worker": 29000, "nanny": 29100, "dashboard": 29200}


def controller_seconds(root: Path, directory: Path, number: int) -> float:
    """Seconds of CPU for each host that the controller needs for a check of `number` hosts."""
    log = directory / f"modules-{number}"
    log.mkdir()
    interpreter = directory / f"python-{number}"
    interpreter.write_text(INTERPRETER.format(python=sys.executable, log=log))
    interpreter.chmod(0o755)
    names = [f"host{index:03}" for index in range(number)]
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": str(interpreter),
        "dask_scope": "user",
        "dask_home": str(directory / "homes") + "/{{ inventory_hostname }}",
        "dask_host_address": "127.0.0.1",
        "dask_certificates_directory": str(directory / "certificates"),
        "dask_certificates_passphrase": "of this measurement only",
        "dask_environment_method": "existing",
        "dask_environment_path": sys.prefix,
        "dask_scheduler_port": SCHEDULER,
        "dask_scheduler_dashboard_port": SCHEDULER + 1,
        "dask_worker_groups": [{"name": "cpu", "processes": 4, "memory": "1 GiB", "ports": PORTS}],
    }
    groups = {"dask_scheduler": names[:1], "dask_workers": names}
    inventory = directory / f"inventory-{number}.json"
    children: dict[str, object] = {group: {"hosts": {host: {} for host in hosts}} for group, hosts in groups.items()}
    inventory.write_text(json.dumps({"all": {"vars": variables, "children": children}}))
    before = cpu_seconds()
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), "flotilla.dask.site", "--check"],
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout[-4000:] + done.stderr[-4000:])
    return (cpu_seconds() - before - sum(map(seconds_in, log.iterdir()))) / number


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_in(times: Path) -> float:
    """What the shell's own word says: minutes and seconds, of itself and of what it ran."""
    return sum(60 * int(minutes) + float(rest) for minutes, rest in re.findall(r"(\d+)m([\d.]+)s", times.read_text()))
