# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts are what the other tests take them for: servers, reached as an ordinary user."""

from __future__ import annotations

from testbed import Ansible, Hosts


def test_systemd_runs_everything(hosts: Hosts) -> None:
    states = {name: host.run("systemctl is-system-running").stdout.strip() for name, host in hosts.group("all").items()}
    assert states == {"scheduler": "running", "worker1": "running", "worker2": "running"}


def test_hosts_find_each_other_by_name(hosts: Hosts) -> None:
    for name, host in hosts.group("all").items():
        for other in {"scheduler", "worker1", "worker2"} - {name}:
            assert host.addr(other).port(22).is_reachable, f"{name} cannot reach {other}"


def test_login_is_an_ordinary_user_who_may_become_root(ansible: Ansible) -> None:
    for become, user in (("false", "operator"), ("true", "root")):
        results = ansible.module("all", "command", "--extra-vars", f"ansible_become={become}", argv=["id", "-un"])
        assert {result["stdout"] for result in results.values()} == {user}


def test_root_knows_the_controllers_certificates(ansible: Ansible) -> None:
    results = ansible.module("all", "command", argv=["printenv", "PIP_CERT"])
    assert {result["stdout"] for result in results.values()} == {"/etc/ssl/certs/ca-certificates.crt"}
