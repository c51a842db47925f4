#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_workers
short_description: Retires, restarts or closes workers of a Dask cluster without losing what they hold
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Frees workers first, whatever then becomes of them. They take no new tasks, finish those that they execute, and
    their data moves to the other workers.
  - Looks whether every one of them is free. If one isn't, because no other worker can take its data or the time is
    over, the task fails, says which keys would be lost, and all go on as before.
  - Workers are selected by name, host or group; what any of these selects is meant.
options:
  state:
    description:
      - With V(retired) they stay connected and idle until their processes start again.
      - With V(restarted) their nannies start new processes, which are waited for.
      - With V(closed) they and their nannies end. A launcher that keeps them running starts them again at once; to keep
        a host's workers out use the playbook C(flotilla.dask.drain).
    type: str
    choices: [retired, restarted, closed]
    required: true
  names:
    description: Names of workers.
    type: list
    elements: str
    default: []
  hosts:
    description: Inventory names of hosts, as at the time of the deployment.
    type: list
    elements: str
    default: []
  groups:
    description: Names of worker groups.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds in which all this has to be done.
    type: float
    default: 60
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.attributes.cluster
attributes:
  check_mode:
    support: full
    details: Whether the data could be moved isn't tried.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: Not with O(state=restarted), nor with O(state=closed) for workers that their launcher started again.
seealso:
  - module: flotilla.dask.dask_cluster_info
"""

EXAMPLES = r"""
- name: Let a worker finish and take no more work
  flotilla.dask.dask_workers:
    names: [worker1-cpu-0]
    state: retired

- name: Start all workers of a group anew, for memory that they leaked
  flotilla.dask.dask_workers:
    groups: [bigmem]
    state: restarted
    timeout: 600
"""

RETURN = r"""
workers:
  description: Every selected worker.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The worker's name.
      type: str
      returned: always
    before:
      description: Its status, as in RV(flotilla.dask.dask_cluster_info#module:cluster.workers), or V(absent).
      type: str
      returned: always
    after:
      description: Its status afterwards; in check mode, what it would be.
      type: str
      returned: always
moved:
  description: How many keys were moved to other workers.
  returned: success, but not in check mode
  type: int
moved_bytes:
  description: How many bytes those are.
  returned: success, but not in check mode
  type: int
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils import _health, _workers
from ansible_collections.flotilla.dask.plugins.module_utils._client import SchedulerWatch, ask_scheduler
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description, find_cluster
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError

ANSWER_SECONDS = 10.0


def change_workers(cluster: Description, options: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Returns the result. :raises DaskError: a selector is wrong, nothing answers, or a worker couldn't be freed."""
    with SchedulerWatch(cluster, ANSWER_SECONDS) as watch:
        found = _health.workers(watch.state(), time.time())
    state = options["state"]
    selectors = {option: options[option] for option in ("names", "hosts", "groups")}
    before = _workers.statuses(_workers.select(cluster["workers"], found, **selectors), found)
    after = _workers.expected(state, before)
    outcome: dict[str, t.Any] = {
        "changed": before != after,
        "workers": [{"name": name, "before": before[name], "after": after[name]} for name in before],
        "diff": {"before": before, "after": after},
    }
    if check_mode:
        return outcome
    asked = {worker["address"]: worker["name"] for worker in found if worker["name"] in before}
    question = {
        "op": "flotilla_drain",
        "workers": list(asked),
        "seconds": options["timeout"],
        "then": _workers.THEN[state],
    }
    drained = ask_scheduler(cluster, options["timeout"] + ANSWER_SECONDS, question) if asked else {}
    try:
        _workers.check(state, asked, drained)
        totals = {key: sum(int(each[key]) for each in drained.values()) for key in ("moved", "moved_bytes")}
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DaskError(
            "The scheduler does not say what became of the workers ({0!r}). A task may have changed it. Restart the "
            "scheduler.".format(error)
        ) from error
    return {**outcome, **totals}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str"},
            "home": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["retired", "restarted", "closed"], "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "groups": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    options: dict[str, t.Any] = module.params
    if not (options["names"] or options["hosts"] or options["groups"]):
        module.fail_json(msg="names, hosts and groups: all empty. Allowed: at least one worker, host or group.")
    try:
        outcome = change_workers(find_cluster(options["cluster"], options["home"]), options, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
