# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs inside Dask's own processes (private to this collection).

A preload module of every scheduler, nanny and worker, whatever launched it; installed under the name
``flotilla_in_process``, so it imports nothing of the collection. It does three things. A nanny that stops has its
worker drained first: the scheduler hands the worker's tasks to the others, lets finish what is executing, moves the
data, and looks whether it is all there. A nanny whose software isn't the scheduler's doesn't start a worker. And
schedulers and workers tell Prometheus what alerts need and Dask doesn't tell.

The first two answer as operations of the scheduler, ``flotilla_drain`` and ``flotilla_environment``, which modules ask
too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import re
import ssl
import time
import typing as t

logger = logging.getLogger("distributed.flotilla")

ANSWER_SECONDS = 5.0
"""How long a stopping nanny waits for a scheduler that may be lost, and a scheduler for a worker's answer."""
PAUSES = (0.02, 0.5)
"""Seconds between two looks at a worker that drains: at first, and at most."""
REFUSED_SECONDS = 10.0
"""How long a refused worker waits before it ends, as its launcher starts it again at once and a start costs a core."""
NAMED = 10
"""How many keys or packages are named in a message."""
NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for: a certificate that has expired is read too."""

Outcome = t.Dict[str, t.Any]


def dask_setup(server: t.Any) -> t.Any:
    """Called by Dask when a scheduler, nanny or worker starts."""
    from distributed import Nanny, Scheduler, Worker

    if isinstance(server, Scheduler):
        SchedulerSide(server)
        Metrics.of(server, "scheduler")
    elif isinstance(server, Worker):
        WorkerSide(server)
        Metrics.of(server, "worker")
    elif isinstance(server, Nanny):
        # Behind published ports. Dask lets a worker say where it is reached, and not a nanny, which registers next.
        server._address = os.environ.get("FLOTILLA_NANNY_ADDRESS", server.address)
        return check_environment(server)
    return None


def dask_teardown(server: t.Any) -> t.Any:
    """Called by Dask when one of them stops; a nanny waits for it before it ends its worker."""
    from distributed import Nanny

    return leave(server) if isinstance(server, Nanny) else None


class WorkerSide:
    """Tells the scheduler at once what it would otherwise only learn from the next heartbeat."""

    def __init__(self, worker: t.Any) -> None:
        self.worker = worker
        worker.handlers["flotilla_executing"] = self.executing

    async def executing(self) -> dict[str, t.Any]:
        """Returns the worker's status and the keys of the tasks that have begun."""
        state = self.worker.state
        return {"status": self.worker.status.name, "keys": [task.key for task in state.executing | state.long_running]}


