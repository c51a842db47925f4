# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong is refused, all of it at once, in words that name the variable, the value and what is allowed."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers
from ansible_collections.flotilla.dask.tests.unit.samples import GIB, group, host, settings


def refusals(values: t.Mapping[str, t.Any]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        launch_plan(values)
    return caught.value.problems


def groups(*changes: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"dask_worker_groups": [group(**change) for change in changes]}


def ports(first: int) -> dict[str, int]:
    return {"worker": first, "nanny": first + 100, "dashboard": first + 200}


REFUSED: dict[str, tuple[dict[str, t.Any], str, str]] = {
    "unknown memory unit": (
        groups({"memory": "16 gigs"}),
        "dask_worker_groups[0].memory: '16 gigs' is refused",
        "(no unit 'gigs')",
    ),
    "size that is none": (groups({"memory": "much"}), "dask_worker_groups[0].memory: 'much' is refused", "'16 GB'"),
    "more memory than the host has": (
        {**groups({"memory": "65 GiB"}), "dask_host": host(memory=64 * GIB)},
        "dask_worker_groups[].memory: 'cpu: 65 GiB' is refused",
        "64 GiB that host alpha has",
    ),
    "groups that together need more memory than the host has": (
        groups({"memory": "40 GiB"}, {"name": "gpu", "memory": 0.5, "ports": ports(9500)}),
        "dask_worker_groups[].memory: 'cpu: 40 GiB, gpu: 32 GiB' is refused",
        "64 GiB that host alpha has",
    ),
    "too little memory for a process": (
        groups({"memory": "127 MiB", "processes": 2}),
        "dask_worker_groups[0].memory: '127 MiB' is refused",
        "at least 64 MiB for each of its 2 processes",
    ),
    "fraction of a memory that is not known": (
        {**groups({"memory": "0.5"}), "dask_host": host(memory=None)},
        "dask_worker_groups[0].memory: '0.5' is refused",
        "memory is not known",
    ),
    "more memory for the scheduler than its host has": (
        {"dask_scheduler_memory": "65 GiB", "dask_host": host(memory=64 * GIB)},
        "dask_scheduler_memory: '65 GiB' is refused",
        "at most the 64 GiB that host alpha has",
    ),
    "time to drain that is none": (
        {"dask_drain_seconds": "1 min"},
        "dask_drain_seconds: '1 min' is refused",
        "a number of seconds from 0 to 86400",
    ),
    "unknown answer to other software": (
        {"dask_environment_mismatch": "ignore"},
        "dask_environment_mismatch: 'ignore' is refused",
        "one of refuse, warn",
    ),
    "ports that overlap within a group": (
        groups({"processes": 4, "ports": {"worker": 9000, "nanny": 9003, "dashboard": 9200}}),
        "dask_worker_groups[0].ports.nanny: '9003-9006' is refused",
        "don't overlap with dask_worker_groups[0].ports.worker (9000-9003)",
    ),
    "ports that overlap between groups": (
        groups({"ports": ports(9000)}, {"name": "gpu", "ports": {**ports(9500), "worker": 9101}}),
        "dask_worker_groups[1].ports.worker: '9101-9102' is refused",
        "don't overlap with dask_worker_groups[0].ports.nanny (9100-9101)",
    ),
    "ports that overlap with the scheduler's": (
        groups({"ports": ports(8785)}),
        "dask_scheduler_port: '8786' is refused",
        "don't overlap with dask_worker_groups[0].ports.worker (8785-8786)",
    ),
    "scheduler and dashboard on one port": (
        {"dask_scheduler_dashboard_port": 8786},
        "dask_scheduler_port: '8786' is refused",
        "don't overlap with dask_scheduler_dashboard_port",
    ),
    "ports of another cluster": (
        {"dask_host": host(taken={"9101": "second"})},
        "dask_worker_groups[0].ports.nanny: '9100-9101' is refused",
        "ports of host alpha that cluster second doesn't use",
    ),
    "privileged port": (
        groups({"ports": {"worker": 1023}}),
        "dask_worker_groups[0].ports.worker: 1023 is refused",
        "from 1024 to 65535",
    ),
    "port that is too high": (
        {"dask_scheduler_port": 65536},
        "dask_scheduler_port: 65536 is refused",
        "from 1024 to 65535",
    ),
    "ports that run out before the processes do": (
        groups({"processes": 3, "ports": {"worker": 65534}}),
        "dask_worker_groups[0].ports.worker: 65534 is refused",
        "room for 3 processes up to 65535",
    ),
    "unknown kind of port": (
        groups({"ports": {"http": 9300}}),
        "dask_worker_groups[0].ports.http: 'http' is refused",
        "worker, nanny, dashboard",
    ),
    "group's name twice": (
        groups({"ports": ports(9000)}, {"ports": ports(9500)}),
        "dask_worker_groups[1].name: 'cpu' is refused",
        "no other group",
    ),
    "group's name that is no identifier": (
        groups({"name": "cpu-a"}),
        "dask_worker_groups[0].name: 'cpu-a' is refused",
        "lower-case letters, digits and '_'",
    ),
    "group without a name": (
        {"dask_worker_groups": [{}]},
        "dask_worker_groups[0].name: None is refused",
        "starts with a letter",
    ),
    "no group": ({"dask_worker_groups": []}, "dask_worker_groups: [] is refused", "at least one group"),
    "no processes": (
        groups({"processes": 0}),
        "dask_worker_groups[0].processes: 0 is refused",
        "a number of processes from 1",
    ),
    "half a process": (groups({"processes": 1.5}), "dask_worker_groups[0].processes: 1.5 is refused", "from 1 to 1000"),
    "no threads": (groups({"threads": 0}), "dask_worker_groups[0].threads: 0 is refused", "a number of threads from 1"),
    "unknown key": (
        groups({"nprocs": 2}),
        "dask_worker_groups[0]: 'nprocs' is refused",
        "the keys name, processes, threads",
    ),
    "something else to remove": ({"dask_remove": "some"}, "dask_remove: 'some' is refused", "one of cluster, all"),
    "unknown launcher": ({"dask_launcher": "upstart"}, "dask_launcher: 'upstart' is refused", "systemd, supervisor"),
    "unknown scope": ({"dask_scope": "root"}, "dask_scope: 'root' is refused", "auto, system, user"),
    "system without root": (
        {"dask_scope": "system", "dask_host": host(root=False)},
        "dask_scope: 'system' is refused",
        "a play with root on host alpha",
    ),
    "systemd without root": (
        {"dask_launcher": "systemd", "dask_host": host(root=False)},
        "dask_launcher: 'systemd' is refused",
        "supervisor for dask_scope user",
    ),
    "systemd where there is none": (
        {"dask_launcher": "systemd", "dask_host": host(service_manager="tini")},
        "dask_launcher: 'systemd' is refused",
        "process 1 of host alpha isn't systemd",
    ),
    "another launcher than what runs": (
        {"dask_launcher": "systemd", "dask_host": host(launcher="docker")},
        "dask_launcher: 'systemd' is refused",
        "docker, which runs cluster main on host alpha. To change it, remove the cluster first",
    ),
    "unknown method": (
        {"dask_environment_method": "pipx"},
        "dask_environment_method: 'pipx' is refused",
        "venv, conda, existing",
    ),
    "existing environment without its path": (
        {"dask_environment_method": "existing"},
        "dask_environment_path: '' is refused",
        "prefix of an environment",
    ),
    "lock without the host's platform": (
        {
            "dask_environment_method": "conda",
            "dask_environment_locked": {"digest": "d", "platforms": ["linux-aarch64"], "packages": []},
            "dask_host": host(platform="linux-64"),
        },
        "dask_environment_lock: 'linux-aarch64' is refused",
        "packages for linux-64, which host alpha has",
    ),
    "no packages": ({"dask_environment_packages": []}, "dask_environment_packages: [] is refused", "at least one"),
    "packages as a mapping": (
        {"dask_environment_packages": {"dask": 1}},
        "dask_environment_packages: {'dask': 1} is refused",
        "a list",
    ),
    "packages as text": (
        {"dask_environment_packages": "dask"},
        "dask_environment_packages: 'dask' is refused",
        "a list",
    ),
    "a package that is an option": (
        {"dask_environment_packages": ["-e ."]},
        "dask_environment_packages[0]: '-e .' is refused",
        "without options",
    ),
    "constraints as a list": (
        {"dask_environment_constraints": ["/a"]},
        "dask_environment_constraints: ['/a'] is refused",
        "the path of a file on the controller",
    ),
    "a lock that is an option": ({"dask_environment_lock": "-x"}, "dask_environment_lock: '-x' is refused", "path"),
    "a doubtful update": ({"dask_environment_update": "maybe"}, "dask_environment_update: 'maybe' is refused", "true"),
    "authorities that are an option": ({"dask_ca_bundle": "-k"}, "dask_ca_bundle: '-k' is refused", "absolute path"),
    "lock without metrics": (
        {
            "dask_environment_method": "conda",
            "dask_environment_locked": {
                "digest": "d",
                "platforms": ["linux-64"],
                "packages": [{"name": "distributed", "platform": "linux-64"}],
            },
            "dask_host": host(platform="linux-64"),
        },
        "dask_environment_lock: '1 packages for linux-64' is refused",
        "a lock that has prometheus_client too",
    ),
    "download by somebody else": ({"dask_download_on": "cloud"}, "dask_download_on: 'cloud' is refused", "controller"),
    "mirror that is neither path nor address": (
        {"dask_conda_mirror": "mirror"},
        "dask_conda_mirror: 'mirror' is refused",
        "https://",
    ),
    "nothing to go back to": ({"dask_environment_keep": 1}, "dask_environment_keep: 1 is refused", "from 2 to 1000"),
    "relative path": ({"dask_home": "dask"}, "dask_home: 'dask' is refused", "an absolute path"),
    "cluster's name that is no identifier": (
        {"dask_cluster_name": "../etc"},
        "dask_cluster_name: '../etc' is refused",
        "lower-case letters",
    ),
    "cluster's name that is too long": (
        {"dask_cluster_name": "a" * 33},
        "dask_cluster_name: '{0}' is refused".format("a" * 33),
        "at most 32",
    ),
    "control characters in a variable": (
        groups({"environment": {"GREETING": "hello\nExecStartPre=/bin/false"}}),
        r"dask_worker_groups[0].environment.GREETING: 'hello\nExecStartPre=/bin/false' is refused",
        "without control characters",
    ),
    "variable that is a boolean": (
        {"dask_scheduler_environment": {"DEBUG": True}},
        "dask_scheduler_environment.DEBUG: True is refused",
        "quote numbers and booleans",
    ),
    "name of a variable that is none": (
        groups({"environment": {"OMP NUM": "1"}}),
        "dask_worker_groups[0].environment.OMP NUM: 'OMP NUM' is refused",
        "letters, digits and '_'",
    ),
    "name of a secret that is no variable's": (
        {"dask_secrets": {"api-token": "hunter22"}},
        "dask_secrets.api-token: the name 'api-token' is refused",
        "names of environment variables",
    ),
    "name of a secret that Dask reads": (
        groups({"secrets": {"DASK_LOGGING": "hunter22"}}),
        "dask_worker_groups[0].secrets.DASK_LOGGING: the name DASK_LOGGING is refused",
        "another name",
    ),
    "secret that is no text": (
        {"dask_secrets": {"TOKEN": True}},
        "dask_secrets.TOKEN: a boolean is refused",
        "text (quote booleans)",
    ),
    "secrets that are no mapping": ({"dask_secrets": "TOKEN=hunter22"}, "dask_secrets: text is refused", "a mapping"),
    "secret that everybody reads": (
        groups({"secrets": {"TOKEN": "hunter22"}, "environment": {"TOKEN": "x"}}),
        "dask_worker_groups[0].secrets.TOKEN: the name TOKEN is refused, as environment variables have it too",
        "a name in one of both",
    ),
    "secret of the scheduler that everybody reads": (
        {"dask_secrets": {"TOKEN": "hunter22"}, "dask_scheduler_environment": {"TOKEN": "x"}},
        "dask_secrets.TOKEN: the name TOKEN is refused",
        "a name in one of both",
    ),
    "secret of the cluster that everybody reads": (
        {"dask_secrets": {"TOKEN": "hunter22"}, **groups({"environment": {"TOKEN": "x"}})},
        "dask_worker_groups[0].environment.TOKEN is refused, as dask_secrets has the name too",
        "a name in one of both",
    ),
    "group with secrets where a list of groups has to be": (
        {"dask_worker_groups": group(secrets={"TOKEN": "hunter22"})},
        "'secrets': {'TOKEN': '(secret)'}",
        "a list",
    ),
    "negative resource": (
        groups({"resources": {"GPU": -1}}),
        "dask_worker_groups[0].resources.GPU: -1 is refused",
        "isn't negative",
    ),
    "resource that is no number": (
        groups({"resources": {"GPU": "one"}}),
        "dask_worker_groups[0].resources.GPU: 'one' is refused",
        "{GPU: 1}",
    ),
    "name of a resource that Dask would split": (
        groups({"resources": {"GPU=1 CPU": 1}}),
        "dask_worker_groups[0].resources.GPU=1 CPU: 'GPU=1 CPU' is refused",
        "without spaces",
    ),
    "control characters in the name of a resource": (
        groups({"resources": {"G\x00PU": 1}}),
        r"'G\x00PU' is refused",
        "a resource name",
    ),
    "preload that would be an option": (
        groups({"preload": ["--jupyter"]}),
        "dask_worker_groups[0].preload[0]: '--jupyter' is refused",
        "a module such as package.module",
    ),
    "mapping where a list has to be": ({"dask_worker_groups": group()}, "dask_worker_groups: {", "a list"),
    "list where a mapping has to be": (
        {"dask_configuration": ["a"]},
        "dask_configuration: ['a'] is refused",
        "a mapping",
    ),
}


@pytest.mark.parametrize(("changes", "refusal", "allowed"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_the_variable_the_value_and_what_is_allowed(
    changes: dict[str, t.Any], refusal: str, allowed: str
) -> None:
    problems = refusals(settings(**changes))
    assert len(problems) == 1
    assert refusal in problems[0]
    assert allowed in problems[0].partition("Allowed: ")[2]
    assert "hunter22" not in problems[0]  # a secret


def test_all_problems_come_in_one_error() -> None:
    changes = [
        REFUSED[kind] for kind in ("unknown launcher", "unknown scope", "unknown memory unit", "port that is too high")
    ]
    values = settings()
    for change, _refusal, _allowed in changes:
        values.update(change)
    with pytest.raises(SettingsError) as caught:
        launch_plan(values)
    assert len(caught.value.problems) == len(changes)
    assert all(refusal in str(caught.value) for _change, refusal, _allowed in changes)


def test_a_host_without_workers_does_not_judge_the_groups() -> None:
    plan = launch_plan(settings(dask_runs_workers=False, dask_worker_groups="nonsense"))
    assert [process["kind"] for process in plan["processes"]] == ["scheduler"]


def test_without_groups_of_its_own_a_host_runs_one_worker_with_three_quarters_of_its_memory() -> None:
    worker = launch_plan(settings(dask_worker_groups=None))["processes"][-1]
    assert worker["name"] == "worker-cpu-0"
    assert worker["memory_limit"] == 48 * GIB


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["auto", "cpu", "1 GB", "/a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SETTINGS = (
    *("dask_cluster_name", "dask_launcher", "dask_scope", "dask_home", "dask_configuration"),
    *("dask_scheduler_port", "dask_scheduler_dashboard_port", "dask_scheduler_environment", "dask_scheduler_preload"),
    *("dask_scheduler_address", "dask_worker_groups", "dask_secrets"),
    *("dask_environment_name", "dask_environment_method", "dask_environment_path", "dask_environment_python"),
    *("dask_ca_bundle", "dask_environment_packages", "dask_environment_constraints", "dask_environment_file"),
    *("dask_environment_lock", "dask_environment_update"),
)
GROUP_KEYS = (
    "name",
    "processes",
    "threads",
    "memory",
    "ports",
    "resources",
    "environment",
    "secrets",
    "preload",
    "local_directory",
)
HOST_SETTINGS = ("address", "http_address")


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(SETTINGS, JSON)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(HOST_SETTINGS, JSON)),
)
@example({}, {"http_address": None})
@hypothesis_settings(max_examples=300)
def test_no_setting_whatever_its_value_breaks_the_plan(changes: dict[str, t.Any], known: dict[str, t.Any]) -> None:
    values = settings(**changes, dask_host=host(**known))
    with contextlib.suppress(SettingsError):
        launch_plan(values)


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(GROUP_KEYS, JSON)) | JSON, max_size=3))
@hypothesis_settings(max_examples=300)
def test_no_group_whatever_is_in_it_breaks_the_plan_nor_what_hosts_expect(entries: list[t.Any]) -> None:
    promised_workers({"alpha": entries})
    with contextlib.suppress(SettingsError):
        launch_plan(settings(dask_worker_groups=entries))
