# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The launcher Supervisor against a real supervisord, with the role's own templates and programs that only sleep."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import this_account
from ansible_collections.flotilla.dask.plugins.module_utils._files import write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import Plan, Wanted, plan, plan_stop, run, stamped
from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import layout
from ansible_collections.flotilla.dask.plugins.module_utils.launchers import supervisor
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.supervisor import Supervisor

SECONDS = 20.0
GREETING = "50% #1 ; é"
ENVIRONMENT = {"GREETING": GREETING, "FLOTILLA_ENVIRONMENT": "dask-1"}


class Daemon:
    """A cluster's supervisord, and what the module dask_processes does with it."""

    def __init__(self, directory: Path, render: t.Callable[..., str]) -> None:
        self.render = render
        self.plan: dict[str, t.Any] = {
            "cluster": "main",
            "scope": "user",
            "user": "",
            "directories": layout("main", "user", str(directory), "").as_dict(),
        }
        self.directories = self.plan["directories"]
        for name in ("configuration", "state", "bootstrap"):
            os.makedirs(self.directories[name])
        os.symlink(os.path.join(sys.prefix, "bin"), os.path.join(self.directories["bootstrap"], "bin"))
        self.pid_file = Path(self.directories["state"], "supervisord.pid")

    def launcher(self, kind: str) -> Supervisor:
        configuration = self.render("supervisord.conf.j2", dask_common_plan=self.plan)
        return Supervisor(self.directories, kind, this_account(), configuration)

    def ensure(self, kind: str, programs: t.Mapping[str, t.Sequence[str]]) -> Plan:
        """Makes ``programs`` run, each a name and its command line, and returns what that took."""
        launcher = self.launcher(kind)
        wanted = self.wanted(programs)
        observed = launcher.observe()
        steps = plan(wanted, observed, restart_all=launcher.outdated())
        if steps:
            launcher.apply(steps)
        return steps

    def wanted(self, programs: t.Mapping[str, t.Sequence[str]]) -> list[Wanted]:
        return [
            Wanted(
                name, stamped(self.render("supervisor.program.conf.j2", dask_common_plan=self.plan, process=process))
            )
            for name, process in (
                (name, {"name": name, "argv": argv, "environment": ENVIRONMENT, "stop_seconds": 20})
                for name, argv in programs.items()
            )
        ]

    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def programs(self, *names: str) -> dict[str, int]:
        """The processes of the programs, once exactly those called ``names`` run."""
        found: dict[str, int] = {}

        def look() -> bool:
            found.clear()
            for pid in Path("/proc/{0}/task/{0}/children".format(self.pid())).read_text().split():
                if name := environment(int(pid)).get("SUPERVISOR_PROCESS_NAME"):
                    found[name] = int(pid)
            return sorted(found) == sorted(names)

        wait_for(look, SECONDS, "the programs {0}".format(names))
        return found


def environment(pid: int) -> dict[str, str]:
    variables = Path("/proc/{0}/environ".format(pid)).read_text().split("\0")
    return dict(each.split("=", 1) for each in variables if each)


def lives(pid: int) -> bool:
    return os.path.exists("/proc/{0}".format(pid))


@pytest.fixture
def daemon(tmp_path: Path, render_role_template: t.Callable[..., str]) -> t.Iterator[Daemon]:
    it = Daemon(tmp_path, render_role_template)
    yield it
    for kind in ("worker", "scheduler"):
        it.ensure(kind, {})
    # Nothing that a test started may outlive it, however it ended.
    assert not it.pid_file.exists()


def test_processes_are_added_changed_and_removed_and_the_others_are_left_alone(daemon: Daemon) -> None:
    daemon.ensure("scheduler", {"scheduler": ["sleep", "100"]})
    daemon.ensure("worker", {"worker-0": ["sleep", "100"], "worker-1": ["sleep", "100"]})
    before = daemon.programs("scheduler", "worker-0", "worker-1")

    changed = {"worker-1": ["sleep", "200"], "worker-2": ["sleep", "100"]}
    steps = daemon.ensure("worker", changed)

    after = daemon.programs("scheduler", "worker-1", "worker-2")
    assert (steps.restart, steps.start, steps.remove) == (("worker-1",), ("worker-2",), ("worker-0",))
    assert after["scheduler"] == before["scheduler"]
    assert after["worker-1"] != before["worker-1"]
    assert not lives(before["worker-0"])
    assert not daemon.ensure("worker", changed)

    pids = [daemon.pid(), *after.values()]
    daemon.ensure("worker", {})
    daemon.programs("scheduler")
    daemon.ensure("scheduler", {})
    assert not any(map(lives, pids))
    assert not os.listdir(os.path.join(daemon.directories["configuration"], "supervisor.d"))


