# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stages run to completion, one after the other, once; what fails stops the pipeline in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from testbed import Ansible, Hosts, Result, Run

EXAMPLES = Path(__file__).parents[3] / "examples"

MAKE = """
import json, os, socket
from distributed import Client
with Client(os.environ["ARL_DASK_SCHEDULER"]) as client:
    numbers = client.gather(client.map(lambda x: x * x, range(100)))
print("made", len(numbers))
os.makedirs("/results/numbers", exist_ok=True)
with open("/results/numbers/made.json", "w") as file:
    json.dump(numbers, file)
"""
SUM = """
import json
from distributed import Client
numbers = json.load(open("/results/numbers/made.json"))
with Client() as client:
    total = client.submit(sum, numbers).result()
print("the sum is", total)
with open("/results/sum.txt", "w") as file:
    file.write(str(total))
"""
TOTAL = sum(number * number for number in range(100))


def stages(**changes: Mapping[str, object]) -> list[dict[str, Any]]:
    """Two stages, with changes by their names."""
    common = {"mounts": ["/srv/lab data:/results"], "scheduler_variables": ["ARL_DASK_SCHEDULER"], "timeout": 120}
    return (
        [
            {"name": "make", "command": ["python", "-c", MAKE], "results": "/results/numbers", **common},
            {"name": "sum", "command": ["python", "-c", SUM], "results": "/results/sum.txt", **common},
        ]
        if not changes
        else [{**stage, **changes.get(stage["name"], {})} for stage in stages()]
    )


@pytest.fixture(autouse=True, scope="module")
def nothing_left(ansible: Ansible, hosts: Hosts) -> Iterator[None]:
    yield
    ansible.module("manager", "flotilla.dask.dask_pipeline", name="squares", state="absent")
    hosts["manager"].check_output("rm -rf '/srv/lab data/numbers' '/srv/lab data/sum.txt'")


def pipeline(ansible: Ansible, results: Path, wanted: list[dict[str, Any]], **extra_vars: object) -> Run:
    variables = {"dask_pipeline_name": "squares", "dask_pipeline_stages": wanted, "dask_pipeline_results": str(results)}
    return ansible.playbook("flotilla.dask.pipeline", extra_vars={**variables, **extra_vars})


def states(run: Run) -> dict[str, str]:
    [result] = [results["manager"] for name, results in run.tasks if name.endswith("Run pipeline squares")]
    return {stage["name"]: stage["state"] for stage in result["pipeline"]["stages"]}


def services(hosts: Hosts) -> list[str]:
    return str(hosts["manager"].check_output("docker service ls --format '{{.Name}}'")).split()


RUN = "flotilla.dask.dask_pipeline : Run pipeline squares"


def test_stages_run_one_after_the_other_once_and_their_results_are_fetched(
    ansible: Ansible, hosts: Hosts, tmp_path: Path
) -> None:
    run = pipeline(ansible, tmp_path, stages())
    assert run.ok, run.problems
    assert states(run) == {"make": "finished", "sum": "finished"}
    assert (tmp_path / "squares/sum/sum.txt").read_text() == str(TOTAL)
    assert len(json.loads((tmp_path / "squares/make/numbers/made.json").read_text())) == 100
    assert not [name for name in services(hosts) if "stage" in name]
    record = hosts["manager"].check_output("cat /etc/dask/main/pipelines/squares/sum.log")
    assert f"the sum is {TOTAL}" in record
    again = pipeline(ansible, tmp_path, stages())
    assert (again.ok, again.changed) == (True, {}), again.problems


