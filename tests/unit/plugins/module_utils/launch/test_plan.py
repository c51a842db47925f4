# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever valid settings say, the plan keeps its promises; the judge of command lines is Dask's own parser."""

from __future__ import annotations

import json
import keyword
import posixpath
import sys
import typing as t

import pytest
from distributed.cli import dask_scheduler, dask_worker
from distributed.comm import get_address_host_port
from distributed.comm.addressing import parse_host_port
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils import _in_process
from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils._platform import Python
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import CLIENT_PRELOAD
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers
from ansible_collections.flotilla.dask.plugins.module_utils.launch.processes import IN_PROCESS
from ansible_collections.flotilla.dask.tests.unit import samples

MIB = 2**20
PORT_KINDS = ("worker", "nanny", "dashboard")
LARGE_PORTS = {"worker": 9010, "nanny": 9110, "dashboard": 9210}
IDENTIFIERS = st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True)
TEXT = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=12)
VARIABLES = st.dictionaries(
    st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True) | st.just("DASK_CONFIG"),
    TEXT | st.integers(0, 99),
    max_size=3,
)
# Dask's parser imports what is to be preloaded.
sys.modules[IN_PROCESS] = _in_process
PRELOAD = st.lists(st.sampled_from(["keyword", "email.charset", keyword.__file__]), max_size=2)
DIRECTORIES = st.sampled_from(["", "/scratch", "/data/lab-1/dask"])
RESOURCES = st.dictionaries(st.sampled_from(["GPU", "licence/x", "MEM.1"]), st.integers(0, 2**40) | st.floats(0, 1e6))


@st.composite
def valid_settings(draw: st.DrawFn) -> dict[str, t.Any]:
    """Settings of one host whose ports don't collide and whose groups fit into its memory."""
    names = draw(st.lists(IDENTIFIERS, max_size=3, unique=True))
    processes = [draw(st.integers(1, 5)) for _name in names]
    runs = [("scheduler", 1), ("dashboard", 1), ("taken", 1)]
    runs += [(name + "." + kind, number) for name, number in zip(names, processes) for kind in PORT_KINDS]
    first_ports = {}
    port = draw(st.integers(1024, 65000))
    for owner, length in draw(st.permutations(runs)):
        first_ports[owner] = port
        port += length + draw(st.integers(0, 20))
    needed = [64 * MIB * number + MIB * draw(st.integers(0, 2**14)) for number in processes]
    sizes = [draw(st.sampled_from([size, str(size), f"{size // MIB} MiB", f"{size} B"])) for size in needed]
    groups = [
        {
            "name": name,
            "processes": number,
            "threads": draw(st.integers(1, 64)),
            "memory": size,
            "ports": {kind: first_ports[name + "." + kind] for kind in PORT_KINDS},
            "resources": draw(RESOURCES),
            "environment": draw(VARIABLES),
            "preload": draw(PRELOAD),
            "local_directory": draw(DIRECTORIES),
        }
        for name, number, size in zip(names, processes, sizes)
    ]
    host = samples.host(
        name=draw(st.sampled_from(["alpha", "node-1.lab.example", "10.0.0.7"])),
        address=draw(st.sampled_from(["10.0.0.1", "fd00::1", "node-1.lab.example"])),
        http_address=draw(st.sampled_from(["127.0.0.1", "::1", "0.0.0.0"])),
        memory=draw(st.none() | st.integers(128 * MIB, 2**40).map(lambda spare: sum(needed) + spare)),
        service_manager=draw(st.sampled_from(["systemd", "tini", ""])),
        root=draw(st.booleans()),
        taken={str(first_ports["taken"]): "another"},
    )
    scope = draw(st.sampled_from(["auto", "system", "user"] if host["root"] else ["auto", "user"]))
    of_the_system = ["docker", *(["systemd"] if host["service_manager"] == "systemd" else [])]
    launchers = ["auto", "supervisor", *(of_the_system if host["root"] and scope != "user" else [])]
    return {
        "dask_cluster_name": draw(IDENTIFIERS),
        "dask_launcher": draw(st.sampled_from(launchers)),
        "dask_docker_network": draw(st.sampled_from(["host"] if "lab" in host["address"] else ["host", "bridge"])),
        "dask_docker_volumes": draw(st.lists(st.sampled_from(["/data", "/srv/a b:/mnt:ro"]), unique=True)),
        "dask_image": "lab/dask:1",
        "dask_scope": scope,
        "dask_home": draw(DIRECTORIES),
        "dask_configuration": draw(st.sampled_from([{}, {"distributed": {"comm": {"timeouts": {"connect": "9s"}}}}])),
        "dask_host": host,
        "dask_scheduler_address": draw(st.sampled_from(["10.0.0.1", "fd00::1"])),
        "dask_scheduler_port": first_ports["scheduler"],
        "dask_scheduler_dashboard_port": first_ports["dashboard"],
        "dask_scheduler_environment": draw(VARIABLES),
        "dask_scheduler_preload": draw(PRELOAD),
        "dask_worker_groups": groups,
        "dask_runs_scheduler": draw(st.booleans()),
        "dask_runs_workers": bool(groups),
        "dask_environment_method": draw(st.sampled_from(["venv", "existing"])),
        "dask_environment_path": "/opt/conda/envs/lab",
        "dask_environment_plugin_sources": draw(st.sampled_from([[], [{"requirement": "lab==1", "digest": "lab==1"}]])),
    }


