#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_pipeline
short_description: A pipeline of stages that have run to completion on a Dask cluster in a swarm
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes sure that every stage has run to completion, each as a service of its own on the network of the cluster, one
    after the other. Runs on the scheduler's host.
  - A stage that was done with the same specification (all of it but C(timeout), and that of the stages before) is not
    run again. One that failed stops the pipeline, with its last lines as the error; the next run starts with it.
  - Records and the output of stages are in C(pipelines) below the cluster's configuration directory, for root alone. A
    stage goes on when the controller is gone, and the next run finds it. Options are not written to the host's log.
  - While a task waits for a stage it prints what that said last.
options:
  name:
    description: The pipeline's name, unique in the cluster.
    type: str
    required: true
  state:
    description:
      - With V(finished) the task waits for the end.
      - With V(absent) a stage that runs is ended, and the records are removed. Results stay.
    type: str
    choices: [finished, absent]
    default: finished
  stages:
    description: The stages, in the order in which they run unless C(after) says otherwise.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The stage's name, unique in the pipeline.
        type: str
        required: true
      image:
        description: The image that it runs. By default the cluster's.
        type: str
      command:
        description: The words of the command.
        type: list
        elements: raw
        required: true
      environment:
        description: Environment variables, which are no secrets. A stage has none of the cluster's secrets either.
        type: dict
        default: {}
      mounts:
        description:
          - Directories of the host, as C(/data), or C(/srv/data:/data), with C(:ro) after it where the stage doesn't
            write. They have to exist.
        type: list
        elements: str
        default: []
      scheduler_variables:
        description:
          - Environment variables that get the scheduler's address, such as C(ARL_DASK_SCHEDULER). A C(Client()) without
            an address finds it anyway.
        type: list
        elements: str
        default: []
      host:
        description: Inventory name of the host that it runs on. By default the scheduler's.
        type: str
      user:
        description: Numbers of the user and the group that it runs as. By default those of the cluster's containers.
        type: str
      results:
        description: What it makes, as a path in the container below one of O(stages[].mounts).
        type: str
      after:
        description: The stages that have to be done before. By default the one above it.
        type: list
        elements: str
      timeout:
        description: Seconds after which a stage that hasn't ended is ended and has failed; V(0) for no limit.
        type: int
        default: 0
  stages_to_run:
    description: Names of the stages to run, where it isn't all. What they build upon has to be done.
    type: list
    elements: str
    default: []
  rerun:
    description: Run the stages again though they are done.
    type: bool
    default: false
  progress:
    description: Seconds between two lines of progress while the task waits.
    type: float
    default: 10
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.attributes.cluster
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: Not with O(rerun=true).
seealso:
  - module: flotilla.dask.dask_job
"""

EXAMPLES = r"""
- name: Make images of what the telescope measured
  flotilla.dask.dask_pipeline:
    name: imaging
    stages:
      - name: simulate
        command: [python, -m, imaging.simulate, --output, /results/visibilities]
        mounts: ["/srv/results:/results"]
        scheduler_variables: [ARL_DASK_SCHEDULER]
        results: /results/visibilities
      - name: image
        command: [python, -m, imaging.image, --input, /results/visibilities, --output, /results/images]
        mounts: ["/srv/results:/results"]
        scheduler_variables: [ARL_DASK_SCHEDULER]
        results: /results/images
        timeout: 3600
"""

RETURN = r"""
pipeline:
  description: The pipeline as it stands.
  returned: unless O(state=absent)
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      returned: success
    state:
      description: V(running), V(finished) or V(failed).
      type: str
      returned: success
    stages:
      description:
        - For each stage its C(name), C(state) (C(waiting), C(running), C(finished) or C(failed)), C(exit_code),
          C(reason), C(message), C(seconds), C(host), C(output) (the last lines), C(log) (the file on the scheduler's
          host that has all of it) and C(results) (their path on C(host)).
      type: list
      elements: dict
      returned: success
    last_line:
      description: What the stage that runs said last.
      type: str
      returned: while a stage runs
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils import _pipelines
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import find_cluster
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError, SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils._pipelines import Runs
from ansible_collections.flotilla.dask.plugins.module_utils.launch.pipeline import Pipeline, read_pipeline


