#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_job_info
short_description: Jobs of a Dask cluster, as they stand
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Returns the records of one job or of all of them. Asks no scheduler, so it answers when there is none.
options:
  name:
    description: The job to return; all of them if there is no name.
    type: str
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.attributes.info
  - flotilla.dask.attributes.cluster
  - flotilla.dask.jobs
seealso:
  - module: flotilla.dask.dask_job
"""

EXAMPLES = r"""
- name: See how the nightly job stands
  flotilla.dask.dask_job_info:
    name: nightly
  register: nightly

- name: Wait until it has ended
  flotilla.dask.dask_job_info:
    name: nightly
  register: nightly
  until: nightly.jobs[0].state != 'running'
  retries: 60
  delay: 10
"""

RETURN = r"""
jobs:
  description: The jobs, sorted by name; empty if the one asked for isn't there.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The job's name.
      type: str
      returned: always
    state:
      description: V(running), V(finished), V(failed) or V(cancelled).
      type: str
      returned: always
    reason:
      description:
        - For a job that failed, V(import), V(error), V(exit), V(result), V(timeout), V(scheduler),
          V(environment), V(lost) or V(record).
      type: str
      returned: always
    message:
      description: The same in words.
      type: str
      returned: always
    function:
      description: The function that it calls.
      type: str
      returned: always
    script:
      description: The script that it runs.
      type: str
      returned: always
    arguments:
      description: Their arguments.
      type: raw
      returned: always
    secrets:
      description: The names of its secrets.
      type: list
      elements: str
      returned: always
    digest:
      description: Identifies the specification.
      type: str
      returned: always
    result:
      description: What the function returned.
      type: raw
      returned: always
    progress:
      description: How many tasks the scheduler had when last asked (C(total)), and how many of them were C(done).
      type: dict
      returned: always
    attempts:
      description: How often it was submitted.
      type: int
      returned: always
    started:
      description: When it started, in seconds since the epoch.
      type: float
      returned: always
    ended:
      description: When it ended, in seconds since the epoch.
      type: float
      returned: always
    seconds:
      description: How long it ran, or has been running.
      type: float
      returned: always
    directory:
      description: Where its files are on the host; C(work) in it was its working directory.
      type: str
      returned: always
    output:
      description: The last lines that it wrote.
      type: str
      returned: always
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils import _jobs
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import find_cluster
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError


def records_of(who: _jobs.Owner, name: str | None) -> list[dict[str, t.Any]]:
    """Returns the record of one job if there is such a job, or those of all."""
    records = [_jobs.Job(who, each).record() for each in ([name] if name else _jobs.names(who))]
    return [record for record in records if record]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "cluster": {"type": "str"},
            "home": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    options: dict[str, t.Any] = module.params
    try:
        who = _jobs.owner(find_cluster(options["cluster"], options["home"], alive=False))
        records = who.account.run(lambda: records_of(who, options["name"]))
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, jobs=records)


if __name__ == "__main__":
    main()
