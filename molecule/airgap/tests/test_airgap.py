# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Software gets to hosts that have no way out, from a lock, as generations that are complete or not there."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from pip._internal.models.index import PyPI
from testbed import REMOVE_ALL, Ansible, Deployment, Hosts, Run

ROOT = Path(__file__).resolve().parents[3]
LOCK = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "lock.yml")
SPECIFICATION = yaml.safe_load((ROOT / "molecule" / "airgap" / "environment.yml").read_text())
SOFTWARE = "/opt/dask/main"
ENVIRONMENTS = f"{SOFTWARE}/envs"
INSTALL, COMPLETE = "Make the conda environment", "Add the plugins and make the environment the current one"

COUNT = """
from distributed import Client
import toolz
with Client() as client:
    print(sum(client.gather(client.map(toolz.identity, range(10), pure=False))))
"""


@pytest.fixture(scope="session")
def environment_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Writes an environment.yml with other requirements; gives the variables for it, with a lock of its own."""

    def write(name: str, *dependencies: str) -> dict[str, str]:
        directory = tmp_path_factory.mktemp(name)
        path = directory / "environment.yml"
        channels = [str((ROOT / "build" / "conda-channel" / "current").resolve())]
        path.write_text(yaml.safe_dump({"channels": channels, "dependencies": list(dependencies)}))
        lock = directory / "lock.yml"
        if LOCK.exists():
            lock.write_text(LOCK.read_text())
        return {"dask_environment_file": str(path), "dask_environment_lock": str(lock)}

    return write


def of(run: Run, task: str, key: str, host: str = "worker1") -> Any:
    """One value of a task's result, of the task whose name contains some words."""
    (value,) = [results[host][key] for name, results in run.tasks if task in name]
    return value


def current(hosts: Hosts, name: str = "worker1") -> str:
    return str(hosts[name].check_output(f"readlink {ENVIRONMENTS}/current"))


def generations(hosts: Hosts, name: str = "worker1") -> set[str]:
    return set(hosts[name].check_output(f"ls -d {ENVIRONMENTS}/dask-*").split())


def programs(hosts: Hosts, name: str = "worker1") -> set[str]:
    """The environments that the cluster's processes run from."""
    lines = hosts[name].check_output("pgrep --full --list-full [d]istributed.cli").splitlines()
    return {line.split()[1].partition("/bin/")[0] for line in lines}


def explicit(path: Path, change: Mapping[str, str] | None = None) -> dict[str, str]:
    """Writes the scenario's lock as a list of addresses; gives the variables for it."""
    packages = yaml.safe_load(LOCK.read_text())["package"]
    hashes = {package["name"]: package["hash"]["sha256"] for package in packages} | dict(change or {})
    lines = [f"{package['url']}#sha256:{hashes[package['name']]}" for package in packages]
    path.write_text("\n".join(["@EXPLICIT", *lines]) + "\n")
    return {"dask_environment_file": "", "dask_environment_lock": str(path)}


def test_hosts_have_no_way_out(hosts: Hosts) -> None:
    with socket.create_connection((PyPI.netloc, 443), timeout=10) as reached:  # as the controller does
        address = reached.getpeername()[0]
    attempt = f"import socket; socket.create_connection(({address!r}, 443), timeout=5)"
    for name, host in hosts.group("all").items():
        assert host.run(f'python3 -c "{attempt}"').rc != 0, name
        assert host.run(f"timeout 3 getent hosts {PyPI.netloc}").rc != 0, name


def test_check_mode_says_which_packages_the_first_run_installs(first_runs: Deployment) -> None:
    packages = of(first_runs.applied, INSTALL, "packages")
    assert of(first_runs.predicted, INSTALL, "packages") == packages
    assert "toolz 1.1.0" in packages["added"]


def test_the_second_run_sends_nothing(first_runs: Deployment) -> None:
    assert all(of(first_runs.again, task, "sent") == [] for task in (INSTALL, COMPLETE))


def test_a_job_runs_and_the_environment_is_one_of_conda(ansible: Ansible, hosts: Hosts) -> None:
    result = ansible.module("scheduler", "flotilla.dask.dask_job", name="count", script="count.py", content=COUNT)
    assert result["scheduler"]["job"]["output"].strip() == "45", result
    records = hosts["worker1"].check_output(f"ls {ENVIRONMENTS}/current/conda-meta").split()
    assert [record for record in records if record.startswith("toolz-1.1.0-")]


def test_changed_requirements_make_a_new_generation_and_the_old_one_needs_nothing(
    ansible: Ansible, hosts: Hosts, environment_file: Callable[..., dict[str, str]]
) -> None:
    before = current(hosts)
    others = [each for each in SPECIFICATION["dependencies"] if not each.startswith(("toolz", "prometheus"))]
    variables = environment_file("changed", *others, "prometheus-client", "toolz >=1.2", "cryptography")
    predicted = ansible.playbook("flotilla.dask.site", "--check", "--diff", extra_vars=variables)
    applied = ansible.playbook("flotilla.dask.site", extra_vars=variables)
    assert applied.ok, applied.problems
    assert predicted.changed == applied.changed
    packages = of(predicted, INSTALL, "packages")
    assert packages == of(applied, INSTALL, "packages")
    assert packages["changed"] == ["toolz 1.1.0 -> 1.2.0"]
    assert "cryptography 50.0.2" in packages["added"]
    # Only what the host lacked has travelled.
    assert not [file for file in of(applied, INSTALL, "sent") if file.startswith(("numpy", "python-"))]
    assert current(hosts) != before
    assert programs(hosts) == {current(hosts)}

    back = ansible.playbook("flotilla.dask.site")
    assert back.ok, back.problems
    assert all(of(back, task, "sent") == [] for task in (INSTALL, COMPLETE))
    assert not [name for name in back.changed if INSTALL in name]
    assert (current(hosts), programs(hosts)) == (before, {before})


