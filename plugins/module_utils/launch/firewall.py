# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may open connections to which ports of a host: the firewall's rules from the launch plan.

Pure code; the role's template only writes down what is computed here. Private to this collection.
"""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils.launch.members import undeclared
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import Reader

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

OPEN_TO = {
    "scheduler": ("cluster", "clients"),
    "worker": ("cluster", "clients"),
    "nanny": ("cluster",),
    "dashboard": ("proxies", "monitoring"),
}
"""Purpose of a port to those who may connect. Clients send data to workers and fetch results from them directly, but
have nothing to say to nannies. Inside a cluster a host asks its own processes alone for HTTP, which no rule stops."""

HOSTS = ("cluster", "proxies", "monitoring")
"""Those whose addresses are hosts of the inventory."""

ANYWHERE = "anywhere"
"""The only name under which a client network may be every address there is."""

FAMILIES = {4: ("ipv4", "ip"), 6: ("ipv6", "ip6")}
"""IP version to what sets and rules call it."""

SSH = 22
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_ADDRESS_ALLOWED = "an IP address, as a firewall knows no names"
_NETWORK_ALLOWED = "an address or a network such as '10.1.0.0/16' or 'fd00:1::/64'"


def firewall_sources(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Returns the sets of addresses that are the same on every host of a run, and what is wrong with them.

    Computed once for all hosts, as with a thousand of them each set has a thousand addresses.

    :param settings: ``cluster``, ``proxies`` and ``monitoring``: names of hosts; ``dask_host_address`` and ``found``:
        host's name to the address that the inventory gives it, and to the one that was found out there, empty if none;
        ``members``: what ``members.cluster_members`` returns. A host that left the cluster's groups, and that the
        cluster was not removed from, is let in as before: its workers hold data, and tasks that need that would hang.
    :return: ``sets``, each with the ``source`` whose addresses it has, and ``problems``, for ``firewall_rules`` to
        refuse on the hosts that have a firewall.
    """
    reader = Reader(settings)
    said = reader.mapping("dask_host_address", settings.get("dask_host_address"))
    found = reader.mapping("found", settings.get("found"))
    networks: dict[str, Network | None] = {}
    sets: list[dict[str, t.Any]] = []
    for source in HOSTS:
        names = reader.sequence(source, settings.get(source))
        for name in names:
            if name not in networks:
                networks[name] = _host(reader, name, said.get(name) or found.get(name) or "")
        addresses = {network for network in map(networks.__getitem__, names) if network}
        if source == "cluster":
            addresses |= set(_left_behind(reader, undeclared(settings.get("members") or {})))
        sets.extend(_sets(source, source, sorted(addresses, key=_order)))
    return {"sets": sets, "problems": reader.problems}


