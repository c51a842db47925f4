# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real uv installs small packages: exactly those, linked from its cache, with nothing left that others could hold."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import typing as t
import zipfile
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._bytecode import clear
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import configured_index
from ansible_collections.flotilla.dask.plugins.module_utils._environments import Uv, uv_environment
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._generations import dask_generation
from ansible_collections.flotilla.dask.plugins.module_utils._locks import UV
from ansible_collections.flotilla.dask.tests.unit import wheels

PROGRAM = os.path.join(os.path.dirname(sys.executable), "uv")
SENT = UV.replace("==", "-")

# What builds a package: a wheel with one module, and nothing that has to be installed for that.
BACKEND = """
import zipfile
{first}
def build_wheel(directory, config_settings=None, metadata_directory=None):
    file = "{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + file, "w") as wheel:
        wheel.writestr("{name}.py", "value = 1")
        wheel.writestr("{name}-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        tag = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("{name}-1.0.dist-info/WHEEL", tag)
        wheel.writestr("{name}-1.0.dist-info/RECORD", "")
    return file
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{name}"
version = "1.0"
"""


def plugin(directory: Path, name: str, first: str = "") -> dict[str, str]:
    """Packs the source of a plugin, as the lookup plugin_sources does. `first`: what its build does first."""
    files = {"backend.py": BACKEND.format(name=name, first=first), "pyproject.toml": PROJECT.format(name=name)}
    archive = directory / f"{name}-x123456789012.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file, text in files.items():
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return {"archive": str(archive), "file": archive.name, "digest": "123456789012"}


