# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a stage is given, and how its end is told. That it runs is for the tests on hosts."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._pipelines import Runs, describe_failure, stage_environment
from ansible_collections.flotilla.dask.plugins.module_utils.launch.pipeline import Stage, read_pipeline

SCHEDULER = {
    "DASK_CONFIG": "/etc/dask/main/dask.yaml",
    "DASK_DISTRIBUTED__SCHEDULER__CONTACT_ADDRESS": "tls://10.0.0.1:8786",
    "PYTHONPATH": "/etc/dask/main/python",
}
ADDRESS = "tls://scheduler:8786"


def stage(**changes: t.Any) -> Stage:
    entry = {"name": "a", "command": ["run"], **changes}
    return read_pipeline({"cluster": "main", "name": "p", "stages": [entry], "host": "alpha"}).stages[0]


def test_a_stage_is_told_where_the_scheduler_is_as_it_wants_to_be_told() -> None:
    told = stage_environment(stage(scheduler_variables=["ARL_DASK_SCHEDULER", "OTHER"]), SCHEDULER, ADDRESS)
    assert told["ARL_DASK_SCHEDULER"] == told["OTHER"] == told["DASK_SCHEDULER_ADDRESS"] == ADDRESS
    assert told["DASK_CONFIG"] == SCHEDULER["DASK_CONFIG"]
    assert "DASK_DISTRIBUTED__SCHEDULER__CONTACT_ADDRESS" not in told


def test_what_a_stage_says_of_itself_counts_and_its_modules_come_after_ours() -> None:
    told = stage_environment(stage(environment={"HOME": "/lab", "PYTHONPATH": "/library"}), SCHEDULER, ADDRESS)
    assert told["HOME"] == "/lab"
    assert told["PYTHONPATH"] == "/etc/dask/main/python:/library"


def test_a_failure_is_told_with_its_last_lines_and_where_the_rest_is() -> None:
    failed = {"name": "image", "message": "it ended with exit status 3", "output": "no disk", "log": "/p/image.log"}
    text = describe_failure("imaging", failed)
    assert "Stage 'image' of pipeline 'imaging' failed: it ended with exit status 3." in text
    assert "no disk" in text
    assert "/p/image.log" in text


def test_a_cluster_without_a_swarm_has_no_pipelines() -> None:
    with pytest.raises(DaskError, match="dask_launcher is swarm"):
        Runs({"cluster": "main"}, "imaging")