class SchedulerSide:
    """What the scheduler does for stopping workers, starting workers and clients."""

    def __init__(self, scheduler: t.Any) -> None:
        self.scheduler = scheduler
        self._packages: dict[str, str] = {}
        scheduler.handlers["flotilla_environment"] = self.environment
        scheduler.handlers["flotilla_drain"] = self.drain
        expected = int(os.environ.get("FLOTILLA_EXPECTED_WORKERS", "0"))
        if expected and scheduler.idle_timeout:
            self._waiting = asyncio.ensure_future(self._count_as_busy(expected))

    async def _count_as_busy(self, expected: int) -> None:
        """Keeps a scheduler that ends when it is idle for so many workers as are starting."""
        seconds, self.scheduler.idle_timeout = self.scheduler.idle_timeout, None
        while len(self.scheduler.workers) < expected:
            await asyncio.sleep(PAUSES[1])
        self.scheduler.idle_since, self.scheduler.idle_timeout = None, seconds

    async def environment(self, packages: dict[str, str] | None = None) -> dict[str, str]:
        """Returns which environment the scheduler has, and in words how ``packages`` differ from what is in it."""
        difference = ""
        if packages is not None:
            self._packages = self._packages or installed_packages()
            difference = describe_difference(self._packages, packages)
        return {"environment": os.environ.get("FLOTILLA_ENVIRONMENT", ""), "difference": difference}

    async def drain(self, workers: list[str], seconds: float, then: str) -> dict[str, Outcome]:
        """Frees workers of tasks and data, and returns by address how that went; see ``_outcome``.

        :param workers: Their addresses. Who isn't there isn't in the result.
        :param seconds: How long all this may take.
        :param then: What happens to them. Whatever came out, with ``leave``: the scheduler forgets them, as their
            processes are about to end. Only if every one of them is free, and else they go on as before: with ``stay``
            they remain and get no work; with ``close`` they and their nannies end; with ``restart`` their nannies
            start new processes, which are waited for.
        """
        deadline = time.monotonic() + seconds
        before = {address: self.scheduler.workers[address] for address in workers if address in self.scheduler.workers}
        statuses = {address: state.status.name for address, state in before.items()}
        for address in before:  # all of them first, so that none gets the data of another
            self._set_status(address, "closing_gracefully")
        drained = await asyncio.gather(*(self._drain(address, deadline) for address in before))
        outcomes = dict(zip(before, drained))
        free = not any(outcome["reason"] for outcome in drained)
        if then == "leave" or (free and then == "close"):
            for address in before:
                # Expected: else every task that began there counts as one that may have killed its worker.
                await self.scheduler.remove_worker(
                    address, expected=True, close=then == "close", stimulus_id=self._stimulus(then)
                )
        elif free and then == "restart":
            await self._restart(before, outcomes, deadline)
        elif not free:
            for address, status in statuses.items():
                self._set_status(address, status)
        return outcomes

    async def _drain(self, address: str, deadline: float) -> Outcome:
        """Works until the worker has nothing that only it has, or nothing more can be done about that."""
        began = time.monotonic()
        state = self.scheduler.workers[address]
        held: dict[t.Any, int] = {}
        begun: set[t.Any] = set()
        pause = PAUSES[0]
        while True:
            reason = ""
            executing = await self._executing(state)
            if executing is not None:
                begun |= executing
                for task in [task for task in state.processing if task.key not in begun]:
                    self.scheduler._reschedule(task.key, address, stimulus_id=self._stimulus("reschedule"))
            only = self._only_there(state)
            if only:
                held.update((task.key, task.nbytes) for task in only)
                await self._move(address, deadline)
                only = self._only_there(state)
            unfinished = [task.key for task in state.processing if task.key in begun]
            if self.scheduler.workers.get(address) is not state:
                reason = "gone"
            elif executing is not None and not only and not unfinished:
                break
            elif time.monotonic() >= deadline:
                reason = "time"
            elif executing is not None and not self._others():
                reason = "nowhere"
            elif executing is not None and state.actors and not unfinished:
                reason = "actors"
            if reason:
                break
            await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 1.5, PAUSES[1])
        left = {task.key for task in only}
        moved = [key for key in held if key not in left and key in self.scheduler.tasks]
        return {
            "name": str(state.name),
            "reason": reason,
            "seconds": time.monotonic() - began,
            "moved": len(moved),
            "moved_bytes": sum(held[key] for key in moved),
            "lost": len(only),
            "lost_bytes": sum(task.nbytes for task in only),
            "gone_for_good": sum(task.run_spec is None for task in only),
            "lost_names": [str(task.key) for task in sorted(only, key=_by_weight)[:NAMED]],
            "unfinished": len(unfinished),
            "unfinished_names": sorted(map(str, unfinished))[:NAMED],
        }

    async def _executing(self, state: t.Any) -> set[t.Any] | None:
        """The tasks that the worker has begun, or None as long as it may begin others."""
        try:
            said = await asyncio.wait_for(self.scheduler.rpc(state.address).flotilla_executing(), ANSWER_SECONDS)
        except (OSError, asyncio.TimeoutError):
            return None
        if said is None:  # a worker that somebody started without this module
            return {task.key for task in state.executing}
        return set(said["keys"]) if said["status"] == "closing_gracefully" else None

    async def _move(self, address: str, deadline: float) -> None:
        """Gives Dask's own retirement a chance; what came of it is looked at afterwards."""
        retirement = self.scheduler.retire_workers(
            workers=[address], close_workers=False, remove=False, stimulus_id=self._stimulus("drain")
        )
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(retirement, max(0.0, deadline - time.monotonic()))

    def _only_there(self, state: t.Any) -> list[t.Any]:
        """The tasks whose results are on this worker and on no other that stays."""
        return [task for task in state.has_what if not any(map(_stays, task.who_has or ()))]

    def _others(self) -> bool:
        """Whether there is a worker that takes data, or may do so again."""
        return any(map(_stays, self.scheduler.workers.values()))

    def _set_status(self, address: str, status: str) -> None:
        """Changes a worker's status, here at once and there by a message, as ``Scheduler.retire_workers`` does."""
        state = self.scheduler.workers.get(address)
        if state is not None and state.status.name != status:
            stimulus = self._stimulus("status")
            self.scheduler.handle_worker_status_change(status, state, stimulus)
            self.scheduler.stream_comms[address].send(
                {"op": "worker-status-change", "status": status, "stimulus_id": stimulus}
            )

    async def _restart(self, before: dict[str, t.Any], outcomes: dict[str, Outcome], deadline: float) -> None:
        """Has the nannies end their workers, and waits for the processes that they start instead."""
        from distributed.core import rpc

        async def restart(state: t.Any) -> str:
            left = max(0.0, deadline - time.monotonic())
            try:
                async with rpc(state.nanny, connection_args=self.scheduler.connection_args) as nanny:
                    await asyncio.wait_for(nanny.kill(reason=self._stimulus("restart")), left)
            except (OSError, asyncio.TimeoutError):
                return "restart"
            while time.monotonic() < deadline:
                new = self.scheduler.workers.get(self.scheduler.aliases.get(state.name))
                if new is not None and new.server_id != state.server_id and new.status.name == "running":
                    return ""
                await asyncio.sleep(PAUSES[0])
            return "restart"

        reasons = await asyncio.gather(*(restart(state) for state in before.values()))
        for address, reason in zip(before, reasons):
            outcomes[address]["reason"] = reason

    @staticmethod
    def _stimulus(what: str) -> str:
        """The cause that Dask records in its logs and stories."""
        return "flotilla-{0}-{1}".format(what, time.time())


