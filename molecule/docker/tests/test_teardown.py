# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Teardown leaves no container, no image and no file; the last test, as there is no cluster after it."""

from __future__ import annotations

from testbed import Ansible, Hosts, tear_down


def test_teardown_leaves_nothing(ansible: Ansible, hosts: Hosts) -> None:
    tear_down(ansible, hosts)
