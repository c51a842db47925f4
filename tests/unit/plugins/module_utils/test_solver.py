# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An environment is solved once, for the platforms that it has to be, by py-rattler, from a channel in a directory."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._platform import wheel_platforms
from ansible_collections.flotilla.dask.plugins.module_utils._solver import conda_lock

Solve = t.Callable[..., t.Dict[str, t.Any]]


def publish(channel: Path, **packages: list[str]) -> None:
    """Writes what a channel says about packages without dependencies, for two platforms."""
    for subdir in ("linux-64", "linux-aarch64", "noarch"):
        (channel / subdir).mkdir(parents=True, exist_ok=True)
        entries: dict[str, t.Any] = {
            f"{name}-{version}-0.conda": {
                "name": name,
                "version": version,
                "build": "0",
                "build_number": 0,
                "depends": [],
                "subdir": subdir,
                "md5": f"{hash((name, version, subdir)) & (2**128 - 1):032x}",
                "sha256": f"{hash((name, version, subdir)) & (2**256 - 1):064x}",
            }
            for name, versions in packages.items()
            for version in versions
            if subdir != "noarch"
        }
        content = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": entries}
        (channel / subdir / "repodata.json").write_text(json.dumps(content))


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    publish(tmp_path / "channel", alpha=["1.0", "2.0"], beta=["1.0"])
    return tmp_path / "channel"


@pytest.fixture
def solve(tmp_path: Path, channel: Path) -> Solve:
    """Locks requirements in tmp_path, as the module does."""

    def call(*dependencies: str, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        file = tmp_path / "environment.yml"
        if dependencies:
            file.write_text(yaml.safe_dump({"channels": ["./" + channel.name], "dependencies": list(dependencies)}))
        given = {
            "file": str(file),
            "path": str(tmp_path / "lock.yml"),
            "platforms": ["linux-64"],
            "also": [],
            "update": False,
            "cache": str(tmp_path / "cache"),
            "wheelhouse": "",
            "ca_bundle": "",
        }
        return conda_lock({**given, **options}, check_mode)

    return call


def versions(result: dict[str, t.Any], platform: str = "linux-64") -> list[str]:
    return [f"{each['name']} {each['version']}" for each in result["lock"]["packages"] if each["platform"] == platform]


def test_check_mode_says_what_a_run_locks_and_a_second_run_does_nothing(solve: Solve, tmp_path: Path) -> None:
    predicted = solve("alpha", check_mode=True)
    assert not (tmp_path / "lock.yml").exists()
    applied, again = solve("alpha"), solve()
    assert predicted == applied
    assert (applied["changed"], versions(applied)) == (True, ["alpha 2.0"])
    assert applied["packages"] == {"linux-64": {"added": ["alpha 2.0"], "removed": [], "changed": []}}
    assert (again["changed"], again["lock"]) == (False, applied["lock"])


def test_a_lock_that_fits_is_not_solved_again_until_it_is_asked_for(solve: Solve, channel: Path) -> None:
    solve("alpha", "beta")
    publish(channel, alpha=["1.0", "2.0", "3.0"], beta=["1.0"])
    assert not solve("beta", "alpha")["changed"]
    assert solve(update=True, check_mode=True)["packages"]["linux-64"]["changed"] == ["alpha 2.0 -> 3.0"]


def test_an_environment_that_changes_keeps_the_versions_that_it_can(solve: Solve, channel: Path) -> None:
    solve("alpha")
    publish(channel, alpha=["1.0", "2.0", "3.0"], beta=["1.0"])
    changed = solve("alpha", "beta")
    assert changed["packages"]["linux-64"] == {"added": ["beta 1.0"], "removed": [], "changed": []}


def test_what_hosts_need_in_any_case_is_locked_too(solve: Solve) -> None:
    asked, added = solve("alpha", "beta"), solve("alpha", also=["beta"])
    assert versions(added) == versions(asked) == ["alpha 2.0", "beta 1.0"]
    assert not solve(also=["beta"])["changed"]
    assert versions(solve("alpha =1", also=["alpha"])) == ["alpha 1.0"]


def test_platforms_are_added_and_those_of_hosts_left_out_stay(solve: Solve, channel: Path) -> None:
    solve("alpha")
    publish(channel, alpha=["3.0"])
    both = solve(platforms=["linux-64", "linux-aarch64"])
    assert (versions(both), versions(both, "linux-aarch64")) == (["alpha 2.0"], ["alpha 3.0"])
    fewer = solve(platforms=["linux-64"])
    assert (fewer["changed"], fewer["lock"]) == (False, both["lock"])


def test_a_lock_of_others_is_read_and_not_written(solve: Solve, tmp_path: Path) -> None:
    written = solve("alpha")
    before = (tmp_path / "lock.yml").read_text()
    read = solve(file="", platforms=["linux-64"])
    assert (read["changed"], read["lock"]) == (False, written["lock"])
    assert (tmp_path / "lock.yml").read_text() == before


@pytest.mark.parametrize(
    ("dependencies", "options", "words"),
    [
        (["alpha >=5"], {}, ("cannot be solved for linux-64", "alpha >=5")),
        (["alpha <<5"], {}, ("environment.yml is refused", "<<5")),
        (["alpha"], {"platforms": ["plan-9"]}, ("platforms: 'plan-9' is refused", "linux-64")),
        (["alpha"], {"file": "/nowhere.yml"}, ("dask_environment_file: '/nowhere.yml' is refused",)),
        (["alpha"], {"file": ""}, ("dask_environment_lock", "no such file on the controller")),
    ],
)
def test_what_cannot_be_locked_is_refused_in_words(
    solve: Solve, dependencies: list[str], options: dict[str, t.Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(DaskError) as caught:
        solve(*dependencies, **options)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_channel_that_is_not_there_is_told(solve: Solve, channel: Path) -> None:
    for file in channel.glob("*/repodata.json"):
        file.unlink()
    with pytest.raises(DaskError) as caught:
        solve("alpha")
    assert "a channel cannot be read for linux-64" in str(caught.value)


def test_an_authority_of_a_channel_is_trusted_when_it_is_named_and_only_then(
    solve: Solve, tmp_path: Path, channel: Path, https_server: str, authority: Path
) -> None:
    file = tmp_path / "environment.yml"
    file.write_text(yaml.safe_dump({"channels": [f"{https_server}/{channel.name}"], "dependencies": ["alpha"]}))
    with pytest.raises(DaskError, match=r"a channel cannot be read.* dask_ca_bundle"):
        solve()
    assert versions(solve(ca_bundle=str(authority))) == ["alpha 2.0"]


def test_an_explicit_lock_is_not_overwritten(solve: Solve, tmp_path: Path) -> None:
    text = "@EXPLICIT\nhttps://c.example/lab/linux-64/a-1-0.conda#" + "0" * 32
    (tmp_path / "lock.yml").write_text(text)
    with pytest.raises(DaskError, match="Leave dask_environment_file unset"):
        solve("alpha")
    assert (tmp_path / "lock.yml").read_text() == text


def test_wheels_fit_what_a_platform_has() -> None:
    names = wheel_platforms("linux-aarch64", 17)
    assert names[:2] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert names[-1] == "linux_aarch64"
    assert "manylinux_2_18_aarch64" not in names
