# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of all scenarios work with: the hosts, and Ansible run on them as a user runs it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import testinfra
from ansible_server import AnsibleServer
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

Result = dict[str, Any]

JOBS = "/var/lib/dask/main/jobs"
"""The directory of the jobs of cluster main."""

REACHED_AT = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
"""What Docker is asked for to get the address of a container."""


class Hosts:
    """The scenario's hosts, over SSH, with root's rights: `hosts["worker1"]`, `hosts.group("dask_workers")`."""

    def __init__(self, inventory: str) -> None:
        self._inventory = inventory
        self._runner = AnsibleRunner(inventory)

    def __getitem__(self, name: str) -> Host:
        return testinfra.get_host(f"ansible://{name}?ansible_inventory={self._inventory}")

    def address(self, name: str) -> str:
        """The address at which we reach a host."""
        return str(self._runner.get_variables(name)["ansible_host"])

    def group(self, pattern: str) -> dict[str, Host]:
        return {name: self[name] for name in self._runner.get_hosts(pattern)}


@dataclass(frozen=True)
class Run:
    """What a run of Ansible did.

    `stats` are the numbers of its recap by host, `tasks` the results of its tasks in order, each by host.
    """

    returncode: int
    stats: dict[str, dict[str, int]] = field(repr=False)
    tasks: list[tuple[str, dict[str, Result]]] = field(repr=False)
    output: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def changed(self) -> dict[str, list[str]]:
        """The hosts on which a task changed something, by the task's name."""
        return self._having("changed")

    @property
    def failed(self) -> dict[str, list[str]]:
        """The hosts on which a task failed or that it could not reach, by the task's name."""
        return self._having("failed", "unreachable")

    @property
    def problems(self) -> str:
        """What went wrong, in Ansible's words, for the message of an assertion."""
        words = [
            f"{name}, {host}: {result.get('msg', result)}"
            for name, results in self.tasks
            for host, result in results.items()
            if result.get("failed") or result.get("unreachable")
        ]
        return "\n".join(words) or self.output

    @property
    def roles(self) -> set[str]:
        """The roles that changed something, without the collection's name."""
        return {task.partition(" : ")[0].removeprefix("flotilla.dask.") for task in self.changed}

    def _having(self, *keys: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, results in self.tasks:
            for host, result in results.items():
                if any(result.get(key) for key in keys):
                    found.setdefault(name, []).append(host)
        return {name: sorted(hosts) for name, hosts in found.items()}


class Ansible:
    """Ansible's own commands, run on the scenario's inventory; each forked from a process that has imported Ansible."""

    def __init__(self, inventory: Path) -> None:
        self._inventory = inventory

    def module(self, hosts: str, module: str, *options: str, **args: object) -> dict[str, Result]:
        """The results of one module by host, failed ones too; options are those of the command, as `--check`."""
        arguments = ["--args", json.dumps(args)] if args else []
        run = self._run("ansible", hosts, "--module-name", module, *arguments, *options)
        assert run.tasks, run.output
        return run.tasks[-1][1]

    def playbook(self, playbook: str, *options: str, extra_vars: Mapping[str, object] | None = None) -> Run:
        """Runs a playbook: of the collection (`flotilla.dask.site`) or a file."""
        return self._run("ansible-playbook", playbook, "--extra-vars", json.dumps(extra_vars or {}), *options)

    def verbose_playbook(self, playbook: str) -> str:
        """Runs a playbook that succeeds, and returns all that Ansible can be brought to say of it."""
        command = ("ansible-playbook", playbook, "--diff", "-vvvvv", "--inventory", str(self._inventory))
        with noted(*command):
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout + done.stderr

    def start(self, playbook: str, *options: str, extra_vars: Mapping[str, object]) -> subprocess.Popen[bytes]:
        """Starts a playbook as a process group of its own, for a test that ends it."""
        command = ["ansible-playbook", playbook, "--extra-vars", json.dumps(extra_vars), *options]
        return subprocess.Popen(
            [*command, "--inventory", str(self._inventory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _run(self, *command: str) -> Run:
        with noted(*command):
            done = self._server.run(*command, "--inventory", str(self._inventory))
        start = done.stdout.find("{")  # what comes before are notices
        report = json.loads(done.stdout[start:]) if start >= 0 else {"plays": [], "stats": {}}
        tasks = [(task["task"]["name"], task["hosts"]) for play in report["plays"] for task in play["tasks"]]
        return Run(done.returncode, report["stats"], tasks, done.stdout + done.stderr)

    @functools.cached_property
    def _server(self) -> AnsibleServer:
        callback = {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true"}
        return AnsibleServer(callback)


@contextlib.contextmanager
def noted(*command: str) -> Iterator[None]:
    """Writes down how long a playbook runs inside, for tests/run."""
    started = time.monotonic()
    yield
    if command[0] == "ansible-playbook" and "FLOTILLA_PLAYBOOKS" in os.environ:
        with open(os.environ["FLOTILLA_PLAYBOOKS"], "a") as times:
            times.write(f"{time.monotonic() - started:.1f} {command[1]}\n")


SECRET = "tell-nobody-4711"
"""What all scenarios have in dask_secrets; see .config/molecule/config.yml."""

# All that clusters leave on a host. No line has a word as it is that the search for processes would find this one by.
TRACES = """
ls -d /shared/dask
ls -d /etc/dask* /etc/prometheus/dask /etc/systemd/system/nginx.service /opt/dask* /run/dask* /var/lib/dask*
find /etc/systemd -name '*dask*'
getent passwd dask dask"-proxy"
pgrep --full --list-full '[d]istributed|[r]unner.py|[d]ask-proxy'
nft list tables | grep dask
docker ps --all --quiet
docker images --quiet flotilla-dask
docker volume ls --quiet
docker network ls --quiet --filter driver=overlay
docker info --format '{{.Swarm.LocalNodeState}}' | grep --invert-match inactive
ss --no-header --listening --tcp 'sport = :7946'
"""


def traces(hosts: Hosts) -> dict[str, str]:
    """What is left on the hosts that have something of a cluster left."""
    found = {name: host.run(TRACES).stdout for name, host in hosts.group("all").items()}
    return {name: left for name, left in found.items() if left}


REMOVE_ALL = {"dask_remove": "all"}


def tear_down(ansible: Ansible, hosts: Hosts) -> None:
    """Removes the cluster with all that it has: nothing of it is left, and a second run has nothing to do."""
    removed = ansible.playbook("flotilla.dask.teardown", extra_vars=REMOVE_ALL)
    assert removed.ok, removed.problems
    left = traces(hosts)
    assert left == {}, f"{left}; the run: {removed.tasks[-3:]}"
    again = ansible.playbook("flotilla.dask.teardown", extra_vars=REMOVE_ALL)
    assert (again.ok, again.changed) == (True, {}), again.problems


class Deployment:
    """The first runs of a playbook, on hosts that nothing has touched: in check mode, for real, and again."""

    def __init__(self, ansible: Ansible, hosts: Hosts, directory: Path, playbook: str) -> None:
        before = set(directory.rglob("*"))
        self.predicted = ansible.playbook(playbook, "--check", "--diff")
        self.made_in_check_mode = [*traces(hosts).items(), *(set(directory.rglob("*")) - before)]
        self.applied = ansible.playbook(playbook, "--diff")
        assert self.applied.ok, self.applied.problems
        self.again = ansible.playbook(playbook)


# Has results on the workers, and fetches them when it is released by a file in its working directory.
HELD_SUM = """
import os
import time
from distributed import Client, wait

with Client() as client:
    numbers = client.map(int, range(200), pure=False)
    wait(numbers)
    while not os.path.exists("release"):
        time.sleep(0.1)
    print(sum(client.gather(numbers)))
"""
HELD_SUM_OUTPUT = str(sum(range(200)))


class Cluster:
    """The cluster `main`, as the collection's modules on its scheduler's host tell and change it."""

    def __init__(self, ansible: Ansible, hosts: Hosts) -> None:
        self._ansible = ansible
        self._hosts = hosts
        [self._scheduler] = hosts.group("dask_scheduler")

    def state(self, **options: Any) -> Result:
        """What dask_cluster_info tells; with `wait` the cluster has to become healthy in that many seconds."""
        result = self._on_scheduler("dask_cluster_info", **options)
        assert not result.get("failed"), result["msg"]
        state: Result = result["cluster"]
        return state

    def job(self, name: str, **options: Any) -> Result:
        return self._on_scheduler("dask_job", name=name, **options)

    def hold_job(self, name: str) -> None:
        """Starts a job, and returns when its results are on the workers, where it leaves them until it is released."""
        assert self.job(name, script="sum.py", content=HELD_SUM, state="submitted")["changed"]

        def has_tasks_done() -> bool:
            return bool(self._on_scheduler("dask_job_info", name=name)["jobs"][0]["progress"]["done"])

        wait_until(has_tasks_done, "the job has tasks done")

    def release_job(self, name: str) -> Result:
        """Lets a held job go on, waits for its end, and returns its record."""
        self._hosts[self._scheduler].check_output(f"touch {PurePosixPath(JOBS, name, 'work', 'release')}")
        result = self.job(name, script="sum.py", content=HELD_SUM)
        assert not result.get("failed"), result["msg"]
        assert not result["changed"]
        record: Result = result["job"]
        return record

    def _on_scheduler(self, module: str, **options: Any) -> Result:
        """The result of one of the collection's modules on the scheduler's host."""
        return self._ansible.module(self._scheduler, f"flotilla.dask.{module}", **options)[self._scheduler]

    def main_pid(self, host: str, process: str) -> int:
        return int(self._hosts[host].check_output(f"systemctl show --property=MainPID --value dask-main-{process}"))


class Machines:
    """The containers that the hosts are, and what happens to machines."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._addresses = {name: hosts.address(name) for name in hosts.group("all")}
        containers = self._docker("ps", "--quiet", "--filter", "label=flotilla-dask").split()
        shape = REACHED_AT + " {{.Id}} {{.Config.Image}}"
        found = [line.split() for line in self._docker("inspect", "--format", shape, *containers).splitlines()]
        self._containers = {address: container for address, container, _image in found}
        self._image = found[0][2]

    def stop(self, name: str) -> None:
        """Shuts a host down as its operator does, and waits until it is off."""
        self._docker("exec", self._container(name), "systemctl", "--no-block", "poweroff")
        self._docker("wait", self._container(name))

    def kill(self, name: str) -> None:
        """Takes a host's power away."""
        self._docker("kill", self._container(name))

    def start(self, name: str) -> None:
        """Switches a host on again, and waits until it lets us in; it keeps its address."""
        self._docker("start", self._container(name))
        wait_until(lambda: self._lets_in(name), f"{name} lets us in")
        assert self._address_of(self._container(name)) == self._addresses[name]

    def _lets_in(self, name: str) -> bool:
        with contextlib.suppress(RuntimeError):  # of testinfra, where SSH gets no connection
            return bool(self._hosts[name].run("systemctl is-system-running --wait").succeeded)
        return False

    @contextlib.contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Inside, nothing from one host reaches the others; only we do."""
        others = [address for other, address in self._addresses.items() if other != name]
        self._routes(name, "add", others)
        try:
            yield
        finally:
            self._routes(name, "del", others)

    def _routes(self, name: str, change: str, addresses: list[str]) -> None:
        commands = "; ".join(f"ip route {change} blackhole {address}/32" for address in addresses)
        network = f"container:{self._container(name)}"
        words = ("--rm", "--cap-add", "NET_ADMIN", "--network", network, self._image)
        self._docker("run", *words, "sh", "-e", "-c", commands)

    def _container(self, name: str) -> str:
        return self._containers[self._addresses[name]]

    def _address_of(self, container: str) -> str:
        return self._docker("inspect", "--format", REACHED_AT, container).strip()

    def _docker(self, *words: str) -> str:
        return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


# Puts data on the worker that its argument names; prints as JSON where it is, and again when a file releases it.
SCATTER = """
import json
import os
import sys
import time
from distributed import Client

with Client() as client:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    (here,) = [address for address, worker in workers.items() if worker["name"] == sys.argv[1]]
    data = client.scatter(os.urandom(5_000_000), workers=[here], direct=True)
    print(json.dumps({"here": here, "on": [list(where) for where in client.who_has().values()]}))
    with open("scattered", "w"):
        pass
    while not os.path.exists("release"):
        time.sleep(0.1)
    print(json.dumps({"on": [list(where) for where in client.who_has().values()], "bytes": len(data.result())}))
"""


class Scattered:
    """5 MB on one worker, held by a job on the scheduler's host until they are released.

    `jobs` is the directory of jobs there, `flags` and `options` say whose cluster it is. The job goes with the context.
    """

    def __init__(
        self,
        ansible: Ansible,
        host: Host,
        worker: str,
        jobs: str = JOBS,
        flags: tuple[str, ...] = (),
        **options: object,
    ) -> None:
        self._ansible, self._host, self._flags = ansible, host, flags
        self._options = {"name": f"scattered-to-{worker}", **options}
        self._work = PurePosixPath(jobs, str(self._options["name"]), "work")
        self._job(state="submitted", **self._script(worker))
        self._worker = worker
        wait_until(lambda: bool(host.file(f"{self._work}/scattered").exists), "the data is on the worker")

    def release(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the job saw: `here`, the worker's address, `on`, where the data is; and that again, with its `bytes`."""
        self._host.check_output(f"touch {self._work}/release")
        lines = self._job(**self._script(self._worker))["job"]["output"].splitlines()
        before, after = (json.loads(line) for line in lines if line.startswith("{"))
        assert before["on"] == [[before["here"]]]
        return before, after

    def __enter__(self) -> Scattered:
        return self

    def __exit__(self, *_details: object) -> None:
        self._job(state="absent")

    @staticmethod
    def _script(worker: str) -> dict[str, object]:
        return {"script": "scatter.py", "content": SCATTER, "arguments": [worker]}

    def _job(self, **options: object) -> Result:
        arguments = {**self._options, **options}
        (result,) = self._ansible.module("scheduler", "flotilla.dask.dask_job", *self._flags, **arguments).values()
        assert not result.get("failed"), result["msg"]
        return result


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 300) -> None:
    """Waits for a condition, and fails in words if it does not come true within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout:g} s until {what}, in vain"
        time.sleep(0.2)
