#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_job
short_description: A named job that has finished on a Dask cluster
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes sure that a job has run on the cluster, and returns its result.
  - A job with the same name and the same specification (function or script, and arguments) is not run again; its stored
    result comes back. One that failed is reported as failed, every time, until O(rerun) or another specification.
  - Record, result and output are on disk. Workers that die, and a scheduler that dies and comes back, don't end the
    job; after the latter it is submitted again.
  - While a task waits for a job it prints how many of the scheduler's tasks are done.
  - The directory of a job can be read by its account alone. Options are not written to the host's log.
options:
  name:
    description: The job's name, unique among the account's jobs on the cluster.
    type: str
    required: true
  state:
    description:
      - With V(finished) the task waits for the end and returns the result.
      - With V(submitted) it returns as soon as the job runs; M(flotilla.dask.dask_job_info) follows it.
      - With V(cancelled) a job that runs is cancelled, and its record stays.
      - With V(absent) a running job is cancelled, and the record is removed.
    type: str
    choices: [finished, submitted, cancelled, absent]
    default: finished
  function:
    description:
      - What to call, as C(package.module:callable), from the environment or its plugins.
      - It runs in the job's process with a C(Client) of the cluster as the default one, so C(get_client()),
        C(compute()) and the like use the cluster; what it returns has to be JSON.
    type: str
  script:
    description:
      - A Python script to run instead of a function. A C(Client()) without an address is connected to the cluster.
      - The path is on the controller, or with O(remote_src) on the host.
    type: path
  remote_src:
    description: Whether O(script) is on the host already.
    type: bool
    default: false
  content:
    description: The script's text, which is read from O(script) where that is on the controller.
    type: str
  arguments:
    description:
      - For a function a list, or a mapping of keywords; for a script a list of words. JSON text is taken as well.
    type: raw
    default: []
  secrets:
    description:
      - Secrets of the job, by names of environment variables; keep them in a vault.
      - The job's process has each as an environment variable, and as a file in the directory that
        C(CREDENTIALS_DIRECTORY) names. The files are the account's alone, and go when the job ends. Record, output and
        log of the job have no value, unless the job itself prints one.
      - Values have 4 characters at least, 64 KiB at most, and 256 KiB together. Names that Dask, Python, the system or
        this collection reads are refused, such as C(PATH) and C(DASK_*).
      - The names belong to the job's specification. The values do not, so that a job that has finished is not run again
        when a token changes, and a job that runs keeps those that it was started with.
    type: dict
    default: {}
  timeout:
    description: Seconds after which a job that hasn't ended is cancelled and has failed; V(0) for no limit.
    type: float
    default: 0
  connect_timeout:
    description: Seconds within which the scheduler has to answer when the job starts.
    type: float
    default: 10
  retries:
    description: How often the job is submitted again after its scheduler was lost.
    type: int
    default: 10
  rerun:
    description: Run the job again though it has ended.
    type: bool
    default: false
  progress:
    description: Seconds between two lines of progress while the task waits.
    type: float
    default: 10
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.attributes.cluster
  - flotilla.dask.jobs
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: Not with O(rerun=true).
seealso:
  - module: flotilla.dask.dask_job_info
"""

EXAMPLES = r"""
- name: Count the words of the archive
  flotilla.dask.dask_job:
    name: wordcount-2026
    function: wordcount:count_words
    arguments:
      directory: /data/archive
      top: 10
    timeout: 3600
  register: words

- name: Show the most frequent ones
  ansible.builtin.debug:
    var: words.job.result

- name: Run a script of mine on the cluster, and don't wait
  flotilla.dask.dask_job:
    name: nightly
    script: analysis/nightly.py
    arguments: [--year, "2026"]
    secrets:
      ARCHIVE_TOKEN: "{{ vault_archive_token }}"
    state: submitted

- name: Cancel it
  flotilla.dask.dask_job:
    name: nightly
    state: absent
