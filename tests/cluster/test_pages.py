# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pages on loopback are for root, for whom the processes run as, and for accounts that are named; for nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.tests.cluster.conftest import Cluster

STRANGER = 65534
"""Number of the account nobody."""

ASK = """
import encodings.idna, os, sys, urllib.error, urllib.request
address, number = sys.argv[1], int(sys.argv[2])
os.setgroups([]), os.setresgid(number, number, number), os.setresuid(number, number, number)
try:
    answer = urllib.request.urlopen(address, timeout=30)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read(100).decode(errors="replace"))
"""


def ask(address: str, number: int) -> str:
    """What an account of this machine is answered: the status and the beginning of the page."""
    done = subprocess.run([sys.executable, "-c", ASK, address, str(number)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def pages(cluster: Cluster) -> list[str]:
    """Addresses of pages of the scheduler and of a worker."""
    ports = [process["ports"]["dashboard"] for process in cluster.plan["processes"][:2]]
    return [f"http://127.0.0.1:{port}/{page}" for port in ports for page in ("status", "metrics", "health", "json/x")]


def test_pages_are_closed_to_other_accounts_of_the_host(cluster: Cluster, pages: list[str]) -> None:
    refused = {page: ask(page, STRANGER) for page in pages}
    assert [page for page, answer in refused.items() if not answer.startswith("403 Refused: your account")] == []
    allowed = {page: ask(page, 0) for page in pages}
    assert [page for page, answer in allowed.items() if answer.startswith("403")] == []
    file = Path(cluster.plan["directories"]["readers"])
    file.write_text(f"{STRANGER} nobody\n")
    try:
        assert {page: ask(page, STRANGER)[:3] for page in pages} == {
            page: answer[:3] for page, answer in allowed.items()
        }
    finally:
        file.unlink()
    assert ask(pages[0], STRANGER).startswith("403")
