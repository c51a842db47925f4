# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan's ports are open to whom they are for, no mistake locks anybody out, and nothing else is touched."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator

import pytest
from testbed import Ansible, Cluster, Hosts, Machines, Run, wait_until
from testinfra.host import Host

OURS = "inet dask_main"
RULES = "/etc/dask-firewall/main.nft"
UNIT = "dask-main-firewall.service"
IN_FORCE = "flotilla.dask.dask_firewall : Put the rules in force, unless they lock us out"
REMOVED = "flotilla.dask.dask_firewall : Remove the firewall"
OUTSIDERS = {"gateway", "stranger"}
CLUSTER = {"scheduler", "worker1"}
PORTS = {  # by host and purpose, as the scenario's variables say
    "scheduler": {"scheduler": [8786], "dashboard": [8787]},
    "worker1": {"worker": [9000, 9001], "nanny": [9100, 9101], "dashboard": [9200, 9201]},
}
MEANT_FOR = {
    "scheduler": CLUSTER,
    "worker": CLUSTER,
    "nanny": CLUSTER,
    "dashboard": {"gateway", "scheduler"},  # proxies and monitoring
}
FOREIGN = "table ip foreign { chain input { type filter hook input priority 0; tcp dport 4711 drop; }; }"

# Prints of each address and port whether a connection opens.
PROBE = """
import json
import socket
import sys

answers = []
for address, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((address, port), 5).close()
        answers.append("open")
    except ConnectionRefusedError:
        answers.append("refused")
    except OSError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def reached_from(hosts: Hosts, source: str) -> dict[tuple[str, str, int], str]:
    """What becomes of a connection to every port of the plan, by host, purpose and port."""
    ports = [
        (name, purpose, port)
        for name, purposes in PORTS.items()
        for purpose, numbers in purposes.items()
        for port in numbers
    ]
    targets = json.dumps([(hosts.address(name), port) for name, _purpose, port in ports])
    answers = json.loads(hosts[source].check_output("python3 -c %s %s", PROBE, targets))
    return dict(zip(ports, answers, strict=True))


def meant(source: str, also: frozenset[str] = frozenset()) -> dict[tuple[str, str, int], str]:
    """What should become of them; `also` are purposes that are for this source too. A host reaches itself."""
    return {
        (name, purpose, port): "open" if source in {name, *MEANT_FOR[purpose]} or purpose in also else "refused"
        for name, purposes in PORTS.items()
        for purpose, numbers in purposes.items()
        for port in numbers
    }


def apply(ansible: Ansible, *options: str, **variables: object) -> Run:
    run = ansible.playbook("flotilla.dask.firewall", *options, extra_vars=variables)
    assert run.ok, run.problems
    return run


def table(host: Host) -> str:
    """Our table without its counters, empty where there is none."""
    return str(host.run(f"nft --stateless list table {OURS}").stdout)


def ruleset(host: Host) -> str:
    return str(host.check_output("nft --stateless list ruleset"))


@pytest.fixture
def restore(ansible: Ansible, hosts: Hosts) -> Iterator[Callable[[str], bool]]:
    """Puts a host's firewall back as the inventory says, by the module alone; says whether that changed anything.

    After the test all hosts are put back.
    """
    wanted = {
        name: {
            "rules": hosts[name].file(RULES).content_string,
            "unit": hosts[name].file(f"/etc/systemd/system/{UNIT}").content_string,
        }
        for name in PORTS
    }

    def put_back(name: str) -> bool:
        result = ansible.module(name, "flotilla.dask.dask_firewall", cluster="main", **wanted[name])[name]
        assert not result.get("failed"), result
        return bool(result["changed"])

    yield put_back
    for name in PORTS:
        put_back(name)


@pytest.mark.usefixtures("restore")
def test_every_port_is_open_to_exactly_those_whom_it_is_for(ansible: Ansible, hosts: Hosts) -> None:
    for source in sorted(CLUSTER | OUTSIDERS):
        assert reached_from(hosts, source) == meant(source), source

    apply(ansible, dask_client_networks={"lab": hosts.address("stranger")})
    for_clients = frozenset({"scheduler", "worker"})
    assert reached_from(hosts, "stranger") == meant("stranger", also=for_clients)
    assert reached_from(hosts, "gateway") == meant("gateway")


@pytest.mark.usefixtures("restore")
def test_a_host_that_left_is_let_in_until_it_is_removed(ansible: Ansible, hosts: Hosts) -> None:
    recorded = hosts["scheduler"].file("/etc/dask/main/members.json").content_string
    left = {"stranger": {"address": hosts.address("stranger"), "declared": False}}
    write = "printf %%s %s > /etc/dask/main/members.json"
    hosts["scheduler"].check_output(write, json.dumps({**json.loads(recorded), **left}))
    try:
        apply(ansible)
        as_before = frozenset({"scheduler", "worker", "nanny"})
        assert reached_from(hosts, "stranger") == meant("stranger", also=as_before)
    finally:
        hosts["scheduler"].check_output(write, recorded)


def test_what_is_refused_is_counted_and_other_ports_are_left_alone(hosts: Hosts) -> None:
    def refused(name: str) -> dict[str, int]:
        listed = hosts[name].check_output(f"nft list table {OURS}")
        chains = re.findall(r"chain (\w+) \{([^}]*counter packets (\d+)[^}]*)\}", listed)
        return {chain: int(packets) for chain, _rules, packets in chains}

    before = {name: refused(name) for name in PORTS}
    assert {name: set(chains) for name, chains in before.items()} == {name: set(each) for name, each in PORTS.items()}
    reached_from(hosts, "stranger")
    for name, purposes in PORTS.items():
        after = refused(name)
        assert {chain: after[chain] - before[name][chain] for chain in after} == {
            purpose: len(ports) for purpose, ports in purposes.items()
        }
    with contextlib.ExitStack() as stack:
        for name in PORTS:
            stack.enter_context(serving(hosts[name], 8785))
            assert hosts["stranger"].addr(hosts.address(name)).port(8785).is_reachable


@contextlib.contextmanager
def serving(host: Host, port: int) -> Iterator[None]:
    """Something that isn't ours listens at a port."""
    unit = f"test-serving-{port}"
    host.check_output(f"systemd-run --unit {unit} python3 -m http.server {port}")
    try:
        wait_until(lambda: host.socket(f"tcp://0.0.0.0:{port}").is_listening, f"port {port} is served")
        yield
    finally:
        host.check_output(f"systemctl stop {unit}")


