# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stages are read in an order that works, each is identified by all that it builds upon, and mistakes are told."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.pipeline import (
    Pipeline,
    Stage,
    pipeline_plan,
    read_pipeline,
)

MOUNTS = ["/srv/results:/results", "/srv/library:/library:ro"]


def stage(name: str, **changes: t.Any) -> dict[str, t.Any]:
    return {"name": name, "command": ["run", name], "mounts": MOUNTS, "results": "/results/" + name, **changes}


def settings(*stages: t.Any, **changes: t.Any) -> dict[str, t.Any]:
    accepted = {
        "cluster": "main",
        "name": "imaging",
        "stages": list(stages),
        "host": "alpha",
        "hosts": ["alpha", "beta"],
        "image": "lab/dask:1",
    }
    return {**accepted, **changes}


def read(*stages: t.Any, **changes: t.Any) -> Pipeline:
    return read_pipeline(settings(*stages, **changes))


def names(pipeline: Pipeline) -> list[str]:
    return [each.name for each in pipeline.stages]


def test_a_stage_comes_after_the_one_above_it_unless_it_says_otherwise() -> None:
    pipeline = read(stage("a"), stage("b"), stage("c", after=[]), stage("d", after=["a", "c"]))
    assert [each.after for each in pipeline.stages] == [(), ("a",), (), ("a", "c")]
    assert names(read(stage("late", after=["early"]), stage("early", after=[]))) == ["early", "late"]


@given(st.data())
def test_every_stage_comes_after_those_that_it_needs(data: st.DataObject) -> None:
    order = ["s{0}".format(number) for number in range(data.draw(st.integers(1, 7)))]
    written = [
        stage(name, after=data.draw(st.lists(st.sampled_from(order[:index]), unique=True)) if index else [])
        for index, name in enumerate(order)
    ]
    pipeline = read(*data.draw(st.permutations(written)))
    assert sorted(names(pipeline)) == sorted(order)
    for index, each in enumerate(pipeline.stages):
        assert set(each.after) <= set(names(pipeline)[:index])


def digests(first: t.Mapping[str, t.Any], **changes: t.Any) -> t.Mapping[str, str]:
    return read(stage("a", **first), stage("b"), stage("c", after=[]), **changes).digests


@pytest.mark.parametrize(
    "change",
    [
        {"command": ["run", "a", "--fast"]},
        {"image": "lab/other:2"},
        {"environment": {"A": "1"}},
        {"mounts": ["/srv/other:/results"]},
        {"scheduler_variables": ["ARL_DASK_SCHEDULER"]},
        {"host": "beta"},
        {"user": "1000:1000"},
        {"results": "/results/elsewhere"},
    ],
)
def test_what_makes_a_stage_is_in_its_digest_and_in_those_that_build_upon_it(change: dict[str, t.Any]) -> None:
    before, after = digests({}), digests(change)
    assert {name for name in before if before[name] != after[name]} == {"a", "b"}


def test_how_long_a_stage_may_take_is_not_what_it_is() -> None:
    assert digests({"timeout": 60}) == digests({})


def test_a_stage_of_the_clusters_image_is_another_one_with_another_image() -> None:
    before, after = digests({"image": "lab/mine:1"}), digests({"image": "lab/mine:1"}, image="lab/dask:2")
    assert {name for name in before if before[name] != after[name]} == {"c", "b"}


@pytest.mark.parametrize(
    ("mounts", "results", "there"),
    [
        (MOUNTS, "/results/images", "/srv/results/images"),
        (MOUNTS, "/results", "/srv/results"),
        (["/srv/in put"], "/srv/in put", None),
        (["/data"], "/data/x/y.txt", "/data/x/y.txt"),
        (["/a:/data", "/b:/database"], "/database/x", "/b/x"),
        ([], "", ""),
    ],
)
def test_results_are_found_where_the_host_has_them(mounts: list[str], results: str, there: str | None) -> None:
    if there is None:
        with pytest.raises(SettingsError):
            read(stage("a", mounts=mounts, results=results))
    else:
        assert read(stage("a", mounts=mounts, results=results)).stages[0].results_on_host == there


def test_what_a_run_needs_is_of_the_stages_that_it_runs() -> None:
    planned = pipeline_plan(settings(stage("a"), stage("b", host="beta"), stages_to_run=["b"]))
    assert planned["mounts"] == [
        {"stage": "b", "host": "beta", "path": "/srv/results"},
        {"stage": "b", "host": "beta", "path": "/srv/library"},
    ]
    assert planned["results"] == [{"stage": "b", "host": "beta", "path": "/srv/results/b"}]


@pytest.mark.parametrize(
    ("stages", "changes", "words"),
    [
        ([], {}, "at least one stage"),
        ([stage("a"), stage("b", after=["c"])], {}, "stages[1].after: 'c' is refused. Allowed: names of stages: a, b."),
        ([stage("a")], {"stages_to_run": ["b"]}, "stages_to_run[0]: 'b' is refused"),
        ([stage("a", after=["b"]), stage("b")], {}, "in a circle"),
        ([stage("a", after=["a"])], {}, "in a circle"),
        ([stage("a"), stage("a")], {}, "no other stage of the pipeline has"),
        ([stage("A")], {}, "stages[0].name: 'A' is refused"),
        ([stage("a--b")], {}, "stages[0].name: 'a--b' is refused"),
        ([stage("a" * 60)], {}, "as a swarm allows services 63 characters"),
        ([stage("a", command=[])], {}, "stages[0].command: [] is refused"),
        ([stage("a", command="run a")], {}, "stages[0].command: 'run a' is refused"),
        ([stage("a", results="/else/where")], {}, "below one of its mounts (/results, /library)"),
        ([stage("a", user="root")], {}, "stages[0].user: 'root' is refused"),
        ([stage("a", host="gamma")], {}, "hosts of the cluster: alpha, beta"),
        ([stage("a", scheduler_variables=["A B"])], {}, "stages[0].scheduler_variables.A B"),
        ([stage("a", timeout="soon")], {}, "stages[0].timeout: 'soon' is refused"),
        ([stage("a", retries=3)], {}, "stages[0]: 'retries' is refused"),
        ([stage("a")], {"name": "Imaging"}, "name: 'Imaging' is refused"),
    ],
)
def test_what_cannot_run_is_refused_in_words(stages: list[t.Any], changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(*stages, **changes)
    assert words in str(caught.value)


def test_every_key_of_a_stage_is_one_that_the_module_takes(root: t.Any) -> None:
    from ansible.parsing.plugin_docs import read_docstring

    documented = read_docstring(str(root / "plugins/modules/dask_pipeline.py"))["doc"]["options"]["stages"]
    assert set(documented["suboptions"]) == set(Stage.__dataclass_fields__)
