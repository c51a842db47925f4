# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A conda environment is planned from the lock alone, and refused where the lock or the Python doesn't fit."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._conda import ask_rattler, conda_environment
from ansible_collections.flotilla.dask.plugins.module_utils._environments import item_of
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._platform import host_platform

PACKAGE = {
    "name": "alpha",
    "version": "2.0",
    "platform": host_platform(),
    "manager": "conda",
    "url": "https://channels.example/lab/linux-64/alpha-2.0-0.conda",
    "md5": "",
    "sha256": "0" * 64,
}


def options(tmp_path: Path, **changes: t.Any) -> dict[str, t.Any]:
    return {
        "path": str(tmp_path / "envs" / "new"),
        "cache": str(tmp_path / "cache"),
        "packages": [PACKAGE, {**PACKAGE, "platform": "plan-9"}],
        "replaces": str(tmp_path / "envs" / "current"),
        "interpreter": sys.executable,
        "download_on": "controller",
        "mirror": "",
        "wheelhouse": "",
        "supplies": "",
        "uv": "uv-0",
        "ca_bundle": "",
        **changes,
    }


def test_check_mode_needs_nothing_and_lists_the_packages(tmp_path: Path) -> None:
    current = tmp_path / "envs" / "current"
    current.mkdir(parents=True)
    (current / "packages.json").write_text(json.dumps({"content": "", "packages": ["alpha 1.0", "beta 1.0"]}))
    result = conda_environment(options(tmp_path, interpreter="/nowhere"), check_mode=True)
    assert result["packages"] == {"added": [], "removed": ["beta 1.0"], "changed": ["alpha 1.0 -> 2.0"]}
    assert (result["diff"]["before"], result["diff"]["after"]) == ("alpha 1.0\nbeta 1.0\n", "alpha 2.0\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["envs"]


def test_a_host_says_what_it_lacks_and_changes_nothing(tmp_path: Path) -> None:
    result = conda_environment(options(tmp_path), check_mode=False)
    assert result == {
        "changed": False,
        "needs": {"files": ["alpha-2.0-0.conda"], "platform": host_platform()},
    }
    assert not (tmp_path / "envs").exists()


def test_a_lock_without_this_platform_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DaskError, match=r"packages for plan-9. Allowed: a lock with .* this host's platform"):
        conda_environment(options(tmp_path, packages=[{**PACKAGE, "platform": "plan-9"}]), check_mode=True)


def test_a_complete_environment_from_another_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "envs" / "new").mkdir(parents=True)
    (tmp_path / "envs" / "new" / "packages.json").write_text('{"content": "other", "packages": []}')
    with pytest.raises(DaskError, match="it is complete, and made from another lock"):
        conda_environment(options(tmp_path), check_mode=True)


def test_a_python_without_rattler_is_told_how_to_get_it() -> None:
    bare = str(Path(sys.base_prefix, "bin", "python3"))
    with pytest.raises(DaskError, match=r"has no py-rattler that .* -m pip install py-rattler=="):
        ask_rattler(bare, "install", cache="/nowhere", prefix="/nowhere", packages=[], files={})


@pytest.mark.parametrize(
    ("mirror", "url"),
    [
        ("", PACKAGE["url"]),
        ("https://mirror.example/conda/", "https://mirror.example/conda/lab/linux-64/alpha-2.0-0.conda"),
        ("/srv/conda mirror", "file:///srv/conda%20mirror/lab/linux-64/alpha-2.0-0.conda"),
    ],
)
def test_a_mirror_stands_for_channels_and_not_for_the_index(mirror: str, url: str) -> None:
    assert item_of(PACKAGE, mirror).url == url
    wheel = {**PACKAGE, "manager": "pip", "url": "https://index.example/alpha-2.0-py3-none-any.whl"}
    assert item_of(wheel, mirror).url == wheel["url"]
    assert item_of(wheel, mirror, "/srv/wheels").url == "file:///srv/wheels/alpha-2.0-py3-none-any.whl"


def write_package(channel: Path) -> dict[str, str]:
    """Writes a package with one Python file; gives its entry in a lock."""
    content, name = b"value = 1\n", "beta-1.0-0.tar.bz2"
    index = {"name": "beta", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "subdir": "noarch"}
    path: dict[str, t.Any] = {"_path": "lib/python3.11/site-packages/beta.py", "path_type": "hardlink"}
    path.update(sha256=hashlib.sha256(content).hexdigest(), size_in_bytes=len(content))
    files = {
        "info/index.json": json.dumps(index).encode(),
        "info/paths.json": json.dumps({"paths_version": 1, "paths": [path]}).encode(),
        str(path["_path"]): content,
    }
    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    with tarfile.open(channel / "noarch" / name, "w:bz2") as tar:
        for file, text in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    sha256 = hashlib.sha256((channel / "noarch" / name).read_bytes()).hexdigest()
    return {**PACKAGE, "name": "beta", "version": "1.0", "url": f"file://{channel}/noarch/{name}", "sha256": sha256}


def test_what_is_whole_in_the_cache_is_linked_and_what_is_not_is_fetched_again(tmp_path: Path) -> None:
    package = write_package(tmp_path / "channel")
    changes = {"packages": [package], "download_on": "host"}

    def installed(name: str) -> Path:
        path = tmp_path / "envs" / name
        # Without a Python in it, of which nothing is compiled then.
        result = conda_environment(options(tmp_path, **changes, path=str(path)), check_mode=False)
        assert result["packages"]["added"] == ["beta 1.0"]
        return path / "lib" / "python3.11" / "site-packages" / "beta.py"

    assert installed("one").read_text() == "value = 1\n"
    archive = tmp_path / "channel" / "noarch" / "beta-1.0-0.tar.bz2"
    archive.rename(archive.with_suffix(".away"))
    assert installed("two").stat().st_ino == installed("three").stat().st_ino
    archive.with_suffix(".away").rename(archive)
    (record,) = (tmp_path / "cache" / "conda").glob("beta-1.0-0/info/index.json")
    record.unlink()
    assert installed("four").read_text() == "value = 1\n"
