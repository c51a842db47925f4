# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs inside Dask's own processes (private to this collection).

A preload module of every scheduler, nanny and worker, whatever launched it; installed under the name
``flotilla_in_process``, so it imports nothing of the collection. It does six things. When it is imported, it makes
environment variables of the process's secrets, before anything of the user's runs. A nanny that stops has its
worker drained first: the scheduler hands the worker's tasks to the others, lets finish what is executing, moves the
data, and looks whether it is all there. A nanny whose software isn't the scheduler's doesn't start a worker. Every
process, clients included, loads certificates and authorities again when their files change, and refuses certificates
that are revoked. Schedulers and workers show their pages, on their own host, to accounts alone that may read them. And
they tell Prometheus what alerts need and Dask doesn't tell.

Drains and comparisons of software are operations of the scheduler, ``flotilla_drain`` and ``flotilla_environment``,
which modules ask too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import ipaddress
import logging
import os
import platform
import re
import socket
import ssl
import struct
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
LOOK_SECONDS = 1.0
"""Seconds between two looks at the files of certificates."""
NAMES, DIRECTORY = "FLOTILLA_SECRETS", "CREDENTIALS_DIRECTORY"
"""Variables with the names of the process's secrets, and with the directory that has a file for each."""
REVOKED = re.compile(r"^Revoked: 0*([0-9A-F]+) (.*)$", re.MULTILINE)
"""A line of the file of authorities, beside their certificates: serial number and name of one that is revoked."""

SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")
"""Where the kernel tells the two ends of every TCP connection of this host, and whose each end is."""
REFUSED_READER = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Refused: your account on this host may not read the pages of the cluster. Add it to dask_http_users, or use the "
    b"proxy.\n"
)

IPAddress = t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Outcome = t.Dict[str, t.Any]


def load_secrets() -> None:
    """Makes environment variables of the secrets that this process has as files; its children have them, too.

    A child that cannot read the files has what it was started with.

    :raises SystemExit: a secret is nowhere. What isn't an Exception gets past Dask's handling of preload modules.
    """
    for name in os.environ.get(NAMES, "").split():
        path = os.path.join(os.environ.get(DIRECTORY, ""), name)
        try:
            with open(path, encoding="utf-8", newline="") as file:
                os.environ[name] = file.read()
        except (OSError, ValueError) as error:
            if name not in os.environ:
                logger.error("the secret %s cannot be read (%s). Run flotilla.dask.site.", name, type(error).__name__)
                time.sleep(REFUSED_SECONDS)
                raise SystemExit(1) from None


def dask_setup(server: t.Any) -> t.Any:
    """Called by Dask when a scheduler, nanny, worker or client starts."""
    from distributed import Nanny, Scheduler, Worker

    certificates = server.flotilla_certificates = Certificates(server)
    certificates.follow()
    if isinstance(server, Scheduler):
        SchedulerSide(server)
        Metrics.of(server, certificates)
    elif isinstance(server, Worker):
        WorkerSide(server)
        Metrics.of(server, certificates)
    elif isinstance(server, Nanny):
        # Behind published ports. Dask lets a worker say where it is reached, and not a nanny, which registers next.
        server._address = os.environ.get("FLOTILLA_NANNY_ADDRESS", server.address)
        return check_environment(server)
    return None


def dask_teardown(server: t.Any) -> t.Any:
    """Called by Dask when one of them stops; a nanny waits for it before it ends its worker."""
    from distributed import Nanny

    if isinstance(server, Nanny):
        return leave(server)
    certificates = getattr(server, "flotilla_certificates", None)
    if certificates is not None:  # a client that has reached no scheduler hasn't begun
        certificates.end()
    return None


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

    def __init__(self, server: t.Any, certificates: Certificates) -> None:
        self.server = server
        self.certificates = certificates

    @classmethod
    def of(cls, server: t.Any, certificates: Certificates) -> None:
        """Tells of a process's scheduler or worker; the latest one, where a process has several, as Dask does."""
        try:
            from prometheus_client import REGISTRY
        except ImportError:
            logger.warning("/metrics stays empty: the environment has no prometheus_client. Run flotilla.dask.site.")
            return
        before, cls._here = cls._here, cls(server, certificates)
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
        for certificate, seconds in self.certificates.expiries.items():
            expiry.add_metric([certificate], seconds)
        yield expiry
        if self.certificates.role != "worker":
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