def test_a_process_gets_the_command_line_and_the_variables_of_its_plan(daemon: Daemon) -> None:
    words = ["a b", "it's", "50%", "#1", ";", "$HOME", "%(here)s", ""]
    daemon.ensure("worker", {"worker-0": [sys.executable, "-c", "import time; time.sleep(100)", *words]})
    pid = daemon.programs("worker-0")["worker-0"]
    process = Path("/proc", str(pid))
    wait_for(lambda: sys.executable in (process / "cmdline").read_text(), SECONDS, "env to hand over")
    assert (process / "cmdline").read_text().split("\0")[-len(words) - 1 : -1] == words
    assert environment(pid)["GREETING"] == GREETING
    assert (process / "cwd").resolve() == Path(daemon.directories["state"]).resolve()


def test_programs_come_back_when_they_end_when_they_were_stopped_and_when_the_daemon_was_killed(
    daemon: Daemon, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    ends_at_first = "echo run >>{0}; test $(wc -l <{0}) -lt 2 || exec sleep 100".format(shlex.quote(str(count)))
    programs = {"worker-0": ["sh", "-c", ends_at_first], "worker-1": ["sleep", "100"]}
    daemon.ensure("worker", programs)
    wait_for(lambda: count.exists() and len(count.read_text().splitlines()) == 2, SECONDS, "the program to run twice")

    launcher = daemon.launcher("worker")
    run([os.path.join(launcher.commands, "supervisorctl"), "-c", launcher.configuration, "stop", "worker-0"])
    assert daemon.ensure("worker", programs) == Plan(start=("worker-0",))

    orphans = daemon.programs(*programs)
    killed = daemon.pid()
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: not lives(killed), SECONDS, "the daemon to die")
    for pid in orphans.values():
        os.kill(pid, signal.SIGKILL)
    assert daemon.ensure("worker", programs) == Plan(start=("worker-0", "worker-1"))
    daemon.programs(*programs)


def test_programs_that_are_stopped_take_their_time_together_and_stay_defined(daemon: Daemon, tmp_path: Path) -> None:
    # As a nanny and its worker: the first process alone gets the signal, and ends the other one when it is ready. Each
    # is ready once both have begun to stop.
    drain = (
        "trap 'touch {0}/$0.stops; until test $(ls {0} | grep -c stops) = 2; do sleep 0.05; done; kill $child' TERM;"
        "sleep 100 & child=$!; wait; wait; touch {0}/$0.ended"
    ).format(shlex.quote(str(tmp_path)))
    programs = {name: ["sh", "-c", drain, name] for name in ("worker-0", "worker-1")}
    daemon.ensure("scheduler", {"scheduler": ["sleep", "100"]})
    daemon.ensure("worker", programs)
    before = daemon.programs("scheduler", *programs)

    launcher = daemon.launcher("worker")
    steps = plan_stop(launcher.observe())
    assert steps == Plan(stop=("worker-0", "worker-1"))
    launcher.apply(steps)
    assert sorted(path.stem for path in tmp_path.glob("*.ended")) == ["worker-0", "worker-1"]
    assert daemon.programs("scheduler")["scheduler"] == before["scheduler"]
    assert not plan_stop(launcher.observe())
    assert daemon.ensure("worker", programs) == Plan(start=("worker-0", "worker-1"))
    daemon.programs("scheduler", *programs)


