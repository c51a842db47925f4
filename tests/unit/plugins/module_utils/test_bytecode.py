# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever a process may import is compiled once, by as many processes as there are cores."""

from __future__ import annotations

import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _bytecode
from ansible_collections.flotilla.dask.plugins.module_utils._service import run


@pytest.mark.parametrize("files", [0, 1, 2, 5, 17])
@pytest.mark.parametrize("cores", [None, 1, 2, 3, 64])
def test_every_file_is_compiled_whatever_the_number_of_cores(
    cores: int | None, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for number in range(files):
        (package / f"module_{number}.py").write_text(f"number = {number}\n")
    (package / "template.py").write_text("{{ no Python }}\n")
    started: list[list[str]] = []

    def counted(command: list[str], **options: t.Any) -> str:
        started.append(command)
        return str(run(command, **options))

    monkeypatch.setattr(_bytecode, "run", counted)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    _bytecode.compile_all(sys.executable, str(package), str(tmp_path / "cache"))
    compiled = {path.name.partition(".")[0] for path in package.rglob("*.pyc")}
    assert compiled == {f"module_{number}" for number in range(files)}
    processes = [command for command in started if "compileall" in command]
    assert len(processes) == min(cores or 1, _bytecode.AT_ONCE, files + 1)
    _bytecode.compile_all(sys.executable, str(package), str(tmp_path / "cache"))
    assert len([command for command in started if "compileall" in command]) == len(processes) + 1  # the template alone
