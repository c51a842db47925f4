#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_processes
short_description: Keeps the processes of a launch plan running on a host
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes the scheduler or the workers of a cluster on one host what the launch plan says, in one module execution
    however many they are.
  - Defines each process for the launcher, starts what doesn't run, restarts what changed and nothing else, and removes
    what is no longer planned.
  - Under systemd and supervisor, a process that runs with another definition than the one on disk restarts too; a run
    that was interrupted leaves such processes.
  - Refuses to start a process whose ports are taken, where Dask would silently serve on others.
  - Its options are not written to the host's log.
options:
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  kind:
    description: Which processes of the cluster this task is about; the others are left alone.
    type: str
    choices: [scheduler, worker, stage]
    required: true
  launcher:
    description: What runs the processes.
    type: str
    choices: [systemd, supervisor, docker, swarm]
    required: true
  directories:
    description: The plan's C(directories).
    type: dict
    required: true
  account:
    description: Account that the processes run as; empty for the user that the task runs as.
    type: str
    default: ""
  processes:
    description: The plan's processes of this kind, as the filter P(flotilla.dask.launch_plan#filter) gives them.
    type: list
    elements: dict
    default: []
  secrets:
    description:
      - The secrets of all processes of the plan, as the filter P(flotilla.dask.launch_secrets#filter) gives them.
      - Each is written to a file that only who needs it can read, and reaches its process as an environment variable.
        What a definition has of them are names, and a version that only this host can compute.
      - They are written before a process starts. A process restarts when its secrets change.
    type: dict
    default: {}
  template:
    description: Template on the controller that defines one process; the variable C(process) is the process.
    type: path
  daemon_template:
    description: Template on the controller for the configuration of a launcher that is a daemon of the cluster's own.
    type: path
  daemon_definition:
    description: That configuration itself, which the action plugin renders from O(daemon_template).
    type: str
    default: ""
  state:
    description:
      - With V(started) exactly the given processes run, now and after a reboot.
      - With V(stopped) no process of this kind runs. Their definitions stay, and a reboot starts them again.
      - With V(absent) no process of this kind is left, nor a definition of one.
    type: str
    choices: [started, stopped, absent]
    default: started
extends_documentation_fragment:
  - flotilla.dask.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - An action plugin renders the templates on the controller.
"""

EXAMPLES = r"""
- name: Run the planned workers under systemd
  flotilla.dask.dask_processes:
    cluster: main
    kind: worker
    launcher: systemd
    directories: "{{ dask_common_plan.directories }}"
    processes: "{{ dask_common_plan.processes | selectattr('kind', 'eq', 'worker') }}"
    template: systemd.service.j2
"""

RETURN = r"""
started:
  description: Names of the processes that were started.
  returned: success
  type: list
  elements: str
restarted:
  description: Names of the processes that were restarted.
  returned: success
  type: list
  elements: str
stopped:
  description: Names of the processes that were stopped.
  returned: success
  type: list
  elements: str
removed:
  description: Names of the processes that were removed.
  returned: success
  type: list
  elements: str
versions:
  description:
    - By the sets of O(secrets), the version that definitions have of each. It changes with every name and value, and is
      computed with a key that is on this host alone.
  returned: success
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import Account, find_account, this_account
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import Store, set_of
from ansible_collections.flotilla.dask.plugins.module_utils._service import (
    Launcher,
    Wanted,
    check_ports,
    diff,
    plan,
    plan_stop,
    stamped,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.docker import Docker
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.supervisor import Supervisor
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.swarm import Swarm
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.systemd import Systemd

UNIT_DIRECTORY = "/etc/systemd/system"


def choose_launcher(options: dict[str, t.Any], account: Account | None) -> Launcher:
    if options["launcher"] == "systemd":
        return Systemd(UNIT_DIRECTORY, options["cluster"], options["kind"])
    if options["launcher"] == "docker":
        return Docker(options["directories"], options["cluster"], options["kind"])
    if options["launcher"] == "swarm":
        return Swarm(options["directories"], options["cluster"], options["kind"])
    return Supervisor(options["directories"], options["kind"], account, options["daemon_definition"])


def keep_secrets(options: dict[str, t.Any], account: Account | None) -> Store:
    sets = options["secrets"] if options["state"] == "started" else {}
    # systemd and a swarm are given them by root.
    reader = account if options["launcher"] in ("supervisor", "docker") else None
    return Store(options["directories"]["secrets"], options["kind"], sets, reader)


def wanted_processes(options: dict[str, t.Any], store: Store) -> list[Wanted]:
    if options["state"] != "started":
        return []
    return [
        Wanted(
            name=process["name"],
            definition=stamped(process["definition"], store.version(set_of(process["kind"], process["group"]))),
            listen=tuple((process["listen"][purpose], int(port)) for purpose, port in process["ports"].items()),
        )
        for process in options["processes"]
    ]


def run_processes(options: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Observes, plans, applies. :raises DaskError: a port is taken, or the launcher refused."""
    account = find_account(options["account"]) if options["account"] else this_account()
    launcher = choose_launcher(options, account)
    store = keep_secrets(options, account)
    wanted = wanted_processes(options, store)
    observed = launcher.observe()
    keeps = options["state"] == "stopped"
    if keeps:
        steps = plan_stop(observed)
    else:
        outdated = store.outdated if launcher.reads_secrets else []
        restart = [each["name"] for each in options["processes"] if set_of(each["kind"], each["group"]) in outdated]
        steps = plan(wanted, observed, restart_all=launcher.outdated(), restart=restart)
    launcher.check(steps)
    check_ports(wanted, observed, steps)
    if not check_mode:
        if not keeps:
            store.write()
        if steps:
            launcher.apply(steps)
        if not keeps:
            store.prune()
    return {
        "changed": bool(steps or not (keeps or store.is_settled)),
        "started": list(steps.start),
        "restarted": list(steps.restart),
        "stopped": list(steps.stop),
        "removed": list(steps.remove),
        "versions": store.versions(),
        "diff": diff(steps, observed) + ([] if keeps else store.diff()),
        "remarks": list(launcher.remarks),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["scheduler", "worker", "stage"], "required": True},
            "launcher": {"type": "str", "choices": ["systemd", "supervisor", "docker", "swarm"], "required": True},
            "directories": {"type": "dict", "required": True},
            "account": {"type": "str", "default": ""},
            "processes": {"type": "list", "elements": "dict", "default": []},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "template": {"type": "path"},
            "daemon_template": {"type": "path"},
            "daemon_definition": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["started", "stopped", "absent"], "default": "started"},
        },
        supports_check_mode=True,
    )
    try:
        outcome = run_processes(module.params, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error))
    for remark in outcome.pop("remarks"):
        module.warn(remark)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