def parsed_by_dask(process: dict[str, t.Any]) -> dict[str, t.Any]:
    """What Dask's command line makes of a process' arguments."""
    _python, flag, module, *arguments = process["argv"]
    assert flag == "-m"
    command = {"distributed.cli.dask_scheduler": dask_scheduler, "distributed.cli.dask_worker": dask_worker}[
        module
    ].main
    return dict(command.make_context(process["kind"], arguments).params)


def strings_in(value: t.Any) -> t.Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from strings_in(each)


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_no_two_processes_of_a_host_share_a_name_or_a_port_nor_take_one_of_another_cluster(values: t.Any) -> None:
    plan = launch_plan(values)
    names = [process["name"] for process in plan["processes"]]
    ports = [port for process in plan["processes"] for port in process["ports"].values()]
    assert len(set(names)) == len(names)
    assert len(set(ports)) == len(ports)
    assert not set(map(str, ports)) & set(values["dask_host"]["taken"])
    assert plan["description"]["ports"] == sorted(ports)


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_the_workers_together_never_get_more_memory_than_the_host_has(values: t.Any) -> None:
    limits = [process["memory_limit"] for process in launch_plan(values)["processes"] if process["kind"] == "worker"]
    assert all(limit >= 64 * MIB for limit in limits)
    assert sum(limits) <= (values["dask_host"]["memory"] or 2**63)


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_dask_reads_every_worker_command_line_as_the_plan_meant_it(values: t.Any) -> None:
    plan = launch_plan(values)
    groups = {group["name"]: group for group in values["dask_worker_groups"]}
    for process in plan["processes"]:
        if process["kind"] != "worker":
            continue
        group = groups[process["group"]]
        read = parsed_by_dask(process)
        assert read["scheduler"] == plan["description"]["scheduler"]
        assert read["name"] == process["worker"]
        if published(plan):
            assert [address(read[kind + "_address"]) for kind in ("listen", "contact")] == [
                ("0.0.0.0", process["ports"]["worker"]),
                (process["listen"]["worker"], process["ports"]["worker"]),
            ]
            advertised = process["environment"]["FLOTILLA_NANNY_ADDRESS"]
            assert address(advertised) == (process["listen"]["nanny"], process["ports"]["nanny"])
        else:
            assert read["host"] == process["listen"]["worker"] == process["listen"]["nanny"]
            assert int(read["worker_port"]) == process["ports"]["worker"]
        assert int(read["nanny_port"]) == process["ports"]["nanny"]
        assert http_address(read) == served(plan, process)
        assert read["nthreads"] == group["threads"]
        assert int(read["memory_limit"]) == process["memory_limit"]
        assert read["local_directory"] == process["local_directory"]
        assert resources(read) == group["resources"]
        assert list(read["preload"]) == [IN_PROCESS, *group["preload"]]
        assert list(read["preload_nanny"]) == [IN_PROCESS]
        assert read["preload_argv"] == ()


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_dask_reads_the_scheduler_command_line_as_the_plan_meant_it(values: t.Any) -> None:
    plan = launch_plan({**values, "dask_runs_scheduler": True})
    process = plan["processes"][0]
    read = parsed_by_dask(process)
    assert process["listen"]["scheduler"] == values["dask_scheduler_address"]
    if published(plan):
        advertised = process["environment"]["DASK_DISTRIBUTED__SCHEDULER__CONTACT_ADDRESS"]
        assert (read["host"], advertised) == ("0.0.0.0", plan["description"]["scheduler"])
    else:
        assert read["host"] == process["listen"]["scheduler"]
    assert int(read["port"]) == process["ports"]["scheduler"] == values["dask_scheduler_port"]
    assert http_address(read) == served(plan, process)
    assert list(read["preload"]) == [IN_PROCESS, *values["dask_scheduler_preload"]]
    assert read["preload_argv"] == ()
    assert address(plan["description"]["scheduler"]) == (process["listen"]["scheduler"], int(read["port"]))


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_every_port_that_a_process_serves_and_no_other_is_published_at_the_same_number(values: t.Any) -> None:
    plan = launch_plan(values)
    for process in plan["processes"]:
        ports = {(process["listen"][purpose], port) for purpose, port in process["ports"].items()}
        publishings = [text.rpartition(":") for text in process["publish"]]
        assert {parse_host_port(outside) for outside, _colon, _inside in publishings} == (
            ports if published(plan) else set()
        )
        assert all(outside.endswith(":" + inside) for outside, _colon, inside in publishings)
        assert process["health"] == "http://{0}:{1}/health".format(*bracketed(served(plan, process, loopback=True)))


