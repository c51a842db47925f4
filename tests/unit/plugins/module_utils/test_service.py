# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Observe, plan, apply: a plan leads from what is to what should be, and touches nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import typing as t
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils import _service
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._service import (
    Observed,
    Plan,
    Wanted,
    check_ports,
    diff,
    overdue,
    plan,
    plan_stop,
    run,
    runs_with,
    stamped,
)
from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for

NAMES = st.sampled_from(["scheduler", "worker-cpu-0", "worker-cpu-1", "worker-gpu-0"])
DEFINITIONS = st.sampled_from(["sleep 1", "sleep 2"])
WANTED = st.dictionaries(NAMES, DEFINITIONS).map(lambda each: [Wanted(name, text) for name, text in each.items()])
STATES = st.builds(Observed, DEFINITIONS, st.booleans(), st.booleans()) | st.builds(
    Observed, DEFINITIONS, st.just(True), st.booleans(), stopping=st.just(True)
)
OBSERVED = st.dictionaries(NAMES, STATES)


def carried_out(steps: Plan, observed: t.Mapping[str, Observed]) -> dict[str, Observed]:
    """What is there after an ideal launcher has carried the plan out."""
    after = {name: state for name, state in observed.items() if name not in steps.remove}
    for name in {*steps.write, *steps.enable, *steps.start, *steps.restart}:
        before = after.get(name, Observed("", running=False, enabled=False))
        after[name] = Observed(
            definition=steps.write.get(name, before.definition),
            running=before.running or name in steps.start,
            stopping=before.stopping and name not in steps.restart,
            enabled=before.enabled or name in steps.enable,
        )
    for name in steps.stop:
        after[name] = Observed(after[name].definition, running=False, enabled=after[name].enabled)
    return after


@given(WANTED, OBSERVED, st.booleans())
@settings(max_examples=500)
def test_a_plan_leads_from_what_is_to_exactly_what_is_wanted(
    wanted: list[Wanted], observed: dict[str, Observed], restart_all: bool
) -> None:
    after = carried_out(plan(wanted, observed, restart_all), observed)
    assert after == {process.name: Observed(process.definition, running=True, enabled=True) for process in wanted}


@given(WANTED, OBSERVED)
@settings(max_examples=300)
def test_once_a_plan_is_carried_out_there_is_nothing_left_to_do(
    wanted: list[Wanted], observed: dict[str, Observed]
) -> None:
    again = plan(wanted, carried_out(plan(wanted, observed), observed))
    assert not again
    assert again == Plan()


@given(WANTED, OBSERVED)
@settings(max_examples=300)
def test_only_a_running_process_that_changed_or_is_being_stopped_restarts(
    wanted: list[Wanted], observed: dict[str, Observed]
) -> None:
    steps = plan(wanted, observed)
    running = {process for process in wanted if process.name in observed and observed[process.name].running}
    changed = {
        process.name
        for process in running
        if process.definition != observed[process.name].definition or observed[process.name].stopping
    }
    assert set(steps.restart) == changed
    assert set(plan(wanted, observed, restart_all=True).restart) == {process.name for process in running}


@given(OBSERVED)
@settings(max_examples=300)
def test_a_stop_leaves_every_definition_as_it_is_and_nothing_running(observed: dict[str, Observed]) -> None:
    steps = plan_stop(observed)
    after = carried_out(steps, observed)
    assert after == {name: Observed(each.definition, False, each.enabled) for name, each in observed.items()}
    assert {each["after_header"] for each in diff(steps, observed)} == set(steps.stop)
    assert not plan_stop(after)


@given(WANTED, OBSERVED)
@settings(max_examples=300)
def test_the_diff_shows_every_definition_that_changes_and_no_other(
    wanted: list[Wanted], observed: dict[str, Observed]
) -> None:
    before = {name: state.definition for name, state in observed.items()}
    after = {process.name: process.definition for process in wanted}
    shown = {each["after_header"]: (each["before"], each["after"]) for each in diff(plan(wanted, observed), observed)}
    assert shown == {
        name: (before.get(name, ""), after.get(name, ""))
        for name in {*before, *after}
        if before.get(name) != after.get(name)
    }


