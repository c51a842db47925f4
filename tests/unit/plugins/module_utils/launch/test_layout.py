# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every cluster has directories of its own, and all of its files are in them."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import Layout, layout, refusal

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)
PLACES = st.tuples(st.sampled_from(["system", "user"]), st.sampled_from(["", "/srv/dask"]), st.just("/home/ada"))


def contains(directory: str, path: str) -> bool:
    return posixpath.commonpath([directory, path]) == directory


@given(NAMES, PLACES)
def test_all_files_of_a_cluster_are_in_directories_of_its_own(name: str, place: tuple[str, str, str]) -> None:
    found = layout(name, *place)
    paths = [path for key, path in found.as_dict().items() if key not in ("own", "parents")]
    assert all(any(contains(own, path) for own in found.own) for path in paths)


@given(st.lists(NAMES, min_size=2, max_size=2, unique=True), PLACES)
def test_two_clusters_never_share_a_directory_of_their_own(names: list[str], place: tuple[str, str, str]) -> None:
    mine, yours = (layout(name, *place) for name in names)
    assert not any(contains(one, other) or contains(other, one) for one in mine.own for other in yours.own)


@given(NAMES, PLACES)
def test_what_is_left_after_a_cluster_is_only_the_parents_of_its_directories(
    name: str, place: tuple[str, str, str]
) -> None:
    found = layout(name, *place)
    assert {posixpath.dirname(own) for own in found.own} == set(found.parents)


@pytest.mark.parametrize(
    ("found", "description"),
    [
        (layout("main", "system", "", "/root"), "/etc/dask/main/cluster.json"),
        (layout("main", "user", "", "/home/ada"), "/home/ada/.dask/main/etc/cluster.json"),
        (layout("main", "user", "/srv/dask", "/home/ada"), "/srv/dask/main/etc/cluster.json"),
        (layout("main", "system", "/srv/dask", "/root"), "/srv/dask/main/etc/cluster.json"),
    ],
    ids=["system", "user", "home", "home as root"],
)
def test_modules_find_a_cluster_where_its_layout_puts_the_description(found: Layout, description: str) -> None:
    assert found.description == description


SYSTEMS = ["/", "/etc", "/usr", "/proc", "/home", "/var", "/root", "/var/lib", "/run", "/dev", "/sys", "/boot", "/bin"]
COLLECTIONS = ["/etc/dask", "/opt/dask", "/var/lib/dask", "/etc/dask-proxy", "/var/lib/dask/main/jobs"]
SPELLINGS = st.sampled_from(["{0}", "/{0}", "//{0}", "{0}/", "{0}/.", "/x/..{0}", "{0}/x/..", "/.{0}", "{0}//"])


@given(st.sampled_from([*SYSTEMS, *COLLECTIONS]), SPELLINGS, st.booleans())
def test_directories_of_the_system_and_of_the_collection_are_nobodys_to_give(
    path: str, spelling: str, mounted: bool
) -> None:
    assert refusal(spelling.format(path), mounted=mounted)


@given(st.sampled_from(["/etc", "/usr", "/proc", "/run", "/sys", "/lib64"]), NAMES)
def test_nothing_below_what_the_system_runs_from_is_a_clusters(tree: str, name: str) -> None:
    assert refusal(f"{tree}/{name}") == "it is the system's"


@pytest.mark.parametrize(
    "path",
    [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman",
        "/dev/sda",
        "/sys/fs",
    ],
)
def test_what_gives_root_is_mounted_nowhere(path: str) -> None:
    assert refusal(path, mounted=True)


@pytest.mark.parametrize(
    "path", ["/srv/lab", "/scratch", "/home/lab/dask", "/data", "/mnt", "/tmp", "/etcetera", "/opt/daskx"]
)
@pytest.mark.parametrize("mounted", [True, False])
def test_any_other_directory_is_taken(path: str, mounted: bool) -> None:
    assert refusal(path, mounted=mounted) == ""


@pytest.mark.parametrize("path", ["/etc/krb5.conf", "/usr/share/data", "/run/munge"])
def test_single_things_of_the_system_can_be_mounted(path: str) -> None:
    assert refusal(path, mounted=True) == ""