def published(plan: t.Mapping[str, t.Any]) -> bool:
    return (plan["launcher"], plan["containers"]["network"]) == ("docker", "bridge")


def served(plan: t.Mapping[str, t.Any], process: t.Mapping[str, t.Any], loopback: bool = False) -> tuple[str, int]:
    """Where a process itself serves HTTP; everywhere in a network of its own."""
    inside = "127.0.0.1" if loopback else "0.0.0.0"
    return inside if published(plan) else process["listen"]["dashboard"], process["ports"]["dashboard"]


def bracketed(address: tuple[str, int]) -> tuple[str, int]:
    host, port = address
    return ("[{0}]".format(host) if ":" in host else host), port


def address(text: str) -> tuple[str, int]:
    host, port = get_address_host_port(text)
    return str(host), int(port)


def http_address(read: t.Mapping[str, t.Any]) -> tuple[str, int]:
    host, port = parse_host_port(read["dashboard_address"])
    return str(host), int(port)


def resources(read: t.Mapping[str, t.Any]) -> dict[str, float]:
    """As distributed.cli.dask_worker takes them apart."""
    pairs = (read["resources"] or "").replace(",", " ").split()
    return {name: float(amount) for name, amount in (pair.split("=") for pair in pairs)}


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_the_workers_are_the_ones_that_every_host_of_the_cluster_expects(values: t.Any) -> None:
    host = values["dask_host"]["name"]
    groups = values["dask_worker_groups"] if values["dask_runs_workers"] else []
    promised = promised_workers({host: groups}) if groups else []
    planned = launch_plan({**values, "dask_promised_workers": promised})
    workers = [process for process in planned["processes"] if process["kind"] == "worker"]
    assert promised == planned["description"]["workers"]
    assert promised == [
        {"name": each["worker"], "host": host, "group": each["group"], "dashboard": each["ports"]["dashboard"]}
        for each in workers
    ]


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_the_same_settings_give_the_same_plan_also_after_their_way_through_json(values: t.Any) -> None:
    plan = launch_plan(values)
    through_json = json.loads(json.dumps(values, sort_keys=True))
    assert json.loads(json.dumps(plan)) == json.loads(json.dumps(launch_plan(through_json)))


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_every_path_in_a_plan_is_absolute(values: t.Any) -> None:
    plan = launch_plan(values)
    paths = [
        *strings_in(plan["directories"]),
        *plan["writable"],
        plan["description"]["jobs"],
        plan["description"]["python"],
    ]
    for process in plan["processes"]:
        paths += [process["argv"][0], process["local_directory"], process["environment"]["DASK_CONFIG"]]
    assert all(posixpath.isabs(path) and path == posixpath.normpath(path) for path in paths)


