#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_batch_cluster
short_description: A Dask cluster inside a batch job of Slurm or PBS
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes sure that a cluster of that name is there, inside a job that is submitted for it. Runs on a login host of the
    batch system, for which the role P(flotilla.dask.dask_batch#role) has installed the software.
  - The scheduler is on the first chunk, workers are on all of them. Workers hand over their data and leave before the
    walltime ends, the scheduler last.
  - A cluster that lives is returned as it is. One of the same name with another specification is refused.
  - With O(function) or O(script) that runs against the cluster inside the job, which ends with it. One that has
    ended isn't run again, however it did, unless with O(rerun).
  - While a task waits it prints why the queue doesn't start the job.
options:
  name:
    description: The cluster's name, by default that of the installation.
    type: str
  state:
    description:
      - With V(present) the task waits until the scheduler and all workers are up, and with O(function) or O(script)
        until that has ended.
      - With V(submitted) it returns as soon as the job is in the queue.
      - With V(planned) nothing is submitted; RV(job_script) and RV(jobqueue) are returned.
      - With V(absent) workers leave, the job ends, and its files are removed.
    type: str
    choices: [present, submitted, planned, absent]
    default: present
  system:
    description: The batch system. V(auto) takes the one whose commands the host has.
    type: str
    choices: [auto, slurm, pbs]
    default: auto
  chunks:
    description: Number of chunks, as PBS calls what Slurm calls tasks. Each is on one node.
    type: int
    default: 1
  cpus:
    description: Processors of each chunk.
    type: int
    default: 1
  memory:
    description: Memory of each chunk, with a unit such as C(20 GB) or C(16 GiB). Needed unless O(state=absent).
    type: str
  memory_reserve:
    description: What of it workers don't get, as a size or as a fraction.
    type: raw
    default: 0.1
  walltime:
    description: How long the job may last, as C('HH:MM:SS') in quotes. Needed unless O(state=absent).
    type: str
  queue:
    description: The queue of PBS or the partition of Slurm.
    type: str
    default: ""
  account:
    description: Who pays.
    type: str
    default: ""
  place:
    description:
      - How chunks are laid out on nodes. C(free), C(scatter) (each on a node of its own) or C(pack) (all on one), with
        C(:excl) behind it where nobody else may be. PBS takes what else its C(place) knows.
    type: str
    default: ""
  constraint:
    description: With Slurm features that nodes have to have; with PBS more resources of a chunk, as C(model=skylake).
    type: str
    default: ""
  directives:
    description: More options of C(sbatch) or C(qsub), each as in one C(#SBATCH) or C(#PBS) line.
    type: list
    elements: str
    default: []
  variant:
    description:
      - With V(processes) each chunk has a worker process of one thread for each of its processors.
      - With V(threads) it has one with as many threads.
    type: str
    choices: [processes, threads]
    default: processes
  scheduler_alone:
    description: Whether the first chunk has the scheduler and no workers.
    type: bool
    default: false
  interface:
    description:
      - Network interface of the nodes that all traffic takes, such as C(ib0). By default that of a fast network if
        there is one, else the one with the default route.
    type: str
    default: ""
  dashboard:
    description:
      - Where dashboards listen, to which no one has to show who they are. With V(loopback) a tunnel by SSH leads there;
        with V(interface) everybody reaches them who reaches the nodes.
    type: str
    choices: [loopback, interface]
    default: loopback
  local_directory:
    description:
      - Where workers spill, in a directory of their own. Variables in it are those of each node. By default C($TMPDIR).
    type: str
    default: ""
  directory:
    description:
      - Directory for the files of batch clusters, which login host and nodes share. By default below the
        installation's.
    type: str
    default: ""
  setup:
    description: Lines of shell that set the environment up on each chunk, such as C(module load gcc).
    type: list
    elements: str
    default: []
  environment:
    description:
      - Environment variables of scheduler, workers and application. They are in the job's script, of which queues tell
        others; put no secret there.
    type: dict
    default: {}
  secrets:
    description:
      - Secrets of scheduler, workers and application, by names of environment variables; keep them in a vault.
      - A process has each as an environment variable, and as a file in the directory that C(CREDENTIALS_DIRECTORY)
        names. The files are in the cluster's directory, where only this user reads them, and go when the job ends. They
        are not in the script, and not in RV(jobqueue).
      - Values have 4 characters at least, 64 KiB at most, and 256 KiB together. Names that Dask, Python, the system or
        this collection reads are refused, such as C(PATH) and C(DASK_*), and those of O(environment).
      - The names belong to the cluster's specification. The values do not. A cluster keeps those that its job was
        submitted with.
    type: dict
    default: {}
  idle_timeout:
    description: Seconds without work after which the cluster ends; V(0) for never.
    type: int
    default: 0
  drain_seconds:
    description: How long workers may take to hand over their data when they leave.
    type: int
    default: 60
  function:
    description:
      - What to call inside the job, as C(package.module:callable), from the environment or its plugins. What it returns
        has to be JSON.
    type: str
  script:
    description:
      - A Python script to run inside the job instead. A C(Client()) without an address is connected to the cluster.
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
    description: For a function a list, or a mapping of keywords; for a script a list of words.
    type: raw
    default: []
  additional_chunks:
    description:
      - Chunks whose workers join the cluster by further jobs, with a walltime of their own. Where there are fewer, a
        job is submitted for those that lack; where there are more, whole jobs leave. By default they stay as they are.
    type: int
  rerun:
    description: Run a function or script again though it has ended.
    type: bool
    default: false
  timeout:
    description: Seconds since the submission after which the task gives up; V(0) for never. The job stays in the queue.
    type: float
    default: 0
  progress:
    description: Seconds between two lines of progress while the task waits.
    type: float
    default: 10
  installation:
    description: What the host has for batch clusters, where the role knows it before it is there.
    type: dict
  plan:
    description: What follows from the other options. Set by the action plugin.
    type: dict
  job_script:
    description: The script to submit. Set by the action plugin.
    type: str
  job:
    description: The job that is waited for further. Set by the action plugin.
    type: str
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.attributes.cluster
attributes:
  check_mode:
    support: full
    details: The script is returned and nothing is submitted, so that nobody knows whether the queue would take it.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: Not with O(rerun=true), and not once the job has ended.
seealso:
  - module: flotilla.dask.dask_job
  - module: flotilla.dask.dask_cluster_info
"""

EXAMPLES = r"""
- name: A cluster for an hour
  flotilla.dask.dask_batch_cluster:
    name: analysis
    chunks: 9
    cpus: 4
    memory: 20 GB
    walltime: "01:00:00"
    setup: [module load gdal]
  register: batch

- name: Run a job on it
  flotilla.dask.dask_job:
    cluster: analysis
    name: wordcount
    function: wordcount:count_words
    arguments: [/data/archive]
    timeout: 1800

- name: End it
  flotilla.dask.dask_batch_cluster:
    name: analysis
    state: absent

- name: Run a script in a job of its own
  flotilla.dask.dask_batch_cluster:
    name: nightly
    chunks: 3
    cpus: 8
    memory: 32 GiB
    walltime: "00:30:00"
    script: analysis/nightly.py
    arguments: [--year, "2026"]
"""

RETURN = r"""
cluster:
  description: The cluster as it stands.
  returned: unless O(state=absent), and not in check mode for one that would be submitted
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      returned: success
    state:
      description: V(pending), V(starting), V(running), V(finished), V(failed) or V(lost).
      type: str
      returned: success
    reason:
      description: What the queue says of the job.
      type: str
      returned: success
    job:
      description: The job's id.
      type: str
      returned: success
    address:
      description: Where the scheduler is reached, with certificates of the installation.
      type: str
      returned: success
    endpoint:
      description: The file that says so, as C(Client(scheduler_file=...)) takes it. It is there while the cluster runs.
      type: str
      returned: success
    dashboard:
      description: The scheduler's dashboard, as seen from C(node) or by everybody, see O(dashboard).
      type: str
      returned: success
    environment:
      description: Environment variables with which a C(Client()) finds and enters the cluster.
      type: dict
      returned: success
    started:
      description: When the job started, in seconds since 1970.
      type: float
      returned: success
    ends:
      description: When its walltime ends.
      type: float
      returned: success
    leaves:
      description: When workers begin to leave.
      type: float
      returned: success
    files:
      description: The directory with the job's logs.
      type: str
      returned: success
    output:
      description: The file with the output of O(function) or O(script).
      type: str
      returned: success
    result:
      description: What O(function) returned.
      type: raw
      returned: success
    exit_code:
      description: The job's exit status, once it has ended.
      type: int
      returned: success
    more:
      description: Jobs with additional workers, each with its C(job) and C(chunks).
      type: list
      elements: dict
      returned: success
jobqueue:
  description: The same options as a configuration of dask-jobqueue, for jobs of one chunk.
  returned: unless O(state=absent)
  type: dict
job_script:
  description: The script that is, or would be, submitted.
  returned: when one is
  type: str
site:
  description: What the host has for batch clusters, for the action plugin.
  returned: without O(plan)
  type: dict
settings:
  description: All options, for the action plugin.
  returned: without O(plan)
  type: dict
lacking:
  description: How many chunks are still to be added, for the action plugin.
  returned: with O(additional_chunks)
  type: int
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils import _jobs
from ansible_collections.flotilla.dask.plugins.module_utils._batch_clusters import BatchCluster, Record
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description, find_site
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._queues import find_queue


def describe_site(site: Description, cluster: BatchCluster, options: dict[str, t.Any]) -> dict[str, t.Any]:
    """Returns what a plan is made from. :raises DaskError: function, script or arguments aren't allowed."""
    wanted = _jobs.specification(
        cluster.name, options["function"], options["script"], options["content"], options["arguments"]
    )
    return {
        "changed": False,
        "site": {
            "system": cluster.queue.name,
            "directory": site["batch"]["directory"],
            "python": site["python"],
            "environment": site["environment"],
            "tls": site["batch"]["tls"],
            "authorities": site["batch"]["authorities"],
            "identity": site["identity"],
        },
        "settings": {**options, "name": cluster.name, "arguments": wanted["arguments"]},
    }


def ensure_absent(cluster: BatchCluster, check_mode: bool) -> dict[str, t.Any]:
    record = cluster.record()
    before = cluster.last_script()
    if record and not check_mode:
        cluster.end(record)
    return {"changed": bool(record), "diff": difference(before, "")}


def ensure_submitted(
    cluster: BatchCluster, options: dict[str, t.Any], check_mode: bool
) -> tuple[dict[str, t.Any], Record | None]:
    """Submits the cluster's job unless it is there.

    :raises DaskError: it is there with another specification, or the queue refuses it.
    """
    plan, script, before = options["plan"], options["job_script"], cluster.last_script()
    record = cluster.record()
    job = cluster.job(record)
    if record and job and job.lives:
        cluster.refuse_another(record, plan)
        return {"changed": False}, record
    same = record and record["application"] and record["digest"] == plan["digest"]
    if record and same and cluster.has_begun(record) and not options["rerun"]:
        return {"changed": False}, record
    outcome = {"changed": True, "diff": difference(before, script), "job_script": script}
    if check_mode:
        return outcome, None
    return outcome, cluster.submit(plan, script, options["content"], record, options["secrets"])


def followed(cluster: BatchCluster, job: str) -> Record:
    """Returns the record of a job that was submitted. :raises DaskError: it is another by now."""
    record = cluster.record()
    if record is None or record["job"] != job:
        raise DaskError("Job {0} of batch cluster '{1}' was ended by somebody else.".format(job, cluster.name))
    return record


def ensure_additional(cluster: BatchCluster, record: Record, wanted: int, check_mode: bool) -> dict[str, t.Any]:
    """Has chunks leave that are too many, and says how many lack."""
    lacking = max(0, wanted - sum(each["chunks"] for each in cluster.living_more(record)))
    surplus = cluster.surplus(record, wanted)
    if surplus and not check_mode:
        cluster.shrink(record, surplus)
    return {"changed": bool(surplus or lacking), "lacking": lacking}


def difference(before: str, after: str) -> dict[str, str]:
    return {"before_header": "job.sh", "after_header": "job.sh", "before": before, "after": after}


def ensure_present(cluster: BatchCluster, options: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    outcome: dict[str, t.Any] = {"changed": False}
    record: Record | None
    if options["job"]:
        record = followed(cluster, options["job"])
    else:
        outcome, record = ensure_submitted(cluster, options, check_mode)
    if record is None:
        return outcome
    waits = options["state"] == "present" and not check_mode
    state = cluster.wait(record, options["progress"], options["timeout"]) if waits else cluster.state(record)
    if state["state"] == "running" and options["additional_chunks"] is not None and options["state"] == "present":
        more = ensure_additional(cluster, record, options["additional_chunks"], check_mode)
        outcome.update(lacking=more["lacking"], changed=outcome["changed"] or more["changed"])
    outcome["cluster"] = {**state, "more": record["more"]}
    if state["state"] not in ("pending", "starting", "running") and not check_mode:
        cluster.forget_secrets(record)
    succeeded = state["state"] in ("pending", "starting", "running") or (
        state["state"] == "finished" and record["application"]
    )
    if not succeeded:
        raise EndedError(cluster.describe_end(record, state), outcome)
    return outcome


class EndedError(DaskError):
    """The job ended before what it is for; ``outcome`` is what there is to return."""

    def __init__(self, message: str, outcome: dict[str, t.Any]) -> None:
        super().__init__(message)
        self.outcome = outcome


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "submitted", "planned", "absent"], "default": "present"},
            "cluster": {"type": "str"},
            "home": {"type": "str", "default": ""},
            "system": {"type": "str", "choices": ["auto", "slurm", "pbs"], "default": "auto"},
            "chunks": {"type": "int", "default": 1},
            "cpus": {"type": "int", "default": 1},
            "memory": {"type": "str"},
            "memory_reserve": {"type": "raw", "default": 0.1},
            "walltime": {"type": "str"},
            "queue": {"type": "str", "default": ""},
            "account": {"type": "str", "default": ""},
            "place": {"type": "str", "default": ""},
            "constraint": {"type": "str", "default": ""},
            "directives": {"type": "list", "elements": "str", "default": []},
            "variant": {"type": "str", "choices": ["processes", "threads"], "default": "processes"},
            "scheduler_alone": {"type": "bool", "default": False},
            "interface": {"type": "str", "default": ""},
            "dashboard": {"type": "str", "choices": ["loopback", "interface"], "default": "loopback"},
            "local_directory": {"type": "str", "default": ""},
            "directory": {"type": "str", "default": ""},
            "setup": {"type": "list", "elements": "str", "default": []},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "idle_timeout": {"type": "int", "default": 0},
            "drain_seconds": {"type": "int", "default": 60},
            "function": {"type": "str"},
            "script": {"type": "path"},
            "remote_src": {"type": "bool", "default": False},
            "content": {"type": "str"},
            "arguments": {"type": "raw", "default": []},
            "additional_chunks": {"type": "int"},
            "rerun": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 0},
            "progress": {"type": "float", "default": 10},
            "installation": {"type": "dict"},
            "plan": {"type": "dict"},
            "job_script": {"type": "str"},
            "job": {"type": "str"},
        },
        mutually_exclusive=[("function", "script"), ("function", "content")],
        required_together=[("plan", "job_script")],
        required_if=[("state", state, ("memory", "walltime")) for state in ("present", "submitted", "planned")],
        supports_check_mode=True,
    )
    options: dict[str, t.Any] = module.params
    outcome: dict[str, t.Any] = {"changed": False}
    try:
        site = options["installation"] or find_site(options["cluster"], options["home"])
        cluster = BatchCluster(site, find_queue(options["system"]), options["name"] or site["cluster"])
        if options["state"] == "absent":
            outcome = ensure_absent(cluster, module.check_mode)
        elif options["plan"] is None:
            outcome = describe_site(site, cluster, options)
        elif options["plan"]["kind"] == "workers":
            record = cluster.submit_more(options["plan"], options["job_script"], options["additional_chunks"])
            outcome = {"changed": True, "more": record["more"]}
        else:
            outcome = ensure_present(cluster, options, module.check_mode)
    except EndedError as error:
        module.fail_json(msg=str(error), **error.outcome)
    except DaskError as error:
        module.fail_json(msg=str(error), **outcome)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