def firewall_rules(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Returns the rules of one host's table.

    :param settings: ``plan``: the host's launch plan; ``sources``: what ``firewall_sources`` returns; ``dask_host``:
        the host's facts, with its ``name``; ``dask_client_networks``: name to network, or to a list of them;
        ``dask_firewall_confirm_seconds``; ``ansible_port``: the port that Ansible connects to.
    :return: ``table``: its name; ``sets``: name, type and elements of each, a text as every host of a cluster has the
        same long ones; ``chains``: one for each purpose of ports,
        with its ``ports`` (numbers and ranges) and the sets that it accepts, none for a host that the plan gives no
        ports; ``confirm_seconds``.
    :raises SettingsError: with every value that was refused.
    """
    reader = Reader(settings)
    plan, host, sources = settings["plan"], settings["dask_host"], settings["sources"]
    reader.problems.extend(sources["problems"])
    sets = [*sources["sets"], *_read_clients(reader, settings.get("dask_client_networks"))]
    variable = "dask_firewall_confirm_seconds"
    seconds = reader.integer(variable, settings.get(variable, 60), 10, 3600, "a number of seconds")
    _refuse_missing_rights(reader, plan, host)
    _refuse_the_way_in(reader, plan, host, settings.get("ansible_port"))
    reader.finish()

    ports: dict[str, set[int]] = {}
    for process in plan["processes"]:
        for purpose, port in process["ports"].items():
            ports.setdefault(purpose, set()).add(port)
    chains = []
    used: set[str] = set()
    for purpose in sorted(ports):
        accepted = [each for each in sets if each["source"] in OPEN_TO[purpose]]
        used.update(each["name"] for each in accepted)
        chains.append(
            {
                "name": purpose,
                "ports": spans(ports[purpose]),
                "accept": [{key: each[key] for key in ("family", "name")} for each in accepted],
            }
        )
    return {
        "table": "dask_" + plan["cluster"],
        "sets": [{key: each[key] for key in ("name", "type", "elements")} for each in sets if each["name"] in used],
        "chains": chains,
        "confirm_seconds": seconds,
    }


def spans(ports: t.Iterable[int]) -> list[str]:
    """Returns ports in order, as nft writes them, with runs of neighbours merged: ``9000-9003``."""
    merged: list[list[int]] = []
    for port in sorted(set(ports)):
        if merged and merged[-1][1] == port - 1:
            merged[-1][1] = port
        else:
            merged.append([port, port])
    return [str(first) if first == last else "{0}-{1}".format(first, last) for first, last in merged]


def _sets(source: str, name: str, networks: t.Sequence[Network]) -> t.Iterator[dict[str, t.Any]]:
    """A set for each family that ``networks`` has, as a set holds addresses of one."""
    for version, (family, match) in FAMILIES.items():
        elements = [_element(network) for network in networks if network.version == version]
        if elements:
            yield {
                "source": source,
                "name": "{0}_{1}".format(name, family),
                "type": family + "_addr",
                "family": match,
                "elements": ",\n".join(elements),
            }


def _element(network: Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)


def _order(network: Network) -> tuple[int, int]:
    return network.version, int(network.network_address)


def _host(reader: Reader, name: str, address: t.Any) -> Network | None:
    variable = "dask_host_address of host {0}".format(name)
    if address == "":
        reader.refuse(variable, address, "its IP address; nothing is known of this host, which this run did not reach")
        return None
    network = _single(address)
    if network is None:
        reader.refuse(variable, address, _ADDRESS_ALLOWED)
    return network


def _single(address: t.Any) -> Network | None:
    """An address as a network, or None for what is none."""
    return None if "/" in str(address) else _parse(address)


def _left_behind(reader: Reader, addresses: t.Mapping[str, str]) -> t.Iterator[Network]:
    """The addresses of hosts that are no longer declared; where none is known, nobody of that host was ever let in."""
    for name, address in addresses.items():
        network = _single(address)
        if network:
            yield network
        elif address:
            reader.refuse(
                "address of host {0}, which is no longer in the cluster's groups".format(name),
                address,
                "{0}. Remove the cluster from it with 'ansible-playbook flotilla.dask.remove_host "
                "-e dask_host_name={1}'".format(_ADDRESS_ALLOWED, name),
            )


def _parse(text: t.Any, strict: bool = True) -> Network | None:
    """A network, or None for what is none that packets come from: IPv4 written as IPv6 arrives as IPv4."""
    if not isinstance(text, str) or "%" in text:
        return None
    try:
        network = ipaddress.ip_network(str(text), strict=strict)
    except ValueError:
        return None
    mapped = isinstance(network, ipaddress.IPv6Network) and network.subnet_of(t.cast("t.Any", _MAPPED))
    return None if mapped else network


def _read_clients(reader: Reader, value: t.Any) -> t.Iterator[dict[str, t.Any]]:
    """The sets of the named client networks, each name's networks without what another one of them contains."""
    for name, entries in reader.mapping("dask_client_networks", value).items():
        variable = "dask_client_networks.{0}".format(name)
        before = len(reader.problems)
        reader.identifier(variable, name)
        texts = [entries] if isinstance(entries, str) else reader.sequence(variable, entries)
        networks = [_read_network(reader, variable, text) for text in texts]
        if not texts and len(reader.problems) == before:
            reader.refuse(variable, entries, _NETWORK_ALLOWED)
        collapsed = _collapse([network for network in networks if network])
        everything = [str(network) for network in collapsed if network.prefixlen == 0]
        if everything and name != ANYWHERE:
            reader.refuse(
                variable, ", ".join(everything), "less than every address there is, or the name '{0}'".format(ANYWHERE)
            )
        if len(reader.problems) == before:
            yield from _sets("clients", "client_" + str(name), collapsed)


def _read_network(reader: Reader, variable: str, text: t.Any) -> Network | None:
    network = _parse(text)
    if network is None:
        loose = _parse(text, strict=False)
        reader.refuse(variable, text, "{0!r}, or another network".format(str(loose)) if loose else _NETWORK_ALLOWED)
    return network


def _collapse(networks: t.Iterable[Network]) -> list[Network]:
    by_version: dict[int, list[t.Any]] = {version: [] for version in FAMILIES}
    for network in networks:
        by_version[network.version].append(network)
    return [network for each in by_version.values() for network in ipaddress.collapse_addresses(each)]


def _refuse_missing_rights(reader: Reader, plan: t.Mapping[str, t.Any], host: t.Mapping[str, t.Any]) -> None:
    """Rules need root, and systemd, which loads them at boot and takes back those that lock the operator out."""
    if plan["scope"] != "system":
        reader.refuse("dask_firewall", True, "false for dask_scope {0}, as rules need root".format(plan["scope"]))
    elif host.get("service_manager") != "systemd":
        reader.refuse(
            "dask_firewall", True, "false on host {0}, where process 1 isn't systemd".format(host.get("name"))
        )


def _refuse_the_way_in(
    reader: Reader, plan: t.Mapping[str, t.Any], host: t.Mapping[str, t.Any], ansible_port: t.Any
) -> None:
    """The port that Ansible comes in at stays out of the rules."""
    way_in = reader.integer("ansible_port", ansible_port or SSH, 1, 65535, "a port")
    for process in plan["processes"]:
        for purpose, port in process["ports"].items():
            if port == way_in:
                reader.refuse(
                    "{0} port of {1} on host {2}".format(purpose, process["name"], host.get("name")),
                    port,
                    "another one than ansible_port, which would be closed to you",
                )