def _stays(state: t.Any) -> bool:
    """Whether a worker keeps what it has; one that drains doesn't."""
    return state.status.name in ("running", "paused")


def _by_weight(task: t.Any) -> tuple[bool, str]:
    """What cannot be computed again comes first."""
    return task.run_spec is not None, str(task.key)


async def check_environment(nanny: t.Any) -> None:
    """Returns if a worker may start here. :raises SystemExit: its software isn't the scheduler's, or there is none."""
    import dask
    from dask.utils import parse_timedelta

    mine = os.environ.get("FLOTILLA_ENVIRONMENT", "")
    seconds = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    try:
        said = await _ask(nanny, seconds, op="flotilla_environment")
        if said is None:  # it starts up, and has its ports before its preload modules
            await asyncio.sleep(1)
            said = await _ask(nanny, seconds, op="flotilla_environment")
        if said is None:
            logger.warning("the scheduler doesn't say which environment it has; the worker joins unchecked")
            return
        if said["environment"] == mine:
            return
        said = await _ask(nanny, seconds, op="flotilla_environment", packages=installed_packages())
    except (OSError, asyncio.TimeoutError) as error:
        logger.error("no scheduler answers at %s: %s", nanny.scheduler_addr, error)
        raise SystemExit(1) from error
    words = describe_mismatch(mine, said)
    if os.environ.get("FLOTILLA_MISMATCH") == "warn":
        logger.warning("the worker joins, though %s", words)
        return
    logger.error("refused: %s. Run flotilla.dask.site, or set dask_environment_mismatch to warn.", words)
    await asyncio.sleep(REFUSED_SECONDS)
    # Only what isn't an Exception gets past Dask's handling of preload modules.
    raise SystemExit(1)


