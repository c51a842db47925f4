# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A firewall from the plan: every port of it is open to exactly those whom it is for, and no other port is judged."""

from __future__ import annotations

import ipaddress
import typing as t

import pytest
from ansible.template import trust_as_template
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.firewall import (
    OPEN_TO,
    firewall_rules,
    firewall_sources,
    spans,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan
from ansible_collections.flotilla.dask.tests.unit import samples

Render = t.Callable[..., t.Any]
Given = dict[str, t.Any]

HOSTS = {
    "scheduler": "10.0.0.1",
    "worker1": "10.0.0.2",
    "worker2": "fd00:1::2",
    "proxy": "10.0.0.9",
    "monitoring": "fd00:1::9",
}
NETWORKS = {"lab": ["10.1.0.0/16", "10.1.7.0/24", "fd00:2::/64"], "office": "192.0.2.7"}
ADDRESSES = (*HOSTS.values(), "10.1.7.3", "10.1.255.255", "fd00:2::5", "192.0.2.7")
STRANGERS = ("10.0.0.3", "10.2.0.0", "192.0.2.8", "fd00:1::3", "fd00:2:0:1::", "198.51.100.1", "::1", "127.0.0.1")


def sources(**changes: t.Any) -> Given:
    return firewall_sources(
        {
            "cluster": ["scheduler", "worker1", "worker2"],
            "proxies": ["proxy", "scheduler"],
            "monitoring": ["monitoring"],
            "dask_host_address": {"worker1": HOSTS["worker1"]},
            "found": {**HOSTS, "worker1": "172.17.0.1"},
            **changes,
        }
    )


def given_settings(**changes: t.Any) -> Given:
    """What the rules of a host that runs a scheduler and two workers are made from."""
    accepted = {
        "plan": launch_plan(samples.settings()),
        "sources": sources(),
        "dask_host": samples.host(),
        "dask_client_networks": NETWORKS,
        "ansible_port": None,
    }
    return {**accepted, **changes}


def numbers(span: str) -> range:
    first, _, last = span.partition("-")
    return range(int(first), int(last or first) + 1)


def judgement(rules: Given, address: str, port: int) -> bool | None:
    """Whether a connection from an address is accepted, as the table does it; None where it passes without a word."""
    chains = [chain for chain in rules["chains"] for span in chain["ports"] if port in numbers(span)]
    if not chains:
        return None
    assert len(chains) == 1, "one port is judged once"
    source = ipaddress.ip_address(address)
    sets = {each["name"]: each for each in rules["sets"]}
    for accepted in chains[0]["accept"]:
        family = {"ip": 4, "ip6": 6}[accepted["family"]]
        assert sets[accepted["name"]]["type"] == {4: "ipv4_addr", 6: "ipv6_addr"}[family]
        elements = map(ipaddress.ip_network, sets[accepted["name"]]["elements"].split(",\n"))
        if family == source.version and any(source in each for each in elements):
            return True
    return False


def test_a_host_that_left_is_let_in_as_a_part_of_the_cluster_until_it_is_removed() -> None:
    members = {
        "worker1": {"address": HOSTS["worker1"], "declared": True},
        "left": {"address": "10.0.0.3", "declared": False},
        "left6": {"address": "fd00:1::3", "declared": False},
        "unknown": {"address": "", "declared": False},
    }
    before, after = (firewall_rules(given_settings(sources=sources(members=each))) for each in (members, {}))
    for address in ("10.0.0.3", "fd00:1::3"):
        assert [judgement(before, address, port) for port in (8786, 9000, 9100, 8787)] == [True, True, True, False]
        assert not any(judgement(after, address, port) for port in (8786, 9000, 9100, 8787))


def test_a_host_that_left_with_a_name_for_an_address_is_to_be_removed_first() -> None:
    found = sources(members={"left": {"address": "left.lab", "declared": False}})
    with pytest.raises(SettingsError, match=r"address of host left.* 'left.lab' .*remove_host -e dask_host_name=left"):
        firewall_rules(given_settings(sources=found))


def is_meant_for(purpose: str, address: str) -> bool:
    """Who may reach a port, said again and otherwise than the code does."""
    who = next((name for name, known in HOSTS.items() if known == address), "")
    if purpose == "dashboard":
        return who in ("proxy", "monitoring", "scheduler")
    if who in ("scheduler", "worker1", "worker2"):
        return True
    in_a_client_network = address in ADDRESSES and not who
    return purpose in ("scheduler", "worker") and in_a_client_network


@st.composite
def groups(draw: st.DrawFn) -> list[Given]:
    """Worker groups whose ports don't overlap, side by side or with gaps."""
    port, result = draw(st.integers(1024, 8700)), []
    for index in range(draw(st.integers(1, 3))):
        processes, ports = draw(st.integers(1, 5)), {}
        for kind in draw(st.permutations(["worker", "nanny", "dashboard"])):
            ports[kind] = port
            port += processes + draw(st.integers(0, 2))
            if 8786 - 16 < port < 8788:
                port = 8788
        result.append({"name": "g{0}".format(index), "processes": processes, "memory": "1 GiB", "ports": ports})
    return result


@given(groups(), st.booleans(), st.booleans())
@settings(max_examples=200)
def test_every_port_of_a_plan_is_open_to_exactly_those_whom_it_is_for(
    worker_groups: list[Given], runs_scheduler: bool, runs_workers: bool
) -> None:
    runs = {"dask_runs_scheduler": runs_scheduler, "dask_runs_workers": runs_workers}
    plan = launch_plan(samples.settings(dask_worker_groups=worker_groups, **runs))
    rules = firewall_rules(given_settings(plan=plan))
    purposes = {port: purpose for process in plan["processes"] for purpose, port in process["ports"].items()}
    for port, purpose in purposes.items():
        for address in (*ADDRESSES, *STRANGERS):
            assert judgement(rules, address, port) == is_meant_for(purpose, address), (purpose, port, address)
    for port in {near + step for near in (22, 443, *purposes) for step in (-1, 0, 1)} - set(purposes):
        assert judgement(rules, STRANGERS[0], port) is None
    judged = [port for chain in rules["chains"] for span in chain["ports"] for port in numbers(span)]
    assert sorted(judged) == sorted(purposes)


@given(st.sets(st.integers(1, 65535) | st.integers(9000, 9030)))
def test_spans_are_the_ports_in_order_and_as_few_as_can_be(ports: set[int]) -> None:
    ranges = [numbers(span) for span in spans(ports)]
    assert [port for each in ranges for port in each] == sorted(ports)
    assert all(before[-1] + 1 < after[0] for before, after in zip(ranges, ranges[1:]))


def test_every_purpose_that_a_plan_has_is_known() -> None:
    plan = launch_plan(samples.settings())
    assert {purpose for process in plan["processes"] for purpose in process["ports"]} == set(OPEN_TO)


def test_a_host_that_left_the_inventory_is_a_stranger() -> None:
    before = firewall_rules(given_settings())
    after = firewall_rules(given_settings(sources=sources(cluster=["scheduler", "worker2"])))
    assert judgement(before, HOSTS["worker1"], 8786) is True
    assert judgement(after, HOSTS["worker1"], 8786) is False


def test_the_address_that_the_inventory_gives_a_host_counts_and_not_the_one_that_was_found() -> None:
    rules = firewall_rules(given_settings())
    assert judgement(rules, "172.17.0.1", 8786) is False


def test_a_host_without_processes_has_nothing_to_close() -> None:
    plan = launch_plan(samples.settings(dask_runs_scheduler=False, dask_runs_workers=False))
    rules = firewall_rules(given_settings(plan=plan))
    assert (rules["sets"], rules["chains"]) == ([], [])


def test_networks_of_one_name_are_merged_and_those_of_two_names_are_not() -> None:
    rules = firewall_rules(
        given_settings(dask_client_networks={"a": ["10.1.0.0/17", "10.1.128.0/17"], "b": "10.1.2.3"})
    )
    sets = {each["name"]: each["elements"].split(",\n") for each in rules["sets"]}
    assert (sets["client_a_ipv4"], sets["client_b_ipv4"]) == (["10.1.0.0/16"], ["10.1.2.3"])


def test_no_two_sets_have_one_name() -> None:
    names = {"a": "10.0.0.0/8", "a_ipv4": "10.0.0.0/8", "ipv4": ["10.0.0.0/8", "fd00::/8"], "cluster": "10.0.0.0/8"}
    rules = firewall_rules(given_settings(dask_client_networks=names))
    sets = [each["name"] for each in rules["sets"]]
    assert len(sets) == len(set(sets)) == 4 + 5


@pytest.mark.parametrize("everything", [["0.0.0.0/0"], ["::/0"], ["0.0.0.0/1", "128.0.0.0/1"]], ids=str)
def test_every_address_there_is_has_to_be_called_anywhere(everything: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"dask_client_networks.lab: '.*/0' is refused. .* the name 'anywhere'"):
        firewall_rules(given_settings(dask_client_networks={"lab": everything}))
    rules = firewall_rules(given_settings(dask_client_networks={"anywhere": everything}))
    stranger = "fd00::1" if ":" in everything[0] else "198.51.100.1"
    assert judgement(rules, stranger, 8786) is True
    assert judgement(rules, stranger, 9100) is False


REFUSED_NETWORKS = [
    ({"lab": "10.1.2.3/16"}, "dask_client_networks.lab: '10.1.2.3/16' is refused. Allowed: '10.1.0.0/16', or another"),
    ({"lab": "lab.example"}, "dask_client_networks.lab: 'lab.example' is refused. Allowed: an address or a network"),
    ({"lab": ["10.1.0.0/33"]}, "dask_client_networks.lab: '10.1.0.0/33' is refused. Allowed: an address or a network"),
    ({"lab": 10}, "dask_client_networks.lab: 10 is refused. Allowed: a list"),
    ({"lab": [10]}, "dask_client_networks.lab: 10 is refused. Allowed: an address or a network"),
    ({"lab": None}, "dask_client_networks.lab: None is refused. Allowed: an address or a network"),
    ({"lab": []}, "dask_client_networks.lab: [] is refused. Allowed: an address or a network"),
    ({"lab": ""}, "dask_client_networks.lab: '' is refused. Allowed: an address or a network"),
    ({"lab": "::ffff:10.1.0.0/112"}, "dask_client_networks.lab: '::ffff:10.1.0.0/112' is refused."),
    ({"lab": "fe80::1%eth0"}, "dask_client_networks.lab: 'fe80::1%eth0' is refused."),
    ({"la-b": "10.1.0.0/16"}, "dask_client_networks.la-b: 'la-b' is refused. Allowed: a name of at most 32"),
    (["10.1.0.0/16"], "dask_client_networks: ['10.1.0.0/16'] is refused. Allowed: a mapping"),
]


@pytest.mark.parametrize(("networks", "message"), REFUSED_NETWORKS, ids=[str(case[0]) for case in REFUSED_NETWORKS])
def test_what_is_no_network_is_refused_in_words(networks: t.Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        firewall_rules(given_settings(dask_client_networks=networks))
    (problem,) = caught.value.problems
    assert problem.startswith(message)


@pytest.mark.parametrize("address", ["worker1.lab.example", "10.0.0.2/32", "::ffff:10.0.0.2", "10.0.0.256"])
def test_a_host_whose_address_is_no_ip_address_is_refused_where_there_is_a_firewall(address: str) -> None:
    made = sources(dask_host_address={"worker1": address})
    with pytest.raises(SettingsError) as caught:
        firewall_rules(given_settings(sources=made))
    (problem,) = caught.value.problems
    assert problem.startswith("dask_host_address of host worker1: '{0}' is refused. Allowed: an IP".format(address))


def test_a_host_of_which_nothing_is_known_is_refused_and_not_left_out() -> None:
    made = sources(proxies=["proxy", "elsewhere"], monitoring=["elsewhere"])
    with pytest.raises(SettingsError) as caught:
        firewall_rules(given_settings(sources=made))
    (problem,) = caught.value.problems
    assert problem.startswith("dask_host_address of host elsewhere: '' is refused.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ansible_port": "8786"}, "scheduler port of scheduler on host alpha: 8786 is refused. Allowed: another one"),
        ({"ansible_port": 9201}, "dashboard port of worker-cpu-1 on host alpha: 9201 is refused."),
        ({"ansible_port": "ssh"}, "ansible_port: 'ssh' is refused. Allowed: a port"),
        ({"dask_firewall_confirm_seconds": 5}, "dask_firewall_confirm_seconds: 5 is refused."),
        (
            {"dask_host": {"name": "alpha", "service_manager": "init"}},
            "dask_firewall: True is refused. Allowed: false on",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_in_words(changes: Given, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        firewall_rules(given_settings(**changes))
    (problem,) = caught.value.problems
    assert problem.startswith(message)


def test_without_root_there_is_no_firewall() -> None:
    host = samples.host(root=False)
    with pytest.raises(SettingsError, match=r"dask_firewall: True is refused. Allowed: false for dask_scope user"):
        firewall_rules(given_settings(plan=launch_plan(samples.settings(dask_host=host)), dask_host=host))


def test_all_that_is_wrong_is_said_at_once() -> None:
    made = sources(dask_host_address={"worker1": "worker1.lab.example"})
    with pytest.raises(SettingsError) as caught:
        firewall_rules(given_settings(sources=made, dask_client_networks={"a": "b", "c": "d"}, ansible_port=8786))
    assert len(caught.value.problems) == 4


def test_the_filters_take_what_an_inventory_has(render: Render) -> None:
    values = given_settings(dask_client_networks={"lab": trust_as_template("{{ lab }}")})
    rules = render("{{ values | flotilla.dask.firewall_rules }}", values=values, lab="10.1.0.0/16")
    assert rules == firewall_rules(given_settings(dask_client_networks={"lab": "10.1.0.0/16"}))
    hosts = {"cluster": ["a"], "found": {"a": "10.0.0.1"}}
    assert render("{{ hosts | flotilla.dask.firewall_sources }}", hosts=hosts) == firewall_sources(hosts)


def test_the_template_writes_every_rule_down(root: t.Any, render: Render) -> None:
    rules = firewall_rules(given_settings())
    template = (root / "roles/dask_firewall/templates/table.nft.j2").read_text()
    text = render(template, dask_firewall_rules=rules, dask_common_plan={"cluster": "main"})
    lines = [line.strip() for line in text.splitlines()]
    assert lines[1:4] == ["table inet dask_main", "delete table inet dask_main", "table inet dask_main {"]
    for chain in rules["chains"]:
        assert "tcp dport {{ {0} }} goto {1}".format(", ".join(chain["ports"]), chain["name"]) in lines
        start = lines.index("chain {0} {{".format(chain["name"]))
        body = lines[start + 1 : lines.index("}", start)]
        accepts = ["{family} saddr @{name} accept".format(**each) for each in chain["accept"]]
        assert body == ["tcp flags & (syn | ack) != syn accept", *accepts, "counter reject with tcp reset"]
    for each in rules["sets"]:
        start = lines.index("set {0} {{".format(each["name"]))
        elements = each["elements"].split("\n")
        assert lines[start + 1 : lines.index("}", start)] == [
            "type " + each["type"],
            "flags interval",
            "elements = {",
            *elements,
        ]