@pytest.fixture
def interpreter(tmp_path: Path) -> str:
    """The Python of an environment without any package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment"], check=True)
    return str(tmp_path / "environment" / "bin" / "python")


@pytest.fixture
def uv(tmp_path: Path) -> Uv:
    """uv with a wheelhouse of two packages, of which one needs the other."""
    wheelhouse = tmp_path / "wheelhouse"
    wheels.write_wheel(wheelhouse, "alpha", "1.0", "beta>=1")
    wheels.write_wheel(wheelhouse, "beta", "1.0")
    wheels.write_wheel(wheelhouse, "beta", "2.0")
    return Uv(PROGRAM, cache=str(tmp_path / "cache"), wheelhouse=str(wheelhouse))


def installed(tmp_path: Path) -> dict[str, Path]:
    found = (tmp_path / "environment").glob("lib/python*/site-packages/*.py")
    return {path.stem: path for path in found if not path.stem.startswith("_")}


def test_packages_are_links_to_the_cache_and_compiled(uv: Uv, interpreter: str, tmp_path: Path) -> None:
    uv.install(interpreter, "alpha")
    assert installed(tmp_path)["alpha"].stat().st_nlink > 1
    assert list((tmp_path / "environment").rglob("alpha.*.pyc"))


def test_what_python_compiled_is_the_same_file_in_another_environment(uv: Uv, interpreter: str, tmp_path: Path) -> None:
    uv.install(interpreter, "alpha")
    (compiled,) = (tmp_path / "environment").rglob("alpha.*.pyc")
    before = compiled.stat()
    (tmp_path / "environment").rename(tmp_path / "before")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment"], check=True)
    uv.install(interpreter, "alpha")
    assert compiled.stat().st_ino == before.st_ino
    command = [interpreter, "-v", "-c", "import alpha; print(alpha.version)"]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    said = subprocess.run(command, capture_output=True, text=True, env=variables, check=True)
    assert said.stdout == "1.0\n"
    assert f"matches {installed(tmp_path)['alpha']}" in said.stderr
    assert "wrote" not in said.stderr
    kept = str(tmp_path / "bytecode")
    clear(kept)
    assert {path.stat().st_nlink for path in Path(kept).rglob("*.pyc")} == {3}
    for environment in ("before", "environment"):
        shutil.rmtree(tmp_path / environment)
    clear(kept)
    assert list(Path(kept).rglob("*.pyc")) == []


def test_a_file_that_cannot_be_compiled_is_left_as_it_is(uv: Uv, interpreter: str, tmp_path: Path) -> None:
    wheel = Path(uv.wheelhouse) / "gamma-1.0-py3-none-any.whl"
    wheels.write_wheel(Path(uv.wheelhouse), "gamma", "1.0")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("gamma_template.py", "{{ this is none }}\n")
    uv.install(interpreter, "gamma")
    assert {"gamma", "gamma_template"} <= set(installed(tmp_path))
    assert list((tmp_path / "environment").rglob("gamma.*.pyc"))


def test_nothing_is_left_that_everybody_could_hold(uv: Uv, interpreter: str, tmp_path: Path) -> None:
    uv.install(interpreter, "alpha")
    uv.install(interpreter, "--target", str(tmp_path / "plugins"), "beta")
    for directory in (tmp_path / "environment", tmp_path / "plugins"):
        assert [path for path in directory.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o002] == []
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_requirements_without_a_solution_are_refused_with_uvs_explanation(uv: Uv, interpreter: str) -> None:
    with pytest.raises(DaskError, match=r"Because only .*beta.* and you require beta>=3"):
        uv.install(interpreter, "alpha", "beta>=3")


def test_nothing_is_fetched_where_nothing_may_be(uv: Uv, interpreter: str) -> None:
    with pytest.raises(DaskError, match="index lookups were disabled"):
        uv.install(interpreter, "alpha", index=False)


def test_two_environments_of_the_same_wheels_are_alike_and_say_nothing_of_where_those_were(
    uv: Uv, interpreter: str, tmp_path: Path
) -> None:
    def records() -> list[str]:
        wheel = Path(uv.wheelhouse) / "beta-1.0-py3-none-any.whl"
        os.utime(wheel)
        package = {"name": "beta", "version": "1.0", "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
        uv.install_locked(interpreter, [package], uv.wheelhouse, index=False)
        return [path.read_text() for path in sorted((tmp_path / "environment").rglob("beta-1.0.dist-info/*"))]

    first = records()
    assert "beta.py" in "".join(first)
    assert "uv_cache.json" not in "".join(first)
    assert str(tmp_path) not in "".join(first)
    for directory in (tmp_path / "environment" / "lib", tmp_path / "cache"):
        shutil.rmtree(directory)
    assert records() == first


def test_a_file_with_another_hash_is_not_installed(uv: Uv, interpreter: str, tmp_path: Path) -> None:
    package = {"name": "beta", "version": "1.0", "sha256": "0" * 64}
    with pytest.raises(DaskError, match=r"[Hh]ash"):
        uv.install_locked(interpreter, [package], uv.wheelhouse, index=False)
    assert installed(tmp_path) == {}


@pytest.mark.parametrize(
    ("variables", "configuration", "index"),
    [
        ({}, "", ""),
        ({"PIP_INDEX_URL": "https://one.example/simple"}, "", "https://one.example/simple"),
        ({}, "[global]\nindex-url = https://two.example/simple\n", "https://two.example/simple"),
        (
            {"PIP_INDEX_URL": "https://one.example/"},
            "[global]\nindex-url = https://two.example/\n",
            "https://one.example/",
        ),
        (
            {},
            "[install]\nindex_url = https://two.example/simple\nindex_url = https://three.example/\n",
            "https://three.example/",
        ),
    ],
)
def test_the_index_is_the_one_that_pip_is_configured_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], configuration: str, index: str
) -> None:
    (tmp_path / "pip.conf").write_text(configuration)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    for name, value in {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), **variables}.items():
        monkeypatch.setenv(name, value)
    assert configured_index() == index


@pytest.mark.parametrize(
    ("words", "refused"), [("not for pip", "cannot be read"), ("[global]\nindex-url=banana", "'banana'")]
)
def test_an_index_that_cannot_be_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, refused: str
) -> None:
    (tmp_path / "pip.conf").write_text(words)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(DaskError, match=refused):
        configured_index()


def test_uv_is_told_of_the_index_and_of_nothing_else_that_a_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_RESOLUTION", "UV_CONFIG_FILE", "UV_CONSTRAINT", "UV_HTTP_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    assert {"UV_RESOLUTION", "UV_CONFIG_FILE", "UV_CONSTRAINT"}.isdisjoint(uv_environment("", ""))
    assert uv_environment("", "")["UV_HTTP_TIMEOUT"] == "1"


def generation(tmp_path: Path, plugins: list[dict[str, str]]) -> dict[str, t.Any]:
    """Completes a generation with plugins that the controller sent."""
    supplies = tmp_path / "supplies.tar"
    with tarfile.open(supplies, "w") as tar:
        tar.add(os.path.realpath(PROGRAM), arcname=SENT)
        for each in plugins:
            tar.add(each["archive"], arcname=each["file"])
    path = tmp_path / "envs" / "lab-000000000001"
    options = {
        "path": str(path),
        "prefix": sys.prefix,
        "cache": str(tmp_path / "cache"),
        "content": {},
        "plugins": plugins,
        "plugin_directory": str(path / "plugins"),
        "keep": 3,
        "resolved": None,
        "download_on": "controller",
        "wheelhouse": "",
        "ca_bundle": "",
        "uv": SENT,
        "supplies": str(supplies),
    }
    return dask_generation(options, check_mode=False)


def test_a_plugin_can_import_those_before_it_while_it_builds(tmp_path: Path) -> None:
    generation(tmp_path, [plugin(tmp_path, "base"), plugin(tmp_path, "extra", "import base")])
    directory = tmp_path / "envs" / "lab-000000000001" / "plugins"
    assert {path.stem for path in directory.glob("*.py")} == {"base", "extra"}
    assert not (directory / ".lock").exists()
    assert (tmp_path / "cache" / SENT).stat().st_mode & 0o777 == 0o755


def test_a_build_that_fails_names_the_package_and_shows_its_own_error(tmp_path: Path) -> None:
    words = 'raise RuntimeError("the compiler of this lab is missing")'
    with pytest.raises(DaskError) as caught:
        generation(tmp_path, [plugin(tmp_path, "base"), plugin(tmp_path, "broken", words)])
    assert "dask_environment_plugins: broken-x123456789012.tar.gz cannot be installed" in str(caught.value)
    assert "RuntimeError: the compiler of this lab is missing" in str(caught.value)
    assert not (tmp_path / "envs" / "current").exists()