def test_a_program_that_somebody_is_stopping_already_is_waited_for(daemon: Daemon, tmp_path: Path) -> None:
    drain = (
        "trap 'touch {0}/stops; until test -e {0}/go; do sleep 0.05; done; touch {0}/ended; exit' TERM;sleep 100 & wait"
    )
    programs = {"worker-0": ["sh", "-c", drain.format(shlex.quote(str(tmp_path)))]}
    daemon.ensure("worker", programs)
    daemon.programs("worker-0")
    launcher = daemon.launcher("worker")
    command = [os.path.join(launcher.commands, "supervisorctl"), "-c", launcher.configuration, "stop", "worker-0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL), ThreadPoolExecutor() as pool:
        wait_for((tmp_path / "stops").exists, SECONDS, "the program to be stopping")
        steps = plan_stop(launcher.observe())
        assert steps == Plan(stop=("worker-0",))
        stopped = pool.submit(launcher.apply, steps)
        (tmp_path / "go").touch()
        stopped.result()
    assert (tmp_path / "ended").exists()
    assert daemon.ensure("worker", programs) == Plan(start=("worker-0",))
    daemon.programs("worker-0")


class Killed(BaseException):
    """The run ends here, without a chance to tidy up."""


class Fuse:
    """Lets a launcher change that many files and give that many commands, and kills its run then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, actions: int) -> None:
        self.left: int | None = actions
        monkeypatch.setattr(supervisor, "run", self.before(run))
        monkeypatch.setattr(supervisor, "write_text", self.before(write_text))
        monkeypatch.setattr(supervisor, "os", self)
        self.unlink = self.before(os.unlink)

    def __getattr__(self, name: str) -> t.Any:
        return getattr(os, name)

    def before(self, change: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
        def call(*arguments: t.Any, **options: t.Any) -> t.Any:
            if self.left is not None and "status" not in arguments[0]:
                self.left -= 1
                if self.left < 0:
                    raise Killed
            return change(*arguments, **options)

        return call


@pytest.mark.parametrize("actions", [4, 5], ids=["files are written", "and removed"])
def test_the_run_after_one_that_was_killed_before_the_daemon_was_told_ends_where_that_would_have(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, actions: int
) -> None:
    daemon.ensure("worker", {"worker-0": ["sleep", "1000"], "worker-1": ["sleep", "1000"]})
    old = daemon.programs("worker-0", "worker-1")
    after = {"worker-1": ["sleep", "2000"], "worker-2": ["sleep", "1000"]}
    fuse = Fuse(monkeypatch, actions)
    with pytest.raises(Killed):
        daemon.ensure("worker", after)
    fuse.left = None
    daemon.ensure("worker", after)
    new = daemon.programs(*after)
    assert new["worker-1"] != old["worker-1"]
    assert Path("/proc", str(new["worker-1"]), "cmdline").read_text().split("\0")[-2] == "2000"
    assert not daemon.ensure("worker", after)


@pytest.mark.parametrize("actions", [1, 2], ids=["programs are stopped", "the daemon is told to stop"])
def test_a_removal_that_was_killed_is_completed_by_the_next_run(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, actions: int
) -> None:
    daemon.ensure("worker", {"worker-0": ["sleep", "1000"]})
    pid = daemon.pid()
    fuse = Fuse(monkeypatch, actions)
    with pytest.raises(Killed):
        daemon.ensure("worker", {})
    fuse.left = None
    assert daemon.ensure("worker", {}).remove == ("worker-0",)
    wait_for(lambda: not lives(pid), SECONDS, "the daemon to be gone")
    assert not daemon.ensure("worker", {})


def test_a_process_restarts_that_the_daemon_started_with_an_older_definition_than_the_one_on_disk(
    daemon: Daemon,
) -> None:
    daemon.ensure("worker", {"worker-0": ["sleep", "1000"], "worker-1": ["sleep", "1000"]})
    old = daemon.programs("worker-0", "worker-1")
    programs = {"worker-0": ["sleep", "2000"], "worker-1": ["sleep", "1000"]}
    Path(daemon.launcher("worker").programs, "worker-0.conf").write_text(daemon.wanted(programs)[0].definition)
    assert daemon.ensure("worker", programs).restart == ("worker-0",)
    assert daemon.programs("worker-0", "worker-1")["worker-1"] == old["worker-1"]
    assert not daemon.ensure("worker", programs)


def test_a_program_that_fails_with_an_older_definition_gets_the_one_on_disk(daemon: Daemon) -> None:
    daemon.ensure("worker", {"worker-0": ["false"]})
    launcher = daemon.launcher("worker")
    wait_for(lambda: (launcher._running() or {}).get("worker-0") == "BACKOFF", SECONDS, "the program to fail")
    path = Path(launcher.programs, "worker-0.conf")
    mended = {"worker-0": ["sleep", "100"]}
    text = daemon.wanted(mended)[0].definition
    path.write_text(text)
    assert daemon.ensure("worker", mended).restart == ("worker-0",)
    daemon.programs("worker-0")


def test_a_new_configuration_restarts_the_daemon_and_all_of_its_programs(daemon: Daemon) -> None:
    programs = {"worker-0": ["sleep", "100"]}
    daemon.ensure("worker", programs)
    before = [daemon.pid(), *daemon.programs("worker-0").values()]
    daemon.plan["cluster"] = "renamed"
    assert daemon.ensure("worker", programs).restart == ("worker-0",)
    assert daemon.pid() != before[0]
    daemon.programs("worker-0")
    assert not any(map(lives, before))
