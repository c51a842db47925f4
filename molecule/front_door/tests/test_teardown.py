# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Teardown leaves nothing, and a first deployment is predicted; the last tests, as there is no cluster after them."""

from __future__ import annotations

from testbed import Ansible, Hosts

TRACES = (
    *("/etc/dask", "/etc/dask-firewall", "/etc/dask-proxy", "/etc/prometheus/dask", "/opt/dask", "/opt/dask-proxy"),
    *("/run/dask-firewall", "/var/lib/dask", "/var/lib/dask-proxy", "/etc/systemd/system/nginx.service"),
)


def traces(hosts: Hosts) -> dict[str, list[str]]:
    """What is left on each host: files, units, accounts, processes and tables of rules."""
    return {
        name: [
            *(path for path in TRACES if host.file(path).exists),
            *host.run("find /etc/systemd -name '*dask*'").stdout.split(),
            *host.run("getent passwd dask dask-proxy").stdout.splitlines(),
            *host.run("pgrep --full --list-full '[d]istributed|[d]ask-proxy'").stdout.splitlines(),
            *host.run("nft list tables | grep dask").stdout.splitlines(),
        ]
        for name, host in hosts.group("all").items()
    }


def test_teardown_leaves_nothing(ansible: Ansible, hosts: Hosts) -> None:
    run = ansible.playbook("flotilla.dask.teardown")
    assert run.ok, run.problems
    assert {name: left for name, left in traces(hosts).items() if left} == {}
    again = ansible.playbook("flotilla.dask.teardown")
    assert (again.ok, again.changed) == (True, {}), again.problems


def test_check_mode_predicts_exactly_what_a_first_run_changes(ansible: Ansible, hosts: Hosts) -> None:
    """On hosts as they were before anything was installed, with lists of packages that know nothing."""
    purge = "apt-get -q -y purge 'nginx*' 'libnginx*' 'prometheus*' nftables && rm -rf /var/lib/apt/lists/* /etc/nginx"
    for name in ("gateway", "scheduler", "worker1"):
        hosts[name].check_output(f'DEBIAN_FRONTEND=noninteractive sh -c "{purge}"')
    predicted = ansible.playbook("flotilla.dask.site", "--check", "--diff")
    assert predicted.ok, predicted.problems
    assert {name: left for name, left in traces(hosts).items() if left} == {}
    real = ansible.playbook("flotilla.dask.site", "--diff")
    assert real.ok, real.problems
    assert predicted.changed == real.changed
    for role in ("firewall", "monitoring", "proxy"):
        assert any(task.startswith(f"flotilla.dask.dask_{role} : ") for task in real.changed), role
    again = ansible.playbook("flotilla.dask.site")
    assert (again.ok, again.changed) == (True, {}), again.problems
    removed = ansible.playbook("flotilla.dask.teardown")
    assert removed.ok, removed.problems
