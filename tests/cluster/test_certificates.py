# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Certificates, authorities and revocations change under running processes, which lose nothing by it."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import typing as t
from pathlib import Path

import certificates
import pytest
from certificates import Identity
from distributed import Client
from distributed.comm import Comm, connect
from distributed.core import send_recv
from distributed.security import Security

from ansible_collections.flotilla.dask.plugins.module_utils._environment_side import scheduler_state
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._served import (
    Installed,
    comm_ports,
    wait_until_served,
)
from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for
from ansible_collections.flotilla.dask.tests.cluster.conftest import LOOPBACK, SECONDS, Ansible, Cluster

PORTS = 1 + 2 * 2
"""Of the scheduler, and of a worker and a nanny each of two processes."""
ARRAYS, FUTURES = 40, 200

# A client as a job or a script of a user is one: with the cluster's environment variables and nothing else.
WORK = """
import json, os, sys, time
from distributed import Client, wait

ready, release, report = sys.argv[1:]
client = Client(timeout=60)
arrays = [os.urandom(50_000) for _each in range({arrays})]
scattered = client.scatter(arrays)
futures = client.map(lambda number: number + 1, range({futures}), pure=False)
wait(futures)
went_on = []
while not os.path.exists(release):
    direct = len(went_on) % 2 == 0  # from the workers by new connections, and by the scheduler
    went_on.append(client.gather(client.submit(len, scattered[len(went_on) % {arrays}], pure=False), direct=direct))
    open(ready, "w").close()
kept = [sum(map(bytes.__eq__, arrays, client.gather(scattered, direct=direct))) for direct in (True, False)]
done = sum(map(int.__eq__, client.gather(futures), range(1, {futures} + 1)))
with open(report, "w") as file:
    json.dump({{"kept": kept, "done": done, "went_on": set(went_on) == {{50_000}}}}, file)
""".format(arrays=ARRAYS, futures=FUTURES)


def replace(path: str, text: str) -> None:
    """Writes a file as Ansible does: nobody sees it half-written."""
    Path(path + ".part").write_text(text)
    os.replace(path + ".part", path)


@pytest.fixture
def directories(cluster: Cluster) -> t.Iterator[dict[str, str]]:
    """Where the cluster's files are, which are what they were when the test is over."""
    directories = cluster.plan["directories"]
    paths = (directories["identity"], directories["authorities"])
    before = {path: Path(path).read_text() for path in paths}
    yield directories
    for path, text in before.items():
        replace(path, text)
    assert len(served(cluster)) == PORTS


def served(cluster: Cluster, seconds: float = SECONDS) -> list[str]:
    """The ports at which what is installed is in use, once all of them do."""
    directories = cluster.plan["directories"]
    installed = Installed(directories["authorities"], directories["identity"])
    return wait_until_served(installed, comm_ports(cluster.plan["processes"]), seconds)[0]


def text_of(identity: Identity) -> str:
    return identity.key_text() + identity.certificate_text


def host(authority: Identity) -> str:
    return text_of(certificates.issue(authority, ["here", LOOPBACK]))


def generations(cluster: Cluster) -> set[str]:
    """What tells the scheduler and the workers that run from any that run instead of them later."""
    identity = scheduler_state(cluster.plan["description"]["scheduler"], SECONDS)
    return {identity["id"], *(worker["id"] for worker in identity["workers"].values())}


def security(directory: Path, name: str, authority: Identity) -> tuple[Security, Identity]:
    """Who ``name`` is by a bundle."""
    identity = certificates.issue(authority, [name])
    for file, text in (("ca", authority.certificate_text), (name, text_of(identity))):
        (directory / file).write_text(text)
    own = str(directory / name)
    files = {"tls_ca_file": str(directory / "ca"), "tls_client_cert": own, "tls_client_key": own}
    return Security(require_encryption=True, tls_min_version=ssl.TLSVersion.TLSv1_3, **files), identity


def addresses(cluster: Cluster) -> list[str]:
    return ["tls://{0}:{1}".format(port.address, port.number) for port in comm_ports(cluster.plan["processes"])]


async def talk(comm: Comm) -> bool:
    try:
        answer = await asyncio.wait_for(send_recv(comm, op="identity"), 20)
    except (OSError, asyncio.TimeoutError):
        return False
    return bool(answer["id"])


async def is_let_in(address: str, who: Security) -> bool:
    try:
        comm = await connect(address, timeout=5, **who.get_connection_args("client"))
    except OSError:
        return False
    try:
        return await talk(comm)
    finally:
        comm.abort()


def let_in(cluster: Cluster, who: Security) -> list[bool]:
    """Whether each port of each process takes a new connection."""

    async def ask() -> list[bool]:
        return [await is_let_in(address, who) for address in addresses(cluster)]

    return asyncio.run(ask())


@pytest.fixture
def work(cluster: Cluster, tmp_path: Path) -> t.Iterator[subprocess.Popen[bytes]]:
    """A client at work, which has what it holds by now."""
    paths = [str(tmp_path / name) for name in ("ready", "release", "report")]
    environment = {**os.environ, **cluster.plan["description"]["environment"]}
    with (tmp_path / "log").open("wb") as log:
        words = [cluster.plan["description"]["python"], "-c", WORK, *paths]
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: Path(paths[0]).exists() or process.poll() is not None, SECONDS, "the client to work")
        yield process
    finally:
        process.kill()
        process.wait()


def end_work(work: subprocess.Popen[bytes], directory: Path) -> dict[str, t.Any]:
    """What the client has at last."""
    (directory / "ready").unlink(missing_ok=True)
    wait_for(lambda: (directory / "ready").exists() or work.poll() is not None, SECONDS, "the client to go on")
    (directory / "release").touch()
    assert work.wait(SECONDS) == 0, (directory / "log").read_text()
    report: dict[str, t.Any] = json.loads((directory / "report").read_text())
    assert "preload" not in (directory / "log").read_text()
    return report