async def leave(nanny: t.Any) -> None:
    """Has the scheduler drain the worker of a nanny that stops, and logs what came of it."""
    seconds = float(os.environ.get("FLOTILLA_DRAIN_SECONDS", "60"))
    address = nanny.worker_address
    if not (seconds and address and nanny.is_alive()):
        return
    logger.info("draining worker %s: up to %g s", nanny.name, seconds)
    try:
        # A lost scheduler is found out by a question that a living one answers at once.
        if await _ask(nanny, ANSWER_SECONDS, op="flotilla_environment") is None:
            logger.warning("not drained: the scheduler cannot do it. Run flotilla.dask.site.")
            return
        outcomes = await _ask(
            nanny, seconds + ANSWER_SECONDS, op="flotilla_drain", workers=[address], seconds=seconds, then="leave"
        )
    except (OSError, asyncio.TimeoutError) as error:
        logger.warning("not drained: no scheduler answers at %s (%s)", nanny.scheduler_addr, str(error) or "in time")
        return
    if address not in outcomes:
        logger.info("drained: the scheduler has no such worker any more")
    elif outcomes[address]["reason"]:
        logger.warning("%s", describe_outcome(outcomes[address]))
    else:
        logger.info("%s", describe_outcome(outcomes[address]))


async def _ask(nanny: t.Any, patience: float, **question: t.Any) -> t.Any:
    """Returns the scheduler's answer; None from one that doesn't know the question."""
    from distributed.comm import connect
    from distributed.core import send_recv

    comm = await asyncio.wait_for(connect(nanny.scheduler_addr, timeout=patience, **nanny.connection_args), patience)
    try:
        return await asyncio.wait_for(send_recv(comm, **question), patience)
    finally:
        await comm.close()


class Metrics:
    """What a scheduler or a worker serves at ``/metrics`` beside Dask's own, under names that begin with flotilla_."""

    _here: t.ClassVar[Metrics | None] = None

    def __init__(self, server: t.Any, role: str) -> None:
        self.server = server
        self.role = role
        self.expiries = certificate_expiries(server.security, role)

    @classmethod
    def of(cls, server: t.Any, role: str) -> None:
        """Tells of a process's scheduler or worker; the latest one, where a process has several, as Dask does."""
        try:
            from prometheus_client import REGISTRY
        except ImportError:
            logger.warning("/metrics stays empty: the environment has no prometheus_client. Run flotilla.dask.site.")
            return
        before, cls._here = cls._here, cls(server, role)
        if before is not None:
            REGISTRY.unregister(before)
        REGISTRY.register(cls._here)

    def collect(self) -> t.Iterator[t.Any]:
        """Yields the metrics, for prometheus_client."""
        from prometheus_client.core import GaugeMetricFamily

        expiry = GaugeMetricFamily(
            "flotilla_certificate_expiry_timestamp_seconds",
            "When the certificate that the process shows expires, and the first of the authorities that it trusts",
            labels=["certificate"],
        )
        for certificate, seconds in self.expiries.items():
            expiry.add_metric([certificate], seconds)
        yield expiry
        if self.role != "worker":
            return
        limit = self.server.memory_manager.memory_limit
        if limit:
            yield GaugeMetricFamily(
                "flotilla_worker_memory_limit_bytes", "Memory near which Dask restarts the worker", value=limit
            )
        with contextlib.suppress(OSError):
            disk = os.statvfs(self.server.local_directory)
            yield GaugeMetricFamily(
                "flotilla_spill_size_bytes",
                "Size of the file system that the worker spills to",
                value=disk.f_blocks * disk.f_frsize,
            )
            yield GaugeMetricFamily(
                "flotilla_spill_free_bytes",
                "What is left of it for the worker",
                value=disk.f_bavail * disk.f_frsize,
            )


