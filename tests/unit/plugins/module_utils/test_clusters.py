# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module finds the cluster of its host by itself, or says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._clusters import find_cluster
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import layout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return str(tmp_path / "clusters")


def deploy(cluster: str, home: str = "", user_directory: str = "") -> None:
    description = Path(layout(cluster, "user", home, user_directory).description)
    description.parent.mkdir(parents=True)
    description.write_text(json.dumps({"cluster": cluster}))


def test_a_cluster_is_found_by_its_name_or_without_one_where_it_is_the_only_one(home: str) -> None:
    deploy("red", home)
    assert find_cluster("red", home) == {"cluster": "red"}
    deploy("blue", home)
    assert find_cluster("blue", home) == {"cluster": "blue"}
    with pytest.raises(DaskError, match=r"several clusters .*blue, red.* option 'cluster'"):
        find_cluster(None, home)


def test_a_users_own_cluster_is_found_without_saying_where(home: str, tmp_path: Path) -> None:
    deploy("mine", user_directory=str(tmp_path / "user"))
    assert find_cluster("mine") == {"cluster": "mine"}
    assert home not in str(find_cluster("mine"))


def test_where_there_is_no_such_cluster_the_error_says_which_there_are_and_what_to_do(home: str) -> None:
    deploy("red", home)
    with pytest.raises(DaskError, match=r"no Dask cluster called 'blue' .*but .*red.* flotilla.dask.site"):
        find_cluster("blue", home)


def test_a_description_that_is_broken_is_named(home: str) -> None:
    deploy("red", home)
    path = Path(layout("red", "user", home, "").description)
    path.write_text("{")
    with pytest.raises(DaskError, match="{0} does not describe a cluster.*flotilla.dask.site".format(path)):
        find_cluster("red", home)