class Certificates:
    """What a server or a client of Dask shows and trusts, which is what the files say, also when they change.

    A context of Python's can be given another certificate and more authorities, but cannot forget an authority. So the
    contexts are made anew, and take the place of those that listeners and connections to come are made with.
    Connections that are open stay, except those of revoked certificates.

    :param holder: A scheduler, nanny, worker or client.
    :ivar role: What Dask's configuration calls the holder.
    :ivar expiries: What ``certificate_expiries`` returns of the files that are loaded.
    """

    def __init__(self, holder: t.Any) -> None:
        from distributed import Client, Scheduler

        self.holder = holder
        self.security = holder.security
        self.role = (
            "scheduler" if isinstance(holder, Scheduler) else "client" if isinstance(holder, Client) else "worker"
        )
        tls = self.security.get_tls_config_for_role(self.role)
        if not tls["cert"]:  # a client within a worker may have the worker's alone
            self.role = "worker"
            tls = self.security.get_tls_config_for_role(self.role)
        self.trust: str = tls["ca_file"]
        paths = [tls["ca_file"], tls["cert"], tls["key"]] if tls["ca_file"] and tls["cert"] else []
        # A client's configuration may have the texts in it instead, which don't change.
        self.paths: list[str] = sorted({path for path in paths if path and "\n" not in path})
        self.expiries: dict[str, int] = {}
        self._loaded: list[t.Any] | None = None
        self._failed: list[t.Any] | None = None
        self._callback: t.Any = None

    def follow(self) -> None:
        """Looks at the files now and from time to time, within the event loop, until ``end``."""
        from tornado.ioloop import PeriodicCallback

        if self.paths:
            self.look()
            self._callback = PeriodicCallback(self.look, LOOK_SECONDS * 1000)
            self._callback.start()

    def end(self) -> None:
        if self._callback is not None:
            self._callback.stop()

    def look(self) -> None:
        """Loads the files if they aren't those that are loaded, and ends the connections of revoked certificates."""
        state = [file_state(path) for path in self.paths]
        if state != self._loaded:
            try:
                self._load()
            except (OSError, ValueError) as error:  # those of ssl are among them
                if state != self._failed:
                    logger.warning(
                        "the certificates in %s cannot be used yet, those before stay in use: %s",
                        " and ".join(self.paths),
                        error,
                    )
                self._failed = state
            else:
                if self._loaded is not None:
                    logger.info("loaded the certificates in %s", " and ".join(self.paths))
                self._loaded, self._failed = state, None
        self._end_revoked()

    def _load(self) -> None:
        """Puts contexts made from the files in place of those in use. :raises OSError, ValueError: they don't fit."""
        text = read_text(self.trust)
        expiries = certificate_expiries(self.security, self.role)
        listening = self.security.get_listen_args(self.role)["ssl_context"]
        connecting = self.security.get_connection_args(self.role)["ssl_context"]
        # Whoever connects can ask which authorities are loaded, without being one of the cluster: see trust_name.
        listening.set_alpn_protocols([trust_name(text)])
        _Checked.revoked[self.trust] = revoked_certificates(text)
        self.expiries = expiries
        for arguments in (self.holder.connection_args, self.holder.rpc.connection_args):
            arguments["ssl_context"] = connecting
        for listener in self._listeners():
            listener.server_args["ssl_options"] = listening
            if listener.tcp_server is not None:
                listener.tcp_server.ssl_options = listening

    def _listeners(self) -> list[t.Any]:
        """Those with TLS; a client has none."""
        listeners = getattr(self.holder, "listeners", ())
        return [each for each in listeners if getattr(each, "server_args", {}).get("ssl_options") is not None]

    def _end_revoked(self) -> None:
        revoked = _Checked.revoked.get(self.trust)
        if not revoked:
            return
        comms = list(getattr(self.holder, "_comms", ()))
        for listener in self._listeners():  # those of whom Dask has not heard yet, as it has no name for them
            comms += getattr(listener, "_BaseListener__comms", ())
        for comm in comms:
            name = revoked.get(serial_number(comm.extra_info.get("peercert")))
            if name and not comm.closed():
                logger.warning("ended the connection of %s: the certificate of %s is revoked", comm.peer_address, name)
                comm.abort()


class _Checked(ssl.SSLSocket):
    """A socket that refuses a revoked certificate at the end of TLS's handshake, before anything else is read.

    :cvar revoked: By the file of authorities, the names of those whose certificates are revoked by serial numbers.
    """

    revoked: t.ClassVar[dict[str, dict[str, str]]] = {}

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        trust = getattr(self.context, "flotilla_trust", "")
        name = self.revoked.get(trust, {}).get(serial_number(self.getpeercert()))
        if name:
            raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, "the certificate of {0} is revoked".format(name))


def check_contexts() -> None:
    """Has every context that Dask makes in this process from now on refuse revoked certificates.

    A process listens before it calls ``dask_setup``, and after it has imported this module.
    """
    from distributed.security import Security

    def checking(make: t.Callable[..., dict[str, t.Any]]) -> t.Callable[..., dict[str, t.Any]]:
        @functools.wraps(make)
        def make_checking(security: t.Any, role: str) -> dict[str, t.Any]:
            arguments = make(security, role)
            context, trust = arguments.get("ssl_context"), security.tls_ca_file
            if context is not None and "\n" not in trust:
                context.sslsocket_class, context.flotilla_trust = _Checked, trust
                if trust not in _Checked.revoked:
                    _Checked.revoked[trust] = revoked_certificates(read_text(trust))
            return arguments

        return make_checking

    for name in ("get_listen_args", "get_connection_args"):
        setattr(Security, name, checking(getattr(Security, name)))