def certificate_expiries(security: t.Any, role: str) -> dict[str, int]:
    """Returns when the ``host`` certificate and the first ``authority`` expire, since 1970; nothing without TLS.

    The standard library tells that only of a connection's certificates, so there is one, within this process.

    :param security: What Dask knows of certificates and keys. ``role``: what it calls the process.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        listening = security.get_listen_args(role).get("ssl_context")
        connecting = security.get_connection_args(role).get("ssl_context")
        if listening is None or connecting is None:
            return {}
        for context in (listening, connecting):
            context.verify_flags |= NO_CHECK_TIME
        server = listening.wrap_bio(to_server, to_client, server_side=True)
        client = connecting.wrap_bio(to_client, to_server)
        for end in (client, server) * 3:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
        found = {"host": [client.getpeercert()], "authority": connecting.get_ca_certs()}
        times = {
            name: [ssl.cert_time_to_seconds(each["notAfter"]) for each in certificates]
            for name, certificates in found.items()
        }
    except (OSError, ValueError) as error:  # those of ssl are among them
        logger.warning("nobody knows when the certificate expires, as it cannot be read: %s", error)
        return {}
    return {name: min(seconds) for name, seconds in times.items() if seconds}


def installed_packages() -> dict[str, str]:
    """Returns the version of Python and of every package that this process can import, by its normalised name."""
    from importlib.metadata import distributions

    packages = {"python": platform.python_version()}
    for each in distributions():
        name = each.metadata["Name"]
        if name:
            packages.setdefault(re.sub(r"[-_.]+", "-", name).lower(), each.version)
    return packages


def describe_difference(scheduler: t.Mapping[str, str], other: t.Mapping[str, str]) -> str:
    """Returns in words how packages differ from the scheduler's; nothing, if they don't."""
    words = []
    for name in sorted({**scheduler, **other}):
        theirs, mine = scheduler.get(name), other.get(name)
        if theirs != mine:
            words.append("{0} {1} (scheduler: {2})".format(name, mine or "missing", theirs or "missing"))
    more = ["and {0} more".format(len(words) - NAMED)] if len(words) > NAMED else []
    return ", ".join(words[:NAMED] + more)


def describe_mismatch(mine: str, said: t.Mapping[str, str]) -> str:
    """Returns in words that an environment isn't the scheduler's.

    :param said: What ``SchedulerSide.environment`` returned.
    """
    return "environment {0} isn't the scheduler's {1}; packages that differ: {2}".format(
        mine or "(none)", said["environment"] or "(none)", said["difference"] or "none, by their versions"
    )


REASONS = {
    "gone": "the worker went away meanwhile",
    "time": "the time was over",
    "nowhere": "no other worker can take its data",
    "actors": "actors cannot be moved",
    "restart": "no new process came in time",
}


def describe_outcome(outcome: Outcome) -> str:
    """Returns in words what came of a drain."""
    moved = "{0} keys, {1} moved in {2:.2f} s".format(
        outcome["moved"], _megabytes(outcome["moved_bytes"]), outcome["seconds"]
    )
    if not outcome["reason"]:
        return "drained: " + moved
    words = ["not drained, as {0}: {1}".format(REASONS[outcome["reason"]], moved)]
    if outcome["lost"]:
        words.append(
            "lost: {0} keys, {1}, of which {2} cannot be computed again: {3}".format(
                outcome["lost"],
                _megabytes(outcome["lost_bytes"]),
                outcome["gone_for_good"],
                _listed(outcome["lost_names"], outcome["lost"]),
            )
        )
    if outcome["unfinished"]:
        words.append(
            "not finished: {0} tasks: {1}".format(
                outcome["unfinished"], _listed(outcome["unfinished_names"], outcome["unfinished"])
            )
        )
    return "; ".join(words)


def _megabytes(size: int) -> str:
    return "{0:.1f} MB".format(size / 1e6)


def _listed(names: t.Sequence[str], number: int) -> str:
    return ", ".join(names) + (" and {0} more".format(number - len(names)) if number > len(names) else "")