NOTHING_LOST = {"kept": [ARRAYS, ARRAYS], "done": FUTURES, "went_on": True}


def test_renewed_certificates_are_in_use_at_every_port_and_nothing_is_lost(
    cluster: Cluster, ansible: Ansible, directories: dict[str, str], work: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    before = generations(cluster)
    replace(directories["identity"], host(cluster.authority))
    arguments = {
        "authorities": directories["authorities"],
        "identity": directories["identity"],
        "processes": cluster.plan["processes"],
    }
    words = ("localhost", "-m", "flotilla.dask.dask_certificates_info", "-a", json.dumps(arguments))
    outcome = ansible.run("ansible", *words)
    result = json.loads("{" + outcome.stdout.partition(" => {")[2])
    assert (len(result["served"]), result["silent"], result["changed"]) == (PORTS, [], False), outcome.stdout
    assert end_work(work, tmp_path) == NOTHING_LOST
    assert generations(cluster) == before


def test_an_authority_takes_over_from_another_nothing_is_lost_and_the_old_one_is_trusted_no_longer(
    cluster: Cluster, directories: dict[str, str], work: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    new = certificates.authority()
    stranger, friend = (security(tmp_path, *who)[0] for who in (("old", cluster.authority), ("new", new)))
    both = cluster.authority.certificate_text + new.certificate_text
    (tmp_path / "ca").write_text(both)  # as they shall be told by what the processes trust
    before = generations(cluster)
    assert (let_in(cluster, stranger), let_in(cluster, friend)) == ([True] * PORTS, [False] * PORTS)
    steps = [("authorities", both), ("identity", host(new)), ("authorities", new.certificate_text)]
    for file, text in steps:
        replace(directories[file], text)
        assert len(served(cluster)) == PORTS
    assert (let_in(cluster, stranger), let_in(cluster, friend)) == ([False] * PORTS, [True] * PORTS)
    assert end_work(work, tmp_path) == NOTHING_LOST
    assert generations(cluster) == before


def test_what_does_not_fit_together_is_not_loaded_and_said_until_it_does(
    cluster: Cluster, directories: dict[str, str]
) -> None:
    written = {name: cluster.log(name).stat().st_size for name in cluster.running}
    before = Path(directories["identity"]).read_text()
    other = certificates.issue(cluster.authority, ["here"])
    not_ours = host(certificates.authority("another"))
    for wrong in (other.key_text() + before[before.index("-----BEGIN CERT") :], before[:700], not_ours):
        replace(directories["identity"], wrong)

        def is_said(written: dict[str, int] = written) -> bool:
            logs = [cluster.log(name).read_bytes()[length:].decode() for name, length in written.items()]
            return all("cannot be used yet, those before stay in use" in log for log in logs)

        wait_for(is_said, SECONDS, "every process to say it")
        written = {name: cluster.log(name).stat().st_size for name in cluster.running}
        replace(directories["identity"] + ".before", before)
        installed = Installed(directories["authorities"], directories["identity"] + ".before")
        assert len(wait_until_served(installed, comm_ports(cluster.plan["processes"]), SECONDS)[0]) == PORTS
    with pytest.raises(DaskError, match="it shows another certificate"):
        served(cluster, 0)
    replace(directories["identity"], text_of(other))
    assert len(served(cluster)) == PORTS


def test_who_is_revoked_is_cut_off_and_let_in_nowhere_while_others_stay(
    cluster: Cluster, directories: dict[str, str], tmp_path: Path
) -> None:
    (alice, revoked), (bob, _identity) = (security(tmp_path, name, cluster.authority) for name in ("alice", "bob"))
    scheduler = cluster.plan["description"]["scheduler"]
    before = generations(cluster)
    line = "Revoked: {0:X} alice\n".format(revoked.certificate.serial_number)

    async def live() -> tuple[list[bool], list[bool]]:
        comms = {
            who: [
                await connect(address, timeout=20, **who.get_connection_args("client"))
                for address in addresses(cluster)
            ]
            for who in (alice, bob)
        }
        assert [await talk(comm) for who in comms for comm in comms[who]] == [True] * (2 * PORTS)
        replace(directories["authorities"], cluster.authority.certificate_text + line)
        closed = [asyncio.wait_for(comm.read(), SECONDS) for comm in comms[alice]]
        ends = await asyncio.gather(*closed, return_exceptions=True)
        try:
            return [isinstance(end, OSError) for end in ends], [await talk(comm) for comm in comms[bob]]
        finally:
            for comm in (comm for who in comms for comm in comms[who]):
                comm.abort()

    with Client(scheduler, security=bob, set_as_default=False) as friend:
        held = friend.scatter(b"of bob")
        gone = Client(scheduler, security=alice, set_as_default=False)
        try:
            lost = gone.scatter(b"of alice")
            assert asyncio.run(live()) == ([True] * PORTS, [True] * PORTS)
            assert len(served(cluster)) == PORTS
            names = friend.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.clients))
            assert (gone.id in names, friend.id in names) == (False, True)
            assert (let_in(cluster, alice), let_in(cluster, bob)) == ([False] * PORTS, [True] * PORTS)
            with pytest.raises(OSError, match=r"."):
                Client(scheduler, security=alice, set_as_default=False, timeout=5)
            del lost
        finally:
            gone.close(timeout=1)
        assert held.result() == b"of bob"
    assert generations(cluster) == before

    # And whoever starts later knows it from the first moment on.
    cluster.lose(cluster.workers[0])
    cluster.start()
    assert (let_in(cluster, alice), let_in(cluster, bob)) == ([False] * PORTS, [True] * PORTS)