def test_the_imaging_pipeline_finds_the_sky_that_it_simulated(ansible: Ansible, hosts: Hosts, tmp_path: Path) -> None:
    variables = {"imaging_directory": "/srv/lab data", "dask_pipeline_results": str(tmp_path)}
    words = ("--extra-vars", f"@{EXAMPLES / 'imaging_pipeline.yml'}")
    run = ansible.playbook("flotilla.dask.pipeline", *words, extra_vars=variables)
    assert run.ok, run.problems
    sky = json.loads((EXAMPLES / "imaging/src/imaging/sky.json").read_text())["sources"]
    found = json.loads((tmp_path / "imaging/image/images/sources.json").read_text())["sources"]
    assert len(found) == len(sky)
    for source in sky:
        nearest = min(found, key=lambda each: (each["ra"] - source["ra"]) ** 2 + (each["dec"] - source["dec"]) ** 2)
        assert nearest["dec"] == pytest.approx(source["dec"], abs=5 * nearest["position_error"] / 3600)
        assert nearest["flux"] == pytest.approx(source["flux"], abs=5 * nearest["flux_error"])
    assert (tmp_path / "imaging/image/images/restored.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "imaging/image/images/restored.fits").read_bytes().startswith(b"SIMPLE  =")
    again = ansible.playbook("flotilla.dask.pipeline", *words, extra_vars=variables)
    assert (again.ok, again.changed) == (True, {}), again.problems
    ansible.module("manager", "flotilla.dask.dask_pipeline", name="imaging", state="absent")
    hosts["manager"].check_output("rm -rf '/srv/lab data/visibilities' '/srv/lab data/images'")


def test_what_changes_in_a_stage_runs_it_again_with_those_that_build_upon_it(ansible: Ansible, tmp_path: Path) -> None:
    run = pipeline(ansible, tmp_path, stages(sum={"environment": {"LAB": "two"}}))
    assert run.ok, run.problems
    seconds = {name: each["seconds"] for name, each in reports(run).items()}
    before = seconds["make"]
    assert RUN in run.changed
    alone = pipeline(
        ansible, tmp_path, stages(make={"environment": {"LAB": "two"}}), dask_pipeline_stages_to_run=["sum"]
    )
    assert "not done as they are specified: make" in alone.problems
    assert alone.changed == {}
    run = pipeline(ansible, tmp_path, stages(make={"environment": {"LAB": "two"}}))
    assert run.ok, run.problems
    assert RUN in run.changed
    assert reports(run)["make"]["seconds"] != before


def reports(run: Run) -> dict[str, Result]:
    [result] = [results["manager"] for name, results in run.tasks if name.endswith("Run pipeline squares")]
    return {stage["name"]: stage for stage in result["pipeline"]["stages"]}


def test_a_stage_that_fails_stops_the_pipeline_with_its_last_lines(
    ansible: Ansible, hosts: Hosts, tmp_path: Path
) -> None:
    failing = stages(make={"command": ["python", "-c", "print('so far so good'); raise SystemExit('no more disk')"]})
    run = pipeline(ansible, tmp_path, failing)
    assert not run.ok
    assert "Stage 'make' of pipeline 'squares' failed: it ended with exit status 1." in run.problems
    assert "so far so good" in run.problems
    assert "no more disk" in run.problems
    assert states(run) == {"make": "failed", "sum": "waiting"}
    assert not [name for name in services(hosts) if "stage" in name]
    fixed = pipeline(ansible, tmp_path, stages())
    assert fixed.ok, fixed.problems


def test_a_stage_runs_on_the_host_that_it_names_and_its_results_come_from_there(
    ansible: Ansible, hosts: Hosts, tmp_path: Path
) -> None:
    words = "import distributed; distributed.Client(); print('hello'); open('/results/there.txt', 'w').write('there')"
    there = {"host": "node1", "command": ["python", "-c", words], "results": "/results/there.txt", "after": []}
    run = pipeline(ansible, tmp_path, stages(make=there), dask_pipeline_stages_to_run=["make"])
    assert run.ok, run.problems
    assert (tmp_path / "squares/make/there.txt").read_text() == "there"
    assert "hello" in reports(run)["make"]["output"]
    assert not hosts["manager"].file("/srv/lab data/there.txt").exists
    hosts["node1"].check_output("rm '/srv/lab data/there.txt'")


def test_a_stage_that_takes_too_long_or_makes_nothing_has_failed(ansible: Ansible, tmp_path: Path) -> None:
    slow = stages(make={"command": ["python", "-c", "import time; time.sleep(600)"], "timeout": 3})
    run = pipeline(ansible, tmp_path, slow)
    assert "it took longer than 3 s" in run.problems
    idle = stages(sum={"command": ["python", "-c", "pass"], "results": "/results/nothing"})
    run = pipeline(ansible, tmp_path, idle)
    assert not run.ok
    assert "Stage 'sum' ended well, but its results are not in /srv/lab data/nothing on manager" in run.problems


def test_a_mount_that_a_node_lacks_is_refused_before_any_stage_starts(ansible: Ansible, tmp_path: Path) -> None:
    run = pipeline(ansible, tmp_path, stages(make={"mounts": ["/srv/none:/results"]}))
    assert not run.ok
    assert "there is no /srv/none on manager" in run.problems
    assert run.changed == {}
