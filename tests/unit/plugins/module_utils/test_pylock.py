# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a lock each Python gets the files that fit to it, and a lock that is none is refused in words."""

from __future__ import annotations

import contextlib
import json
import typing as t

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._locks import LockError
from ansible_collections.flotilla.dask.plugins.module_utils._platform import Python
from ansible_collections.flotilla.dask.plugins.module_utils._pylock import (
    choose,
    contents,
    made_from,
    requirements_digest,
    with_head,
)

NEW = Python("3.13.5", "linux-64", "2.41")
OLD = Python("3.11.2", "linux-64", "2.36")
ARM = Python("3.13.5", "linux-aarch64", "2.41")
FILES = (
    "alpha-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "alpha-1.0-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "alpha-1.0-cp313-cp313-manylinux_2_40_x86_64.whl",
    "alpha-1.0-cp313-cp313-macosx_11_0_arm64.whl",
    "alpha-1.0-cp313-cp313-win_amd64.whl",
)


def file(name: str, **changes: t.Any) -> dict[str, t.Any]:
    return {"url": "https://index.example/" + name, "hashes": {"sha256": "a" * 64}, **changes}


def package(name: str, *files: str, **changes: t.Any) -> dict[str, t.Any]:
    return {"name": name, "version": "1.0", "wheels": [file(each) for each in files], **changes}


def lock(*packages: t.Any, **changes: t.Any) -> str:
    """Writes what is JSON as TOML, in one line each."""
    content = {"lock-version": "1.0", "requires-python": ">=3.11", "packages": list(packages), **changes}
    return "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in content.items())


def toml(value: t.Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def names(text: str, python: Python, sources: bool = False) -> list[str]:
    return [each.file for each in choose(text, "pylock.toml", python, sources)]


def test_each_python_gets_the_newest_wheel_that_fits() -> None:
    text = lock(package("alpha", *FILES))
    assert names(text, NEW) == ["alpha-1.0-cp313-cp313-manylinux_2_40_x86_64.whl"]
    assert names(text, OLD) == [FILES[0]]
    with pytest.raises(LockError, match=r"alpha 1.0 is refused: it has no wheel for linux-aarch64, Python 3.13.5"):
        names(text, ARM)


def test_a_wheel_that_needs_a_newer_c_library_is_not_taken() -> None:
    assert names(lock(package("alpha", *FILES)), Python("3.13.5", "linux-64", "2.36")) == [FILES[1]]


def test_a_source_is_taken_only_where_it_may_be_built_and_no_wheel_fits() -> None:
    source = file("alpha-1.0.tar.gz")
    assert names(lock(package("alpha", *FILES, sdist=source)), ARM, sources=True) == ["alpha-1.0.tar.gz"]
    assert names(lock(package("alpha", *FILES, sdist=source)), OLD, sources=True) == [FILES[0]]
    with pytest.raises(LockError, match="set dask_download_on: host, so that hosts build it themselves"):
        names(lock(package("alpha", sdist=source)), OLD)


def test_what_a_marker_says_is_part_of_what_a_lock_is() -> None:
    found = [contents(lock(package("alpha", FILES[0], marker=f"sys_platform == '{each}'")), "") for each in ("a", "b")]
    assert found[0] != found[1]


def test_a_mac_gets_wheels_for_both_of_its_processors() -> None:
    files = ("alpha-1.0-cp312-cp312-macosx_10_13_universal2.whl", "beta-1.0-cp312-cp312-macosx_10_12_x86_64.whl")
    text = lock(package("alpha", files[0]), package("beta", files[1]))
    assert names(text, Python("3.12.1", "osx-64")) == [*files]


def test_markers_choose_packages() -> None:
    wheel = "beta-1.0-py3-none-any.whl"
    text = lock(package("beta", wheel, marker="python_full_version < '3.12' and sys_platform == 'linux'"))
    assert (names(text, OLD), names(text, NEW)) == ([wheel], [])


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("packages = [", "it is not TOML"),
        ("", "it has no list 'packages'"),
        ("packages = 1", "it has no list 'packages'"),
        (lock({"version": "1"}), "it has no list 'packages'"),
        (
            lock(package("alpha", FILES[0]), **{"requires-python": ">=3.12"}),
            "it is for Python >=3.12, and a host",
        ),
        (lock(package("alpha", FILES[0]), **{"requires-python": "new"}), "requires-python 'new' is refused"),
        (lock(package("alpha", FILES[0], marker="moon == 'full'")), "marker .* is refused"),
        (lock(package("alpha", wheels=[file(FILES[0], hashes={})])), "has no address or no sha256"),
        (lock(package("alpha", wheels=[{"name": FILES[0], "hashes": {"sha256": "a"}}])), "has no address or no sha256"),
        (lock(package("alpha")), "it has no wheel for"),
        (lock({"name": "alpha", "vcs": {"type": "git"}}), "it is no file that a hash could verify"),
        (lock(package("alpha", wheels=[{**file(FILES[0], url="http://[x/a"), "name": FILES[0]}])), "has no address"),
        (lock(package("alpha", FILES[0]), **{"lock-version": "2.0"}), "lock-version '2.0' is refused"),
        ("packages = " + 5000 * "[" + 5000 * "]", "it is not TOML"),
        (lock(package("alpha", FILES[0], version="")), "it has no list 'packages'"),
        (lock(package("alpha\n--index-url=x", FILES[0])), "it has no list 'packages'"),
        (lock(package("alpha", FILES[0], version="1.0 --pre")), "it has no list 'packages'"),
        (lock(package("alpha", wheels=[file(FILES[0], hashes={"sha256": "a"})])), "has no address or no sha256"),
        (lock({"name": "alpha", "wheels": [file(FILES[0])]}), "it has no version"),
    ],
)
def test_a_lock_that_a_host_cannot_use_is_refused(text: str, refused: str) -> None:
    with pytest.raises(LockError, match=refused):
        names(text, OLD)


JSON = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "alpha", FILES[0], "1.0", ">=3", "a" * 64]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "wheels", "sdist", "archive", "url", "hashes", "sha256", "marker"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON, st.booleans())
@hypothesis_settings(max_examples=2000)
def test_whatever_a_lock_has_it_is_read_or_refused_in_words(packages: t.Any, python: t.Any, sources: bool) -> None:
    with contextlib.suppress(LockError):
        names(lock(**{"packages": packages, "requires-python": python}), OLD, sources)
    with contextlib.suppress(LockError):
        contents(lock(package("alpha", sdist=packages, marker=python, wheels=packages)), "pylock.toml")
    with contextlib.suppress(LockError):
        names(lock(package("alpha", sdist=packages, marker=python)), OLD, sources)


REQUIREMENTS = st.lists(st.from_regex(r"[a-z]{1,5}( ?[<>]=[0-9])?", fullmatch=True), max_size=5)


@given(REQUIREMENTS, st.randoms(use_true_random=False), st.text("# abc=\n", max_size=20))
@hypothesis_settings(max_examples=1000)
def test_a_lock_knows_what_it_was_made_from(requirements: list[str], random: t.Any, constraints: str) -> None:
    said = requirements_digest(requirements, constraints)
    shuffled = [f"  {each} " for each in requirements]
    random.shuffle(shuffled)
    assert requirements_digest(shuffled, "# a comment\n\n" + constraints) == said
    assert requirements_digest([*requirements, "another"], constraints) != said
    assert requirements_digest(requirements, constraints + "\nanother==1") != said
    assert made_from(with_head(lock(), said)) == said
    assert made_from(lock()) == ""
