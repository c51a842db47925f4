# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An environment that cannot run Dask is refused before anything is installed."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._interpreters import interpreter
from ansible_collections.flotilla.dask.plugins.modules.dask_host_facts import check_environment


def test_an_environment_with_what_processes_need_is_taken() -> None:
    check_environment(sys.prefix, systems=False)


def test_an_environment_that_is_not_there_is_refused(tmp_path: Path) -> None:
    prefix = tmp_path / "nowhere"
    words = f"dask_environment_path: '{prefix}' is refused: there is no {prefix}/bin/python on this host"
    with pytest.raises(DaskError, match=re.escape(words)):
        check_environment(str(prefix), systems=False)


def test_an_environment_without_distributed_is_refused_with_what_to_install(tmp_path: Path) -> None:
    prefix = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    with pytest.raises(DaskError, match="cannot import distributed and prometheus_client") as caught:
        check_environment(str(prefix), systems=False)
    assert f"{prefix}/bin/python -m pip install distributed prometheus_client" in str(caught.value)


@pytest.fixture
def others_environment() -> t.Iterator[tuple[str, Path]]:
    """An environment of a user of this host, whose Python writes down whom it runs as."""
    with tempfile.TemporaryDirectory() as path:
        place = Path(path)
        place.chmod(0o777)
        (place / "bin").mkdir()
        python = place / "bin" / "python"
        python.write_text(f"#!/bin/sh\nid -u >> {place}/ran\n")
        python.chmod(0o755)
        for each in (place / "bin", python):
            os.chown(each, 12345, 12345)
        yield str(place), place / "ran"


@pytest.mark.usefixtures("as_root")
def test_root_does_not_run_the_python_of_a_user_but_has_nobody_do_so(others_environment: tuple[str, Path]) -> None:
    prefix, ran = others_environment
    check_environment(prefix, systems=True)
    assert [pwd.getpwuid(int(uid)).pw_name for uid in ran.read_text().split()] == ["nobody"]


@pytest.mark.usefixtures("as_root")
def test_root_refuses_what_it_would_have_to_run_itself(others_environment: tuple[str, Path]) -> None:
    prefix, ran = others_environment
    with pytest.raises(DaskError, match=r"others than root can change .*/bin/python, and root would run it"):
        check_environment(prefix, systems=False)
    with pytest.raises(
        DaskError, match=r"others than root can change .*/bin/python, its link, its packages, or a directory above"
    ):
        interpreter(prefix + "/bin/python")
    assert not ran.exists()