def guard_pages() -> None:
    """Has every HTTP server that Dask makes in this process from now on refuse accounts that may not read its pages.

    Dask's pages have no log-in, and everybody with an account on a host reaches what listens there. A process makes its
    server after it has imported this module.
    """
    from distributed import node
    from tornado.httpserver import HTTPServer

    class GuardedServer(HTTPServer):
        def handle_stream(self, stream: t.Any, address: t.Any) -> t.Any:
            if may_read(stream.socket):
                return super().handle_stream(stream, address)
            return refuse_reader(stream)

    t.cast(t.Any, node).HTTPServer = GuardedServer


def may_read(connection: socket.socket) -> bool:
    """Whether the other end of a connection may read pages; who comes from another host is the firewall's business."""
    try:
        theirs, ours = connection.getpeername(), connection.getsockname()
    except OSError:  # it has gone
        return False
    reader = account_of(theirs, ours)
    if reader is None:
        peer = plain_address(theirs[0])
        return not peer.is_loopback and peer != plain_address(ours[0])
    return reader in readers()


def account_of(theirs: t.Sequence[t.Any], ours: t.Sequence[t.Any]) -> int | None:
    """Returns the number of the account that has the other end of a TCP connection, or None if it is not on this host.

    :param theirs: Address and port of the other end. ``ours``: of this end.
    """
    ends = [(plain_address(end[0]), int(end[1])) for end in (theirs, ours)]
    for table in SOCKETS:
        try:
            rows = read_text(table).splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for row in rows:
            columns = row.split()
            # A socket that its program has closed is counted as root's, and has no inode.
            if [read_end(column) for column in columns[1:3]] == ends and columns[9] != "0":
                return int(columns[7])
    return None


def read_end(text: str) -> tuple[IPAddress, int]:
    """Returns address and port as the kernel writes them: numbers of 32 bits in the processor's order of bytes."""
    address, port = text.split(":")
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    return plain_address(ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words))), int(port, 16)


def plain_address(address: t.Any) -> IPAddress:
    """Returns an address as IPv4 where an IPv6 socket has it as one of IPv4, and without a zone."""
    found = ipaddress.ip_address(address.split("%")[0] if isinstance(address, str) else address)
    return getattr(found, "ipv4_mapped", None) or found


def readers() -> set[int]:
    """Returns the numbers of the accounts that may read the pages: root, this process's, and those in the file.

    Each line has a number first. The file is read anew each time, so that a change takes effect without a restart.
    """
    found = {0, os.geteuid()}
    with contextlib.suppress(OSError):
        lines = read_text(os.environ.get("FLOTILLA_READERS", "")).splitlines()
        found.update(int(line.split()[0]) for line in lines if re.match(r"[0-9]+\b", line))
    return found


async def refuse_reader(stream: t.Any) -> None:
    """Says why there are no pages, once the request is there, and ends the connection."""
    from tornado.iostream import StreamClosedError, UnsatisfiableReadError

    with contextlib.suppress(StreamClosedError, UnsatisfiableReadError, asyncio.TimeoutError):
        await asyncio.wait_for(stream.read_until(b"\r\n\r\n", max_bytes=2**16), ANSWER_SECONDS)
        await stream.write(REFUSED_READER)
    stream.close()


def read_text(path: str) -> str:
    """:raises OSError: it cannot be read."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def file_state(path: str) -> tuple[int, ...] | None:
    """Returns what is different when a file was replaced or written, or None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def revoked_certificates(text: str) -> dict[str, str]:
    """Returns for whom the certificates were that a file of authorities revokes, by their serial numbers."""
    return dict(REVOKED.findall(text))


def serial_number(certificate: t.Mapping[str, t.Any] | None) -> str:
    """Returns the serial number as ``revoked_certificates`` has it; nothing without a certificate."""
    return str((certificate or {}).get("serialNumber", "")).lstrip("0")


def trust_name(text: str) -> str:
    """Returns what a server that has loaded this file of authorities calls itself.

    It is the one protocol (ALPN) that the server knows. So a client that offers it is told whether the server trusts
    exactly these authorities and knows of exactly these revocations.
    """
    return "flotilla/" + hashlib.sha256(text.strip().encode()).hexdigest()[:32]


def certificate_expiries(security: t.Any, role: str) -> dict[str, int]:
    """Returns when the ``host`` certificate and the first ``authority`` expire, since 1970; nothing without TLS.

    The standard library tells that only of a connection's certificates, so there is one, within this process. Each end
    takes the other's certificate, so that key, certificate and authorities are known to fit together.

    :param security: What Dask knows of certificates and keys. ``role``: what it calls the process.
    :raises OSError, ValueError: they cannot be read or don't fit.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
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
    return {
        name: min(ssl.cert_time_to_seconds(each["notAfter"]) for each in certificates)
        for name, certificates in found.items()
        if certificates
    }


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


if __name__ == "flotilla_in_process":
    load_secrets()
    check_contexts()
    guard_pages()
