# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plugin packages are packed so that pip can build them, and known by their content alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import typing as t
import zipfile
from pathlib import Path

import pytest
from ansible import constants
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader

Query = t.Callable[..., t.List[t.Dict[str, str]]]

BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "lab_tools-2.1-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        wheel.write("src/lab_tools/__init__.py", "lab_tools/__init__.py")
        wheel.writestr("lab_tools-2.1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: lab-tools\\nVersion: 2.1\\n")
        wheel.writestr("lab_tools-2.1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("lab_tools-2.1.dist-info/RECORD", "")
    return name
"""


@pytest.fixture
def query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Query:
    """Looks plugins up as `query('flotilla.dask.plugin_sources', ...)` does in a playbook that lies in tmp_path."""
    archives = tmp_path / "archives"
    archives.mkdir()
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(archives))
    loader = DataLoader()
    loader.set_basedir(str(tmp_path))

    def call(*terms: t.Any) -> list[dict[str, str]]:
        found: list[dict[str, str]] = lookup_loader.get("flotilla.dask.plugin_sources", loader=loader).run(
            list(terms), {}
        )
        return found

    return call


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package that pip builds without fetching anything."""
    directory = tmp_path / "lab_tools"
    (directory / "src" / "lab_tools").mkdir(parents=True)
    (directory / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "lab-tools"\nversion = "2.1"\n'
    )
    (directory / "backend.py").write_text(BACKEND)
    (directory / "src" / "lab_tools" / "__init__.py").write_text("def answer():\n    return 42\n")
    return directory


def test_the_digest_is_the_same_wherever_the_package_lies_and_whatever_was_built_beside_it(
    query: Query, package: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "checkout" / "lab_tools"
    shutil.copytree(package, copy)
    for waste in ("build/lib", "dist", "src/lab_tools/__pycache__", "src/lab_tools.egg-info", ".git", "node_modules"):
        (copy / waste).mkdir(parents=True)
        (copy / waste / "waste.bin").write_bytes(b"waste")
    (copy / ".coverage").write_text("waste")
    (original,), (copied,) = query(str(package)), query(str(copy))
    assert copied == original


@pytest.mark.parametrize("change", ["edited", "added", "renamed", "split"])
def test_any_change_of_a_package_gives_another_digest(query: Query, package: Path, change: str) -> None:
    (before,) = query(str(package))
    module = package / "src" / "lab_tools" / "__init__.py"
    if change == "edited":
        module.write_text(module.read_text().replace("42", "43"))
    elif change == "added":
        (module.parent / "data.csv").write_text("")
    elif change == "renamed":
        module.rename(module.with_name("renamed.py"))
    else:
        # Names and contents, one after the other, are the same text before and after.
        (module.parent / "a").write_text("x" + "src/lab_tools/b" + "y")
        (before,) = query(str(package))
        (module.parent / "a").write_text("x")
        (module.parent / "b").write_text("y")
    (after,) = query(str(package))
    assert after["digest"] != before["digest"]
    assert after["archive"] != before["archive"]


def test_pip_builds_the_package_from_its_archive(query: Query, package: Path, tmp_path: Path) -> None:
    (source,) = query(str(package))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), source["archive"]], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("lab_tools-2.1-*.whl")
    assert "lab_tools/__init__.py" in zipfile.ZipFile(wheel).namelist()


def test_an_archive_holds_the_package_and_no_waste(query: Query, package: Path) -> None:
    (package / "build").mkdir()
    (package / "build" / "waste.bin").write_bytes(b"waste")
    (source,) = query(str(package))
    assert source["file"] == Path(source["archive"]).name == "lab_tools-x{0}.tar.gz".format(source["digest"])
    with tarfile.open(source["archive"]) as archive:
        assert sorted(archive.getnames()) == [
            "lab_tools/backend.py",
            "lab_tools/pyproject.toml",
            "lab_tools/src/lab_tools/__init__.py",
        ]


def test_a_file_that_pip_takes_travels_as_it_is(query: Query, tmp_path: Path) -> None:
    wheel = tmp_path / "lab_tools-2.1-py3-none-any.whl"
    wheel.write_bytes(b"one")
    (one,) = query(str(wheel))
    wheel.write_bytes(b"two")
    (two,) = query("./" + wheel.name)
    assert one["archive"] == two["archive"] == str(wheel)
    assert one["file"] == wheel.name
    assert one["digest"] != two["digest"]


def test_a_requirement_is_left_to_the_hosts(query: Query) -> None:
    assert query("lab-tools==2.1", "other") == [
        {"requirement": "lab-tools==2.1", "digest": "lab-tools==2.1"},
        {"requirement": "other", "digest": "other"},
    ]


def test_what_is_not_there_or_is_no_package_is_refused_with_what_is_allowed(query: Query, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(
        AnsibleError, match=r"dask_environment_plugins: '/no/such' is refused: no such file .* Allowed: "
    ):
        query("/no/such")
    with pytest.raises(
        AnsibleError, match=r"dask_environment_plugins: './notes' is refused: it has no pyproject.toml or setup.py"
    ):
        query("./notes")


@pytest.mark.parametrize(
    "value", [None, "", " ", 1, {"a": "b"}, "-rfoo", "not a req !!", "lab\n", "--index-url=x"], ids=repr
)
def test_what_is_no_plugin_is_refused_and_never_asked_an_index_for(query: Query, value: t.Any) -> None:
    for given in (value, [value]):
        with pytest.raises(AnsibleError, match=r"dask_environment_plugins: .* is refused"):
            query(given)


def test_one_plugin_is_one_and_a_list_of_them_is_its_elements(query: Query) -> None:
    one = {"requirement": "wordcount", "digest": "wordcount"}
    assert query("wordcount") == query(["wordcount"]) == [one]
    assert query([]) == []


def test_directories_named_build_belong_to_a_package_unless_they_are_its_own(query: Query, package: Path) -> None:
    before = query(str(package))[0]["digest"]
    (package / "build").mkdir()
    (package / "build" / "left.py").touch()
    assert query(str(package))[0]["digest"] == before
    (package / "src" / "lab_tools" / "build").mkdir()
    (package / "src" / "lab_tools" / "build" / "__init__.py").touch()
    assert query(str(package))[0]["digest"] != before
    (package / "src" / "linked").symlink_to(package / "build")
    with pytest.raises(AnsibleError, match="linked' is refused: it is a link to a directory"):
        query(str(package))