def test_an_interrupted_install_never_becomes_current_and_the_next_run_converges(
    ansible: Ansible, hosts: Hosts, environment_file: Callable[..., dict[str, str]]
) -> None:
    before, known = current(hosts), generations(hosts)
    variables = environment_file("interrupted", *SPECIFICATION["dependencies"], "cryptography")
    hosts["worker1"].check_output(f"rm -r {SOFTWARE}/cache/conda")  # so that there is something to do for a while
    with ThreadPoolExecutor() as pool:
        killing = pool.submit(hosts["worker1"].run, f"timeout 120 bash -c '{killer(known)}'")
        controller = ansible.start("flotilla.dask.site", "--limit=worker1", extra_vars=variables)
        try:
            assert killing.result().rc == 0
        finally:
            os.killpg(controller.pid, signal.SIGKILL)
            controller.wait()
    (unfinished,) = generations(hosts) - known
    assert not hosts["worker1"].file(f"{unfinished}/packages.json").exists
    assert current(hosts) == before
    again = ansible.playbook("flotilla.dask.site", extra_vars=variables)
    assert again.ok, again.problems
    assert current(hosts) == unfinished
    assert programs(hosts) == {unfinished}


def killer(known: set[str]) -> str:
    """Waits on a host until packages are linked into a new generation, and ends whoever does it."""
    old = " ".join(f"-e {Path(path).name}" for path in known)
    found = f"ls -d {ENVIRONMENTS}/dask-*/conda-meta 2>/dev/null | grep -v {old} | grep -q ."
    return f"until {found}; do sleep 0.02; done; fuser --kill -KILL {SOFTWARE}/cache/.lock"


def test_an_explicit_lock_of_the_same_packages_is_the_same_environment(ansible: Ansible, tmp_path: Path) -> None:
    ansible.playbook("flotilla.dask.site")
    run = ansible.playbook("flotilla.dask.site", extra_vars=explicit(tmp_path / "explicit.txt"))
    assert (run.ok, run.changed) == (True, {}), run.problems


def test_a_package_that_is_not_the_locked_one_is_refused(ansible: Ansible, hosts: Hosts, tmp_path: Path) -> None:
    before = current(hosts)
    run = ansible.playbook("flotilla.dask.site", extra_vars=explicit(tmp_path / "wrong.txt", {"toolz": "0" * 64}))
    assert not run.ok
    assert "toolz-1.1.0-py_0.conda is refused: its sha256 is" in run.problems
    assert "damaged or replaced" in run.problems
    assert current(hosts) == before


def test_old_generations_are_removed_beyond_the_number(
    ansible: Ansible, hosts: Hosts, environment_file: Callable[..., dict[str, str]]
) -> None:
    variables = {**environment_file("kept", *SPECIFICATION["dependencies"], "pycparser"), "dask_environment_keep": 2}
    before = current(hosts)
    predicted = ansible.playbook("flotilla.dask.site", "--check", extra_vars=variables)
    applied = ansible.playbook("flotilla.dask.site", extra_vars=variables)
    assert applied.ok, applied.problems
    assert of(applied, COMPLETE, "removed") == of(predicted, COMPLETE, "removed") != []
    assert generations(hosts) == {before, current(hosts)}
    again = ansible.playbook("flotilla.dask.site", extra_vars=variables)
    assert (again.ok, again.changed) == (True, {}), again.problems


@pytest.fixture
def own_cluster(ansible: Ansible) -> Iterator[dict[str, object]]:
    """The variables of a second cluster, of an ordinary user, in a virtual environment."""
    variables: dict[str, object] = {
        "ansible_become": False,
        "dask_scope": "user",
        "dask_cluster_name": "second",
        "dask_environment_method": "venv",
        "dask_environment_lock": "",  # beside the inventory, as the other cluster has one of conda
        "dask_scheduler_port": 18786,
        "dask_scheduler_dashboard_port": 18787,
        "dask_worker_groups": [
            {"name": "own", "memory": "512 MiB", "ports": {"worker": 9500, "nanny": 9600, "dashboard": 9700}}
        ],
    }
    yield variables
    removed = ansible.playbook("flotilla.dask.teardown", extra_vars={**variables, **REMOVE_ALL})
    assert removed.ok, removed.problems


def test_virtual_environments_and_supervisor_come_from_the_controller_too(
    ansible: Ansible, hosts: Hosts, own_cluster: dict[str, object]
) -> None:
    predicted = ansible.playbook("flotilla.dask.site", "--check", extra_vars=own_cluster)
    applied = ansible.playbook("flotilla.dask.site", extra_vars=own_cluster)
    assert applied.ok, applied.problems
    assert predicted.changed == applied.changed
    again = ansible.playbook("flotilla.dask.site", extra_vars=own_cluster)
    assert (again.ok, again.changed) == (True, {}), again.problems
    assert hosts["worker1"].check_output("pgrep --full --list-full --euid operator dask_worker").count("worker1-own-0")
