# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is removed leaves neither jobs nor files; the last test, as there is no cluster after it."""

from __future__ import annotations

from testbed import REMOVE_ALL, Ansible, Hosts, traces, wait_until


def test_teardown_ends_all_clusters_and_leaves_nothing(ansible: Ansible, hosts: Hosts) -> None:
    removed = ansible.playbook("flotilla.dask.teardown", extra_vars=REMOVE_ALL)
    assert removed.ok, removed.problems
    wait_until(lambda: hosts["controller"].check_output("squeue --noheader") == "", "no job is left")
    assert traces(hosts) == {}
    assert not hosts["controller"].file('/shared/it\'s a "lab"/batch/main').exists
    again = ansible.playbook("flotilla.dask.teardown", extra_vars=REMOVE_ALL)
    assert (again.ok, again.changed) == (True, {}), again.problems