def ensure_absent(runs: Runs, check_mode: bool) -> dict[str, t.Any]:
    there = runs.exists()
    if there and not check_mode:
        runs.remove()
    return {"changed": there}


def wanted_pipeline(runs: Runs, options: dict[str, t.Any]) -> Pipeline:
    """Returns the pipeline. :raises SettingsError: with every value that is refused."""
    stages = [{key: value for key, value in stage.items() if value is not None} for stage in options["stages"]]
    pipeline = read_pipeline(
        {
            "cluster": runs.cluster["cluster"],
            "name": options["name"],
            "stages": stages,
            "stages_to_run": options["stages_to_run"],
            "host": runs.swarm["host"],
            "hosts": runs.hosts(),
            "image": runs.image,
        }
    )
    missing = _pipelines.missing_stages(pipeline, runs)
    if missing:
        raise SettingsError(
            [
                "stages_to_run: {0!r} is refused. Allowed: names of stages with those that they build upon and that "
                "are not done as they are specified: {1}.".format(options["stages_to_run"], ", ".join(missing))
            ]
        )
    return pipeline


def ensure_finished(runs: Runs, pipeline: Pipeline, options: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Runs stages for a while. :raises DaskError: a stage runs with another specification, or Docker refused."""
    stages = [stage for stage in pipeline.stages if stage.name in pipeline.to_run]
    before = {stage.name: (runs.record(stage) or {}).get("digest", "") for stage in stages}
    if options["rerun"] and not check_mode:
        for stage in stages:
            runs.forget(stage)
    todo = [stage for stage in stages if options["rerun"] or not runs.is_done(stage, pipeline.digests[stage.name])]
    outcome = {
        "changed": bool(todo),
        "diff": {"before": before, "after": {stage.name: pipeline.digests[stage.name] for stage in stages}},
    }
    deadline = time.monotonic() + options["progress"]
    state, last_line = "finished", ""
    for stage in [] if check_mode else todo:
        digest = pipeline.digests[stage.name]
        service = runs.service(stage)
        if service is not None and not runs.is_of(service, digest):
            raise DaskError(
                "Stage '{0}' of pipeline '{1}' is running with another specification. Wait for its end, or end it with "
                "'state: absent'.".format(stage.name, pipeline.name)
            )
        if service is None:
            runs.start(stage, digest)
        ended = runs.wait(stage, max(0.0, deadline - time.monotonic()))
        if ended is None:
            state, last_line = "running", runs.last_line(stage)
            break
        if runs.finish(stage, digest, ended)["state"] == "failed":
            state = "failed"
            break
    reports = [runs.report(stage, pipeline.digests[stage.name]) for stage in pipeline.stages]
    outcome["pipeline"] = {"name": pipeline.name, "state": state, "stages": reports, "last_line": last_line}
    return outcome


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["finished", "absent"], "default": "finished"},
            "cluster": {"type": "str"},
            "home": {"type": "str", "default": ""},
            "stages": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "image": {"type": "str"},
                    "command": {"type": "list", "elements": "raw", "required": True},
                    "environment": {"type": "dict", "default": {}},
                    "mounts": {"type": "list", "elements": "str", "default": []},
                    "scheduler_variables": {"type": "list", "elements": "str", "default": []},
                    "host": {"type": "str"},
                    "user": {"type": "str"},
                    "results": {"type": "str"},
                    "after": {"type": "list", "elements": "str"},
                    "timeout": {"type": "int", "default": 0},
                },
            },
            "stages_to_run": {"type": "list", "elements": "str", "default": []},
            "rerun": {"type": "bool", "default": False},
            "progress": {"type": "float", "default": 10},
        },
        supports_check_mode=True,
    )
    options: dict[str, t.Any] = module.params
    outcome: dict[str, t.Any] = {"changed": False}
    try:
        cluster = find_cluster(options["cluster"], options["home"])
        runs = Runs(cluster, options["name"])
        if options["state"] == "absent":
            outcome = ensure_absent(runs, module.check_mode)
        else:
            outcome = ensure_finished(runs, wanted_pipeline(runs, options), options, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error), **outcome)
    failed = [each for each in outcome.get("pipeline", {}).get("stages", ()) if each["state"] == "failed"]
    if failed and outcome["pipeline"]["state"] == "failed":
        module.fail_json(msg=_pipelines.describe_failure(options["name"], failed[0]), **outcome)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