@given(valid_settings())
@hypothesis_settings(max_examples=100)
def test_a_process_gets_the_variables_of_its_group_and_the_ones_of_the_cluster_before_them(values: t.Any) -> None:
    plan = launch_plan(values)
    own = {group["name"]: group["environment"] for group in values["dask_worker_groups"]}
    own[""] = values["dask_scheduler_environment"]
    for process in plan["processes"]:
        asked_for = {name: str(value) for name, value in own[process["group"]].items()}
        common = dict(plan["description"]["environment"])
        assert "HOME" not in common
        if plan["scope"] == "system":
            common["HOME"] = plan["directories"]["state"]
        mismatch = common.pop("FLOTILLA_MISMATCH")
        if process["kind"] == "worker":
            common.update(FLOTILLA_MISMATCH=mismatch, FLOTILLA_DRAIN_SECONDS="60")
        if published(plan):
            name = {"worker": "FLOTILLA_NANNY_ADDRESS", "scheduler": "DASK_DISTRIBUTED__SCHEDULER__CONTACT_ADDRESS"}
            common[name[process["kind"]]] = process["environment"][name[process["kind"]]]
        assert process["environment"] == {**asked_for, **common}


def test_the_plugins_come_before_what_the_user_puts_on_the_python_path() -> None:
    settings = samples.settings(
        dask_environment_plugin_sources=[{"requirement": "lab==1", "digest": "lab==1"}],
        dask_worker_groups=[samples.group(environment={"PYTHONPATH": "/srv/lab"})],
    )
    plan = launch_plan(settings)
    worker = plan["processes"][-1]
    ours = [plan["environment"]["plugin_directory"], plan["directories"]["in_process"]]
    assert worker["environment"]["PYTHONPATH"].split(":") == [*ours, "/srv/lab"]


def test_a_unit_has_room_above_the_memory_limit_of_its_worker_and_time_to_drain() -> None:
    groups = [
        samples.group(name="small", processes=1, memory="256 MiB"),
        samples.group(name="large", processes=1, memory="8 GiB", threads=4, ports=LARGE_PORTS),
    ]
    plan = launch_plan(samples.settings(dask_worker_groups=groups, dask_drain_seconds=600, dask_scheduler_memory=0.5))
    limits = {
        process["name"]: (process["memory_max"], process["tasks_max"], process["stop_seconds"])
        for process in plan["processes"]
    }
    assert limits == {
        "scheduler": (32 * samples.GIB, 1024, 30),
        "worker-small-0": (512 * MIB, 1024 + 128, 630),
        "worker-large-0": (10 * samples.GIB, 1024 + 4 * 128, 630),
    }


def test_what_only_concerns_workers_and_clients_does_not_restart_the_scheduler() -> None:
    before, after = (
        launch_plan(samples.settings(**changes))["processes"]
        for changes in ({}, {"dask_drain_seconds": 5, "dask_environment_mismatch": "warn"})
    )
    assert before[0] == after[0]
    assert before[1]["environment"] != after[1]["environment"]


def test_another_text_of_the_module_that_all_preload_restarts_all() -> None:
    before, after = (
        launch_plan(samples.settings(dask_in_process_digest=digest))["processes"] for digest in ("one", "two")
    )
    assert all(old["environment"] != new["environment"] for old, new in zip(before, after))


def test_workers_start_after_a_scheduler_on_the_same_host_and_wait_for_none_elsewhere() -> None:
    beside = launch_plan(samples.settings())["processes"]
    alone = launch_plan(samples.settings(dask_runs_scheduler=False))["processes"]
    assert [process["after"] for process in beside] == [(), ("scheduler",), ("scheduler",)]
    assert [process["after"] for process in alone] == [(), ()]


def test_the_launcher_is_systemd_only_where_it_runs_and_the_play_is_root() -> None:
    chosen = {
        (manager, root): launch_plan(samples.settings(dask_host=samples.host(service_manager=manager, root=root)))
        for manager in ("systemd", "tini")
        for root in (True, False)
    }
    assert {key: (plan["launcher"], plan["scope"]) for key, plan in chosen.items()} == {
        ("systemd", True): ("systemd", "system"),
        ("systemd", False): ("supervisor", "user"),
        ("tini", True): ("supervisor", "system"),
        ("tini", False): ("supervisor", "user"),
    }


