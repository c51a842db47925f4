# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An environment that cannot run Dask is refused before anything is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.modules.dask_host_facts import check_environment


def test_an_environment_with_what_processes_need_is_taken() -> None:
    check_environment(sys.prefix)


def test_an_environment_that_is_not_there_is_refused(tmp_path: Path) -> None:
    prefix = tmp_path / "nowhere"
    words = f"dask_environment_path: '{prefix}' is refused: there is no {prefix}/bin/python on this host"
    with pytest.raises(DaskError, match=re.escape(words)):
        check_environment(str(prefix))


def test_an_environment_without_distributed_is_refused_with_what_to_install(tmp_path: Path) -> None:
    prefix = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    with pytest.raises(DaskError, match="cannot import distributed and prometheus_client") as caught:
        check_environment(str(prefix))
    assert f"{prefix}/bin/python -m pip install distributed prometheus_client" in str(caught.value)