@pytest.fixture
def taken() -> t.Iterator[tuple[str, int]]:
    """The address of a program that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def check(wanted: list[Wanted], observed: t.Mapping[str, Observed] | None = None) -> None:
    """Checks the ports of what has to start."""
    check_ports(wanted, observed or {}, plan(wanted, observed or {}))


def test_a_port_of_a_process_that_is_removed_is_free_for_another(taken: tuple[str, int]) -> None:
    removed = {"worker-cpu-0": Observed("worker --worker-port {0}".format(taken[1]))}
    check([Wanted("worker-gpu-0", "", (taken,))], removed)


def test_a_process_that_runs_keeps_its_ports(taken: tuple[str, int]) -> None:
    check([Wanted("scheduler", "same", (taken,))], {"scheduler": Observed("same")})


def test_a_process_that_restarts_keeps_its_ports_and_takes_nobody_elses(taken: tuple[str, int]) -> None:
    own = {"scheduler": Observed("scheduler --port {0}".format(taken[1]))}
    check([Wanted("scheduler", "scheduler --port {0} --other".format(taken[1]), (taken,))], own)
    check([Wanted("scheduler", "new", (taken,))], {"scheduler": Observed("")})
    with pytest.raises(DaskError, match="another program has the port"):
        check(
            [Wanted("scheduler", "scheduler --port {0}".format(taken[1]), (taken,))], {"scheduler": Observed("other")}
        )


def test_every_port_that_is_taken_is_named_with_the_process_that_needs_it(taken: tuple[str, int]) -> None:
    processes = [Wanted("scheduler", "", (taken,)), Wanted("worker-cpu-0", "", (("127.0.0.1", free_port()), taken))]
    with pytest.raises(DaskError) as caught:
        check(processes)
    problems = str(caught.value).splitlines()
    assert [problem.split(":")[0] for problem in problems] == [
        "{0} cannot listen on 127.0.0.1 port {1}".format(name, taken[1]) for name in ("scheduler", "worker-cpu-0")
    ]
    assert "'ss -ltnp' names it" in problems[0]


def test_a_port_that_a_program_left_a_moment_ago_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address), server.accept()[0] as accepted:
            # Whoever closes first keeps the port in TIME_WAIT.
            accepted.shutdown(socket.SHUT_RDWR)
    check([Wanted("scheduler", "", (address,))])


def test_an_address_of_another_host_is_refused_with_the_variable_to_correct() -> None:
    with pytest.raises(DaskError, match=r"192.0.2.1 port .* dask_host_address"):
        check([Wanted("scheduler", "", (("192.0.2.1", free_port()),))])


def test_ipv6_addresses_are_looked_at_too() -> None:
    if not socket.has_dualstack_ipv6():
        return
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server, pytest.raises(DaskError, match="::1 port"):
        check([Wanted("scheduler", "", (server.getsockname()[:2],))])


def test_a_command_that_fails_says_its_status_and_its_last_words() -> None:
    command = ["sh", "-c", "echo too much; echo no such unit >&2; exit 4"]
    with pytest.raises(DaskError, match="exit status 4: no such unit"):
        run(command)
    assert run(command, accept=(0, 4)) == "too much\n"


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(DaskError, match="/nowhere/supervisord cannot be run"):
        run(["/nowhere/supervisord"])


@pytest.mark.parametrize(
    ("written", "needs_reload", "expected"),
    [
        ({}, "no", ""),
        ({"unit": 5}, "no", "restart"),
        ({"drop-in": 5}, "no", "restart"),
        ({"start.yml": 5}, "no", "restart"),
        ({"reload.yml": 5}, "no", ""),
        ({"reload.yml": 15}, "no", "reload"),
        ({"reload.yml": 15, "unit": 5}, "no", "restart"),
        ({}, "yes", "restart"),
    ],
)
def test_a_unit_that_runs_with_something_older_than_its_files_is_overdue(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: dict[str, float],
    needs_reload: str,
    expected: str,
) -> None:
    started = time.monotonic() - 1000
    for name in ("unit", "drop-in", "start.yml", "reload.yml"):
        path = tmp_path / name
        path.touch()
        moment = time.time() - 1000 + written.get(name, -100)
        os.utime(path, (moment, moment))
    shown = {
        "Id": "a.service",
        "ActiveState": "active",
        "NeedDaemonReload": needs_reload,
        "FragmentPath": f"{tmp_path}/unit",
        "DropInPaths": f"{tmp_path}/drop-in",
        "ExecMainStartTimestampMonotonic": f"{started * 1e6:.0f}",
        "StateChangeTimestampMonotonic": f"{(started + 10) * 1e6:.0f}",
    }
    output = "".join(f"{key}={value}\n" for key, value in shown.items())
    units = {"a.service": {"restart": [f"{tmp_path}/start*"], "reload": [f"{tmp_path}/reload*"]}}
    monkeypatch.setattr(_service, "run", lambda _argv: output)
    assert overdue(units) == ({"a.service": expected} if expected else {})
    monkeypatch.setattr(_service, "run", lambda _argv: output.replace("=active", "=inactive"))
    assert overdue(units) == {}


def environ(text: str) -> t.Iterator[int]:
    """A process with these variables, and no others."""
    pairs = dict(each.split("=", 1) for each in text.split())
    with subprocess.Popen(["sleep", "1000"], executable="/bin/sleep", env=pairs) as process:
        try:
            # Its memory has them a moment after it was started.
            wait_for(lambda: bool(Path(f"/proc/{process.pid}/environ").read_bytes()), 20, "the variables")
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ("FLOTILLA_DEFINITION={}", True),
        ("FLOTILLA_DEFINITION=0123456789ab", False),
        ("FLOTILLA_ENVIRONMENT=dask-1", False),  # of a version that did not write it
        ("HOME=/", True),  # overwritten by setproctitle
    ],
)
def test_a_process_says_which_definition_it_was_started_with(variables: str, expected: bool) -> None:
    definition = stamped("Environment=FLOTILLA_DEFINITION=@definition@\nExecStart=sleep 1000\n")
    digest = definition.split("=", 2)[2].splitlines()[0]
    for pid in environ(variables.format(digest)):
        assert runs_with(pid, definition) is expected
    assert runs_with(pid, definition)  # gone: nothing is known of it
    assert stamped("no placeholder") == "no placeholder"


def test_while_the_ports_of_a_process_are_not_known_none_counts_as_taken(taken: tuple[str, int]) -> None:
    old = {"worker-cpu-0": Observed("")}
    check([Wanted("worker-cpu-0", "a", (("127.0.0.1", free_port()),)), Wanted("worker-cpu-1", "b", (taken,))], old)