def test_a_login_host_of_a_batch_system_runs_nothing_and_knows_what_jobs_need() -> None:
    login = {"dask_launcher": "batch", "dask_runs_workers": False}
    plan = launch_plan(samples.settings(**login, dask_home="/shared/dask"))
    assert (plan["processes"], plan["scope"], plan["user"]) == ([], "user", "ada")
    assert "scheduler-address" not in plan["configuration"]
    assert plan["configuration"]["distributed"]["comm"]["require-encryption"] is True
    assert plan["description"]["batch"] == {
        "authorities": "/shared/dask/main/etc/tls/ca.crt",
        "directory": "/shared/dask/main/var/batch",
        "tls": True,
    }
    with pytest.raises(SettingsError, match="user with dask_launcher batch"):
        launch_plan(samples.settings(**login, dask_scope="system"))
    with pytest.raises(SettingsError, match="login hosts are in dask_login"):
        launch_plan(samples.settings(dask_launcher="batch", dask_runs_workers=True))


def test_the_users_dask_configuration_is_merged_into_the_clusters() -> None:
    ours = launch_plan(samples.settings())["configuration"]
    plan = launch_plan(samples.settings(dask_configuration={"distributed": {"worker": {"memory": {"spill": 0.6}}}}))
    assert plan["configuration"] == {
        **ours,
        "distributed": {**ours["distributed"], "worker": {"memory": {"spill": 0.6}}},
    }


def test_connections_are_encrypted_and_authenticated_unless_that_is_turned_off() -> None:
    plan = launch_plan(samples.settings())
    comm = plan["configuration"]["distributed"]["comm"]
    identity = plan["directories"]["identity"]
    assert comm["require-encryption"] is True
    assert {comm["tls"][role]["key"] for role in ("scheduler", "worker", "client")} == {identity}
    assert (plan["description"]["scheduler"], plan["description"]["identity"]) == ("tls://10.0.0.1:8786", identity)
    assert all("tls" in argv or "tls://10.0.0.1:8786" in argv for argv in (each["argv"] for each in plan["processes"]))

    open_plan = launch_plan(samples.settings(dask_tls=False))
    assert "distributed" not in open_plan["configuration"]
    assert (open_plan["description"]["scheduler"], open_plan["description"]["identity"]) == ("tcp://10.0.0.1:8786", "")
    assert all("tls" not in " ".join(each["argv"]) for each in open_plan["processes"])


def test_another_certificate_or_authority_changes_nothing_but_the_secrets_of_a_swarm() -> None:
    hosts = [samples.host(), samples.host(certificate="another"), samples.host(authorities="another")]
    plans = [launch_plan(samples.settings(dask_host=host)) for host in hosts]
    assert plans[0] == plans[1] == plans[2]
    group = {"name": "cpu", "replicas": 2, "memory": "1 GiB"}
    swarm = samples.settings(dask_launcher="swarm", dask_worker_groups=[group])
    nodes = [launch_plan({**swarm, "dask_host": host}) for host in hosts]
    assert nodes[0]["processes"] == nodes[1]["processes"] == nodes[2]["processes"]
    secrets = [[each["name"] for each in node["swarm"]["files"] if each["kind"] == "secret"] for node in nodes]
    assert len(set(map(str, secrets))) == 3


def test_every_client_on_a_host_loads_what_follows_certificates_before_what_the_user_has_it_load() -> None:
    def loaded(**changes: t.Any) -> t.Any:
        plan = launch_plan(samples.settings(**changes))
        return plan["description"]["environment"].get(CLIENT_PRELOAD), plan["configuration"].get("logging")

    quiet = {"distributed.preloading": "warning"}
    assert loaded() == ('["flotilla_in_process"]', quiet)
    own: dict[str, t.Any] = {"distributed": {"client": {"preload": ["lab"]}}}
    assert loaded(dask_configuration=own) == ('["flotilla_in_process", "lab"]', quiet)
    own["distributed"]["client"]["preload"] = "lab"
    own["logging"] = {"version": 1}
    assert loaded(dask_configuration=own) == ('["flotilla_in_process", "lab"]', {"version": 1})
    assert loaded(dask_tls=False) == (None, None)


PYTHON = {"version": "3.13.5", "platform": "linux-64", "libc": "2.41"}


def locked(digest: str) -> dict[str, t.Any]:
    platforms = ["linux-64", "linux-aarch64", Python(**PYTHON).key, "linux-64, Python 3.12.1, glibc 2.36"]
    packages = [{"name": name, "platform": each} for each in platforms for name in ("distributed", "prometheus_client")]
    return {"digest": digest, "platforms": platforms, "packages": packages}


CHANGES: dict[str, dict[str, t.Any]] = {
    "lock": {"dask_environment_locked": locked("other")},
    "interpreter": {"dask_environment_python": "python3.12"},
    "plugins": {"dask_environment_plugin_sources": [{"requirement": "lab==1", "digest": "lab==1"}]},
}