"""

RETURN = r"""
job:
  description: The job as it stands; see RV(flotilla.dask.dask_job_info#module:jobs).
  returned: unless O(state=absent)
  type: dict
  sample:
    name: wordcount-2026
    state: finished
    result:
      files: 2048
      words: [[the, 30122], [self, 27991]]
    attempts: 1
    seconds: 12.3
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils import _jobs
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description, find_cluster, running
from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import read_secrets
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll


def ensure_absent(job: _jobs.Job, check_mode: bool) -> dict[str, t.Any]:
    record = job.record()
    if record and not check_mode:
        job.cancel()
        job.remove()
    return {"changed": bool(record), "diff": difference(record, None)}


def ensure_cancelled(job: _jobs.Job, check_mode: bool) -> dict[str, t.Any]:
    record = job.record()
    runs = record is not None and record["state"] == "running"
    if runs and not check_mode:
        job.cancel()
        record = job.record()
    return {"changed": runs, "job": record or {}}


def ensure_submitted(
    job: _jobs.Job, cluster: Description, options: dict[str, t.Any], check_mode: bool
) -> dict[str, t.Any]:
    """Submits the job unless it is there.

    :raises DaskError: it runs with another specification, can't start, or may need longer than the cluster lasts.
    """
    wanted = _jobs.specification(
        options["name"],
        options["function"],
        options["script"],
        options["content"],
        options["arguments"],
        options["secrets"],
    )
    record = job.record()
    same = record is not None and record["digest"] == digest(wanted)
    if record and record["state"] == "running" and not same:
        raise DaskError(
            "Job '{0}' is running with another specification. Wait for its end, cancel it with 'state: absent', or "
            "give this one another name.".format(job.name)
        )
    ended = record is not None and record["state"] != "running"
    if same and not (ended and options["rerun"]):
        return {"changed": False, "diff": difference(record, wanted), "job": record}
    if check_mode:
        return {"changed": True, "diff": difference(record, wanted), "job": {"name": job.name, "state": "submitted"}}
    cluster = running(cluster)
    refuse_long(cluster, options["timeout"])
    limits = {key: options[key] for key in ("timeout", "connect_timeout", "retries")}
    job.submit(wanted, options["content"], cluster, limits, options["secrets"])
    return {"changed": True, "diff": difference(record, wanted), "job": job.record()}


def read_job_secrets(value: t.Any) -> dict[str, str]:
    """:raises DaskError: a name or a value is not allowed; has no value."""
    found, problems = read_secrets("secrets", value)
    if problems:
        raise DaskError("\n".join(problems))
    return found


def refuse_long(cluster: Description, timeout: float) -> None:
    """Refuses a job that may need longer than the batch job that the cluster is in. :raises DaskError: it may."""
    runs = cluster.get("running")
    if runs and timeout > runs["leaves"] - time.time():
        raise DaskError(
            "timeout: {0:g} is refused: the workers of batch cluster '{1}' leave in {2:.0f} s, before the walltime of "
            "job {3} ends. Allowed: at most that, or a cluster with a longer walltime.".format(
                timeout, cluster["cluster"], max(0.0, runs["leaves"] - time.time()), runs["job"]
            )
        )


def difference(record: dict[str, t.Any] | None, wanted: dict[str, t.Any] | None) -> dict[str, t.Any]:
    def part(of: dict[str, t.Any] | None) -> dict[str, t.Any]:
        shown = {key: of[key] for key in ("function", "script", "arguments")} if of else {}
        return {**shown, "secrets": of["secrets"]} if of and of.get("secrets") else shown

    return {"before": part(record), "after": part(wanted)}


def wait_for_end(job: _jobs.Job, seconds: float) -> dict[str, t.Any]:
    """Returns the record when the job has ended, or as it is after ``seconds``."""
    latest: dict[str, t.Any] = {}

    def ended() -> bool:
        latest.clear()
        latest.update(job.record() or {})
        return bool(latest.get("state") != "running")

    poll(ended, seconds, longest_pause=0.05)
    return latest


def carry_out(
    owner: _jobs.Owner, cluster: Description, options: dict[str, t.Any], check_mode: bool
) -> dict[str, t.Any]:
    """Returns the result, as the account that the job belongs to. :raises DaskError: as ``ensure_submitted``."""
    job = _jobs.Job(owner, options["name"])
    if not check_mode:
        job.tidy()
    if options["state"] == "absent":
        return ensure_absent(job, check_mode)
    if options["state"] == "cancelled":
        return ensure_cancelled(job, check_mode)
    outcome = ensure_submitted(job, cluster, options, check_mode)
    if options["state"] == "finished" and not (check_mode and outcome["changed"]):
        outcome["job"] = wait_for_end(job, options["progress"])
    return outcome


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["finished", "submitted", "cancelled", "absent"],
                "default": "finished",
            },
            "cluster": {"type": "str"},
            "home": {"type": "str", "default": ""},
            "function": {"type": "str"},
            "script": {"type": "path"},
            "remote_src": {"type": "bool", "default": False},
            "content": {"type": "str"},
            "arguments": {"type": "raw", "default": []},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "timeout": {"type": "float", "default": 0},
            "connect_timeout": {"type": "float", "default": 10},
            "retries": {"type": "int", "default": 10},
            "rerun": {"type": "bool", "default": False},
            "progress": {"type": "float", "default": 10},
        },
        required_if=[
            ("state", "finished", ("function", "script"), True),
            ("state", "submitted", ("function", "script"), True),
        ],
        mutually_exclusive=[("function", "script"), ("function", "content")],
        supports_check_mode=True,
    )
    options: dict[str, t.Any] = module.params
    try:
        options["secrets"] = read_job_secrets(options["secrets"])
        cluster = find_cluster(options["cluster"], options["home"], alive=False)
        owner = _jobs.owner(cluster)
        outcome = owner.account.run(
            lambda: carry_out(owner, cluster, options, module.check_mode), seconds=options["progress"]
        )
    except DaskError as error:
        module.fail_json(msg=str(error))
    record = outcome.get("job", {})
    if record.get("state") in ("failed", "cancelled") and options["state"] != "cancelled":
        module.fail_json(msg=_jobs.describe_failure(record), **outcome)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
