# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The launcher Systemd, which may be interrupted anywhere, against a stand-in for systemctl.

systemd itself is process 1 of the hosts of molecule; the stand-in's words for units are those of its real output.
"""

from __future__ import annotations

import contextlib
import os
import typing as t
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils import _files, _service
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._service import Observed, Plan, Wanted, plan, plan_stop
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan
from ansible_collections.flotilla.dask.plugins.module_utils.launchers import systemd
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.systemd import Systemd
from ansible_collections.flotilla.dask.tests.unit import samples

FOREIGN = "dask-main-scheduler.service"
NAMES = ("worker-cpu-0", "worker-cpu-1", "worker-gpu-0")
ONE_FIXTURE = [HealthCheck.function_scoped_fixture]
"""What it makes is made anew for every example."""
PROCESSES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["sleep 1", "sleep 2"]), max_size=3)


class Killed(BaseException):
    """The run ends here, without a chance to tidy up."""


class Host:
    """The units of a host: ``loaded``, ``runs`` and ``enabled`` are what systemd knows, whatever the files say by now.

    :param deadly: After how many actions the run that acts is killed; None for never.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loaded: dict[str, str] = {FOREIGN: "scheduler"}
        self.runs: dict[str, str] = {FOREIGN: "scheduler"}
        self.enabled: set[str] = {FOREIGN}
        self.failed: set[str] = set()
        self.actions = 0
        self.deadly: int | None = None

    def act(self) -> None:
        if self.actions == self.deadly:
            raise Killed
        self.actions += 1

    def on_disk(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.directory.iterdir() if not path.name.startswith(".")}

    def state(self) -> tuple[dict[str, str], dict[str, str], dict[str, str], set[str]]:
        return self.on_disk(), self.loaded, self.runs, self.enabled

    def run(self, argv: list[str], accept: t.Container[int] = (0,), **_options: object) -> str:
        command, words = argv[1], [word for word in argv[2:] if not word.startswith("--")]
        if command == "show":
            return self.show(words)
        statuses = {0}
        for unit in words or [""]:
            # systemctl is killed as well, while it goes through its units.
            self.act()
            statuses.add(getattr(self, command.replace("-", "_"))(unit))
        if not statuses <= set(t.cast("t.Iterable[int]", accept)):
            raise DaskError("{0}: {1}".format(argv, statuses))
        return ""

    def show(self, words: list[str]) -> str:
        patterns = [word.partition("*")[0] for word in words if "*" in word]
        units = [word for word in words if "*" not in word]
        units += [unit for unit in self.loaded if any(map(unit.startswith, patterns))]
        return "\n".join(map(self.block, units))

    def block(self, unit: str) -> str:
        file = self.on_disk().get(unit)
        lines = {
            "Id": unit,
            "ActiveState": "active" if unit in self.runs else "failed" if unit in self.failed else "inactive",
            "UnitFileState": "" if file is None else "enabled" if unit in self.enabled else "disabled",
            "NeedDaemonReload": "yes" if unit in self.loaded and self.loaded[unit] != file else "no",
            "MainPID": str(list(self.runs).index(unit) + 1) if unit in self.runs else "0",
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    def start(self, unit: str) -> int:
        self.loaded.setdefault(unit, self.on_disk()[unit])
        self.runs.setdefault(unit, self.loaded[unit])
        return 0

    def stop(self, unit: str) -> int:
        if unit not in self.loaded and unit not in self.on_disk():
            return _service.NO_UNIT
        self.runs.pop(unit, None)
        return 0

    def enable(self, unit: str) -> int:
        assert unit in self.on_disk()
        self.enabled.add(unit)
        return 0

    def disable(self, unit: str) -> int:
        if unit not in self.on_disk():
            return 1
        self.enabled.discard(unit)
        if unit not in self.runs:
            self.loaded.pop(unit, None)  # systemd forgets what neither runs nor is named by another unit
        return 0

    def reset_failed(self, unit: str) -> int:
        if unit not in self.failed:
            return 1
        self.failed.discard(unit)
        return 0

    def daemon_reload(self, _unit: str) -> int:
        files = self.on_disk()
        kept = {unit: self.loaded[unit] for unit in self.runs if unit not in files}  # as long as the process runs
        self.loaded = {**kept, **{unit: files[unit] for unit in files if unit in self.loaded or unit in self.enabled}}
        return 0

    def runs_with(self, pid: int, definition: str) -> bool:
        return list(self.runs.values())[pid - 1] == definition


@pytest.fixture
def make_host(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[], Host]:
    """Makes hosts, on whose last one the launcher acts: each of its commands and changes of files is an action."""
    hosts: list[Host] = []

    def act_first(change: t.Callable[..., None]) -> t.Callable[..., None]:
        def acting(*arguments: t.Any) -> None:
            hosts[-1].act()
            change(*arguments)

        return acting

    class Os:
        unlink = staticmethod(act_first(os.unlink))

        def __getattr__(self, name: str) -> t.Any:
            return getattr(os, name)

    for module in (systemd, _service):
        monkeypatch.setattr(module, "run", lambda *words, **options: hosts[-1].run(*words, **options))
    monkeypatch.setattr(systemd, "runs_with", lambda pid, definition: hosts[-1].runs_with(pid, definition))
    monkeypatch.setattr(systemd, "write_text", act_first(_files.write_text))
    monkeypatch.setattr(systemd, "os", Os())

    def make() -> Host:
        host = Host(tmp_path_factory.mktemp("system"))
        (host.directory / FOREIGN).write_text("scheduler")
        hosts.append(host)
        return host

    return make


def site(host: Host, processes: t.Mapping[str, str], deadly: int | None = None) -> Plan:
    """What the module dask_processes does, killed before its action number ``deadly``."""
    host.actions, host.deadly = 0, deadly
    launcher = Systemd(str(host.directory), "main", "worker")
    steps = plan([Wanted(name, text) for name, text in processes.items()], launcher.observe())
    if steps:
        launcher.apply(steps)
    return steps


@given(before=PROCESSES, after=PROCESSES)
@settings(max_examples=60, suppress_health_check=ONE_FIXTURE)
def test_wherever_a_run_is_killed_the_next_one_ends_where_it_would_have(
    make_host: t.Callable[[], Host], before: dict[str, str], after: dict[str, str]
) -> None:
    whole = make_host()
    site(whole, before)
    site(whole, after)
    actions = whole.actions
    for deadly in range(actions):
        host = make_host()
        site(host, before)
        with pytest.raises(Killed):
            site(host, after, deadly)
        site(host, after)
        assert host.state() == whole.state(), deadly
        assert not site(host, after)


@given(before=PROCESSES, meant=PROCESSES, after=PROCESSES, deadly=st.integers(0, 12))
@settings(max_examples=200, suppress_health_check=ONE_FIXTURE)
def test_a_run_that_wants_something_else_than_the_one_that_was_killed_gets_it(
    make_host: t.Callable[[], Host], before: dict[str, str], meant: dict[str, str], after: dict[str, str], deadly: int
) -> None:
    whole, host = make_host(), make_host()
    site(host, before)
    with contextlib.suppress(Killed):
        site(host, meant, deadly)
    site(host, after)
    texts = {f"dask-main-{name}.service": text for name, text in after.items()}
    wanted = {**whole.runs, **texts}
    assert host.state() == (wanted, wanted, wanted, set(wanted))
    assert not site(host, after)


def test_a_process_that_an_older_definition_started_restarts_although_systemd_has_read_the_new_one(
    make_host: t.Callable[[], Host],
) -> None:
    host = make_host()
    site(host, {"worker-cpu-0": "old", "worker-cpu-1": "same"})
    (host.directory / "dask-main-worker-cpu-0.service").write_text("new")
    host.daemon_reload("")
    assert site(host, {"worker-cpu-0": "new", "worker-cpu-1": "same"}).restart == ("worker-cpu-0",)
    assert host.runs["dask-main-worker-cpu-0.service"] == "new"


def test_a_unit_that_runs_without_a_file_is_stopped_and_removed(make_host: t.Callable[[], Host]) -> None:
    host = make_host()
    site(host, {"worker-cpu-0": "text"})
    (host.directory / "dask-main-worker-cpu-0.service").unlink()
    launcher = Systemd(str(host.directory), "main", "worker")
    assert launcher.observe() == {"worker-cpu-0": Observed("", running=True, enabled=False)}
    assert plan_stop(launcher.observe()) == Plan(stop=("worker-cpu-0",))
    assert site(host, {}).remove == ("worker-cpu-0",)
    assert list(host.runs) == [FOREIGN]
    assert not site(host, {})


def test_a_unit_that_only_others_name_is_none_of_the_cluster(make_host: t.Callable[[], Host]) -> None:
    host = make_host()
    host.loaded["dask-main-worker-cpu-7.service"] = "not found"
    assert not site(host, {})


def test_a_unit_hands_its_process_the_secrets_of_its_own_group_and_has_no_value(
    render_role_template: t.Callable[..., str],
) -> None:
    groups = [samples.group(processes=1, secrets={"TOKEN": "hunter22"})]
    plan = launch_plan(samples.settings(dask_worker_groups=groups, dask_secrets={"SHARED": "hunter23"}))
    for process, names in zip(plan["processes"], (["SHARED"], ["SHARED", "TOKEN"])):
        text = render_role_template("systemd.service.j2", dask_common_plan=plan, process=process)
        directory = "/etc/dask/main/secrets/" + ("worker-cpu" if process["group"] else "scheduler")
        loaded = [line for line in text.splitlines() if line.startswith(systemd.CREDENTIAL)]
        assert loaded == ["LoadCredential={0}:{1}/{0}".format(name, directory) for name in names]
        assert 'Environment="FLOTILLA_SECRETS={0}"'.format(" ".join(names)) in text
        assert 'Environment="FLOTILLA_SECRETS_VERSION=@secrets@"' in text
        assert "CREDENTIALS_DIRECTORY" not in text  # which systemd sets
        assert "hunter" not in text
        one, other = (_service.stamped(text, version) for version in ("1", "2"))
        assert digest_in(one) != digest_in(other)


def digest_in(unit: str) -> str:
    [found] = [line for line in unit.splitlines() if line.startswith("Environment=FLOTILLA_DEFINITION=")]
    return found


@pytest.mark.parametrize(("said", "is_refused"), [("systemd 239 (239-82.el8)", True), ("systemd 252 (252.39)", False)])
def test_a_systemd_that_would_pass_over_secrets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, is_refused: bool
) -> None:
    monkeypatch.setattr(systemd, "run", lambda _words: said + "\n+PAM +AUDIT\n")
    launcher = Systemd(str(tmp_path), "main", "worker")
    launcher.check(Plan(write={"worker-cpu-0": "[Service]\n"}))
    with pytest.raises(DaskError, match="systemd 247 or newer") if is_refused else contextlib.nullcontext():
        launcher.check(Plan(write={"worker-cpu-0": "LoadCredential=TOKEN:/x\n"}))