def test_whatever_decides_the_content_of_an_environment_gives_it_a_directory_of_its_own() -> None:
    def generation(**change: t.Any) -> str:
        given = {"dask_host": samples.host(python=PYTHON), "dask_environment_locked": locked("one"), **change}
        return str(launch_plan(samples.settings(**given))["environment"]["generation"])

    generations = {what: generation(**change) for what, change in {**CHANGES, "nothing": {}}.items()}
    assert len(set(generations.values())) == len(generations)


def test_where_a_plugin_lies_on_the_controller_does_not_decide_the_environment() -> None:
    generations = {
        launch_plan(
            samples.settings(
                dask_environment_plugin_sources=[{"archive": place, "file": "lab-0123.tar.gz", "digest": "0123"}]
            )
        )["environment"]["generation"]
        for place in ("/home/ada/lab-0123.tar.gz", "/tmp/lab-0123.tar.gz")
    }
    assert len(generations) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=500)
def test_a_digest_depends_on_the_content_and_not_on_the_order_of_keys(value: t.Any, random: t.Any) -> None:
    def shuffled(each: t.Any) -> t.Any:
        if isinstance(each, dict):
            keys = list(each)
            random.shuffle(keys)
            return {key: shuffled(each[key]) for key in keys}
        return [shuffled(inner) for inner in each] if isinstance(each, list) else each

    assert digest(shuffled(value)) == digest(value) != digest([value])


def test_the_lock_decides_a_conda_environment_and_how_it_gets_there_does_not() -> None:
    def environment(digest: str, **changes: t.Any) -> dict[str, t.Any]:
        values = {"dask_environment_method": "conda", "dask_environment_locked": locked(digest), **changes}
        found: dict[str, t.Any] = launch_plan(samples.settings(dask_host=samples.host(platform="linux-64"), **values))[
            "environment"
        ]
        return found

    one = environment("one")
    assert {package["platform"] for package in one["locked"]} == {"linux-64"}
    assert one["bootstrap"] == ["py-rattler==0.28.0"]
    assert environment("other")["generation"] != one["generation"]
    elsewhere = {"dask_download_on": "controller", "dask_conda_mirror": "/srv/conda", "dask_wheelhouse": "/srv/wheels"}
    assert environment("one", **elsewhere, dask_environment_keep=9)["generation"] == one["generation"]


def test_a_virtual_environment_has_the_packages_for_the_hosts_python() -> None:
    values = {"dask_host": samples.host(python=PYTHON), "dask_environment_locked": locked("one")}
    found = launch_plan(samples.settings(**values))["environment"]["locked"]
    assert {package["platform"] for package in found} == {"linux-64, Python 3.13.5, glibc 2.41"}


def test_a_host_beside_the_cluster_needs_no_packages() -> None:
    beside = {"dask_runs_scheduler": False, "dask_runs_workers": False, "dask_environment_locked": locked("one")}
    values = samples.settings(dask_host=samples.host(platform="linux-riscv64"), **beside)
    assert launch_plan(values)["environment"]["locked"] == ()


@pytest.mark.parametrize("method", ["conda", "venv"])
def test_a_cluster_is_removed_without_a_lock(method: str) -> None:
    plan = launch_plan(samples.settings(dask_environment_method=method, dask_environment_locked={}))
    assert plan["directories"]["own"]


@pytest.mark.parametrize(
    ("platform", "libc", "changes", "refused"),
    [
        ("linux-64", "2.36", {}, ""),
        ("linux-64", "", {}, "its platform is linux-64 with another C library than GNU's"),
        ("linux-64", "2.12", {}, "with the GNU C library 2.12"),
        ("linux-riscv64", "2.41", {}, "its platform is linux-riscv64"),
        ("osx-arm64", "", {}, ""),
        ("linux-64", "", {"dask_environment_method": "existing", "dask_environment_path": "/opt/lab"}, ""),
    ],
)
def test_a_host_that_no_uv_runs_on_is_refused(
    platform: str, libc: str, changes: dict[str, t.Any], refused: str
) -> None:
    values = samples.settings(dask_host=samples.host(platform=platform, libc=libc), **changes)
    if refused:
        with pytest.raises(SettingsError, match=refused):
            launch_plan(values)
    else:
        launch_plan(values)