def test_a_second_run_changes_nothing_also_for_a_part_of_the_hosts(ansible: Ansible) -> None:
    assert apply(ansible).changed == {}
    assert apply(ansible, "--limit", "worker1").changed == {}


def test_a_cluster_works_behind_it(cluster: Cluster) -> None:
    state = cluster.state(wait=300)
    assert (state["health"], len(state["workers"])) == ("healthy", 2)


LOCKS_OUT = {
    "new connections": "tcp dport 22 tcp flags & (syn | ack) == syn reject with tcp reset",
    "every connection": "tcp dport 22 reject with tcp reset",
}


@pytest.mark.parametrize("mistake", LOCKS_OUT.values(), ids=LOCKS_OUT)
def test_rules_that_lock_the_operator_out_are_taken_back(ansible: Ansible, hosts: Hosts, mistake: str) -> None:
    host = hosts["worker1"]
    before, rules = ruleset(host), host.file(RULES).content_string
    lines = rules.splitlines(keepends=True)
    (start,) = [number for number, line in enumerate(lines) if "type filter hook input" in line]
    wrong = "".join([*lines[: start + 1], mistake + "\n", *lines[start + 1 :]])
    unit = host.file(f"/etc/systemd/system/{UNIT}").content_string
    options = {"cluster": "main", "rules": wrong, "unit": unit, "confirm_seconds": 10}

    predicted = ansible.module("worker1", "flotilla.dask.dask_firewall", "--check", **options)["worker1"]
    assert predicted["changed"]
    result = ansible.module("worker1", "flotilla.dask.dask_firewall", **options)["worker1"]
    # What the module says comes through before the host answers us with a reset, or doesn't.
    if "flags" in mistake or not result.get("unreachable"):
        assert "The host has taken the rules back" in result["msg"]
        assert "within 10 seconds" in result["msg"]

    def lets_in() -> bool:
        with contextlib.suppress(RuntimeError):  # of testinfra, where SSH gets no connection
            return bool(host.run("true").succeeded)
        return False

    wait_until(lets_in, "the host lets us in again")
    assert ruleset(host) == before
    assert host.file(RULES).content_string == rules
    assert apply(ansible).changed == {}


