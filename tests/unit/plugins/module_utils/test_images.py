# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which images are removed: those that were brought, and nothing that somebody else has or needs."""

from __future__ import annotations

import json
import os
import stat
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._images import RECORD, Images, familiar
from ansible_collections.flotilla.dask.plugins.modules.dask_image import look, record, remove
from ansible_collections.flotilla.dask.tests.unit.engine import Engine

NAME = "flotilla-dask:1"
LABEL = {"flotilla.dask.cluster": "main", "flotilla.dask.environment": "venv-1"}


def bring(engine: Engine, directory: Path, name: str = NAME) -> str:
    """Brings an image as the role does. Returns its identity."""
    looked = look(Images(str(directory)), name, check_mode=False)
    assert looked["stage"]
    identity = engine.add_image(name, **LABEL)
    assert record(Images(str(directory)), name, check_mode=False)["changed"]
    return identity


def recorded(directory: Path) -> list[str]:
    return [each["id"] for each in json.loads((directory / RECORD).read_text())["images"]]


def test_what_was_brought_is_recorded_where_root_alone_reads_it_and_is_removed(engine: Engine, tmp_path: Path) -> None:
    identity = bring(engine, tmp_path)
    assert recorded(tmp_path) == [identity]
    assert stat.S_IMODE((tmp_path / RECORD).stat().st_mode) == 0o600
    again = look(Images(str(tmp_path)), NAME, check_mode=False)
    assert again == {"changed": False, "here": True, "environment": "venv-1"}
    assert remove(Images(str(tmp_path)), check_mode=False) == {"changed": True, "kept": []}
    assert engine.images == {}
    assert not (tmp_path / RECORD).exists()
    assert remove(Images(str(tmp_path)), check_mode=False) == {"changed": False, "kept": []}


def test_an_image_that_was_there_before_stays(engine: Engine, tmp_path: Path) -> None:
    engine.add_image(NAME, **LABEL)
    assert not look(Images(str(tmp_path)), NAME, check_mode=False)["changed"]
    assert not remove(Images(str(tmp_path)), check_mode=False)["changed"]
    assert len(engine.images) == 1


def test_check_mode_says_what_would_be_and_does_nothing(engine: Engine, tmp_path: Path) -> None:
    assert look(Images(str(tmp_path)), NAME, check_mode=True)["changed"]
    assert record(Images(str(tmp_path)), NAME, check_mode=True)["changed"]
    assert os.listdir(tmp_path) == []
    bring(engine, tmp_path)
    assert remove(Images(str(tmp_path)), check_mode=True)["changed"]
    assert len(engine.images) == 1


@pytest.mark.parametrize(
    ("meets", "words"),
    [
        (lambda engine, image: engine.add_image("lab:1", parent=image), "other images are built upon it"),
        (lambda engine, _image: engine.add_container("bob", NAME), "the containers bob are made of it"),
        (
            lambda engine, image: engine.add_container("bob", engine.add_image("lab:1", parent=image)),
            "the containers bob are made of it, or of images that are built upon it",
        ),
        (lambda engine, image: engine.images[image]["RepoTags"].append("bobs:1"), "somebody calls it bobs:1 too"),
        (lambda engine, image: engine.images[image].update(RepoTags=["bobs:1"]), "somebody calls it bobs:1 too"),
    ],
)
def test_what_others_need_stays_and_it_is_said(
    engine: Engine, tmp_path: Path, meets: t.Callable[[Engine, str], None], words: str
) -> None:
    image = bring(engine, tmp_path)
    meets(engine, image)
    before = json.dumps([engine.images, engine.containers])
    [sentence] = remove(Images(str(tmp_path)), check_mode=False)["kept"]
    assert words in sentence
    assert sentence.startswith("Image {0} stays on this host: ".format(NAME))
    assert json.dumps([engine.images, engine.containers]) == before
    assert not any("--force" in said for said in engine.said)


def test_an_image_of_somebody_that_inherits_our_labels_stays_when_ours_goes(engine: Engine, tmp_path: Path) -> None:
    bring(engine, tmp_path)
    theirs = engine.add_image("lab:1", **LABEL)
    nameless = engine.add_image("", **LABEL)
    assert remove(Images(str(tmp_path)), check_mode=False) == {"changed": True, "kept": []}
    assert set(engine.images) == {theirs, nameless}


def test_a_new_image_leaves_the_one_that_runs_and_removes_those_before(engine: Engine, tmp_path: Path) -> None:
    first, second, third = (bring(engine, tmp_path, "flotilla-dask:{0}".format(number)) for number in range(3))
    assert set(engine.images) == {second, third}
    assert recorded(tmp_path) == [second, third]
    assert first not in recorded(tmp_path)


def test_a_run_that_was_killed_before_it_knew_the_identity_is_made_good(engine: Engine, tmp_path: Path) -> None:
    stage = Images(str(tmp_path)).expect(NAME)
    ours = engine.add_image("", **{"flotilla.dask.stage": stage})
    other = engine.add_image("", **{"flotilla.dask.stage": "another"})
    image = engine.add_image(NAME, **LABEL)
    assert look(Images(str(tmp_path)), NAME, check_mode=True)["changed"]
    assert look(Images(str(tmp_path)), NAME, check_mode=False)["changed"]
    assert recorded(tmp_path) == [image]
    assert other in engine.images
    assert ours not in engine.images
    assert not look(Images(str(tmp_path)), NAME, check_mode=False)["changed"]


def test_a_run_that_was_killed_is_made_good_when_another_image_is_wanted(engine: Engine, tmp_path: Path) -> None:
    Images(str(tmp_path)).expect(NAME)
    image = engine.add_image(NAME, **LABEL)
    bring(engine, tmp_path, "flotilla-dask:2")
    assert recorded(tmp_path)[0] == image


@pytest.mark.usefixtures("engine")
def test_a_run_that_was_killed_before_anything_came_leaves_a_name_alone(tmp_path: Path) -> None:
    stage = Images(str(tmp_path)).expect(NAME)
    assert Images(str(tmp_path)).expect(NAME) == stage
    assert remove(Images(str(tmp_path)), check_mode=False) == {"changed": True, "kept": []}
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("engine")
def test_an_image_that_did_not_come_is_said(tmp_path: Path) -> None:
    Images(str(tmp_path)).expect(NAME)
    with pytest.raises(DaskError, match="is not on this host"):
        record(Images(str(tmp_path)), NAME, check_mode=False)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"images": []}',
        '{"coming": null, "images": [{"id": 7, "name": "a"}]}',
        '{"coming": "a", "images": []}',
        '{"coming": null, "images": [{"id": "--force", "name": "a"}]}',
        '{"coming": null, "images": [{"name": "a"}]}',
    ],
)
def test_a_record_that_is_not_ours_removes_nothing(engine: Engine, tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(DaskError, match="is refused: it is not what the collection wrote"):
        Images(str(tmp_path))
    assert engine.said == []


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("lab/dask:2", "lab/dask:2"),
        ("docker.io/lab/dask", "lab/dask:latest"),
        ("docker.io/library/python:3.11", "python:3.11"),
        ("lab:5000/dask", "lab:5000/dask:latest"),
        ("lab/dask@sha256:01", "lab/dask@sha256:01"),
    ],
)
def test_names_are_compared_as_docker_lists_them(name: str, listed: str) -> None:
    assert familiar(name) == listed