@pytest.mark.parametrize("check", [True, False], ids=["in check mode", "for real"])
@pytest.mark.parametrize(
    "rules",
    [
        f"table {OURS} {{ chain input {{ nonsense; }}; }}",
        f"delete table {OURS}; table {OURS} {{ chain input {{ goto nowhere; }}; }}",
    ],
    ids=["syntax", "meaning"],
)
def test_rules_that_nft_refuses_change_nothing(ansible: Ansible, hosts: Hosts, rules: str, check: bool) -> None:
    host = hosts["worker1"]
    before, text = ruleset(host), host.file(RULES).content_string
    flags = ["--check"] if check else []
    options = {"cluster": "main", "rules": rules, "unit": "[Unit]"}
    result = ansible.module("worker1", "flotilla.dask.dask_firewall", *flags, **options)["worker1"]
    assert result["failed"]
    assert "nft" in result["msg"]
    assert (ruleset(host), host.file(RULES).content_string) == (before, text)
    assert apply(ansible).changed == {}


@pytest.mark.usefixtures("restore")
def test_it_comes_and_goes_without_a_trace_and_leaves_other_tables_alone(ansible: Ansible, hosts: Hosts) -> None:
    host = hosts["worker1"]
    host.check_output("nft %s", FOREIGN)
    try:
        with_ours, ours = ruleset(host), table(host)
        off = {"dask_firewall": False, "dask_http_address": "0.0.0.0"}
        both = sorted(PORTS)
        predicted = apply(ansible, "--check", "--diff", **off)
        assert ruleset(host) == with_ours
        removed = apply(ansible, "--diff", **off)
        assert removed.changed == {REMOVED: both}
        assert predicted.changed == removed.changed

        assert ruleset(host).strip() == with_ours.replace(ours, "").strip()
        assert not host.file("/etc/dask-firewall").exists
        assert not host.file("/run/dask-firewall").exists
        assert host.run("systemctl list-units --all --no-legend 'dask-main-firewall*'").stdout == ""
        assert host.run("systemctl list-unit-files --no-legend 'dask-main-firewall*'").stdout == ""
        assert apply(ansible, **off).changed == {}

        predicted = apply(ansible, "--check", "--diff")
        assert table(host) == ""
        real = apply(ansible, "--diff")
        assert real.changed == {IN_FORCE: both}
        assert predicted.changed == real.changed
        assert table(host) == ours
        assert FOREIGN.split(" {")[0] in ruleset(host)
    finally:
        host.check_output("nft delete table ip foreign")


def test_what_somebody_changed_is_put_right(ansible: Ansible, hosts: Hosts, restore: Callable[[str], bool]) -> None:
    host = hosts["worker1"]
    ours = table(host)
    for command in (
        f"nft delete table {OURS}",
        f"nft flush chain {OURS} nanny",
        f"nft add element {OURS} cluster_ipv4 '{{ 198.51.100.1 }}'",
        f"systemctl stop {UNIT}",
        f"systemctl disable {UNIT}",
    ):
        host.check_output(command)
        assert restore("worker1"), command
        assert table(host) == ours
        assert (host.service(UNIT).is_enabled, host.service(UNIT).is_running) == (True, True)
        assert not restore("worker1")
    host.check_output(f"nft delete table {OURS}")
    assert apply(ansible).changed == {IN_FORCE: ["worker1"]}


@pytest.mark.usefixtures("restore")
def test_it_outlives_a_reload_of_the_hosts_own_rules_and_a_restart(
    ansible: Ansible, hosts: Hosts, machines: Machines, cluster: Cluster
) -> None:
    host = hosts["worker1"]
    ours = table(host)
    host.check_output("systemctl start nftables")  # Debian's, which start with 'flush ruleset'
    apply(ansible)
    for change in ("reload", "restart"):
        host.check_output(f"systemctl {change} nftables")
        wait_until(lambda: table(host) == ours, f"our rules have followed a {change} of the host's own")

    machines.stop("worker1")
    machines.start("worker1")
    assert table(host) == ours
    assert cluster.state(wait=300)["health"] == "healthy"
    assert reached_from(hosts, "stranger") == meant("stranger")
