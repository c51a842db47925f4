# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strangers stay outside, friends get in, and certificates change while the cluster works."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import certificates
import pytest
from distributed.comm import connect
from distributed.core import send_recv
from testbed import SECRET, Ansible, Cluster, Hosts, wait_until

PASSPHRASE = "of these tests only"
ROTATE = {"dask_rotate_authority": True}
PRIVATE_KEY = re.compile("-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", re.DOTALL)


@pytest.fixture(scope="session")
def bundle(ansible: Ansible, certificates_directory: Path) -> Path:
    """The bundle of a client."""
    run = ansible.playbook("flotilla.dask.client", extra_vars={"dask_client_name": "alice"})
    assert run.ok, run.problems
    again = ansible.playbook("flotilla.dask.client", extra_vars={"dask_client_name": "alice"})
    assert (again.ok, again.changed) == (True, {})
    return certificates_directory / "clients" / "alice"


@pytest.fixture(autouse=True)
def _healthy(cluster: Cluster) -> None:
    cluster.state(wait=300)


def comm_addresses(hosts: Hosts) -> list[str]:
    """Address and port of everything but SSH that listens for more than its own host."""
    found = []
    for host in hosts.group("all").values():
        lines = host.check_output("ss --no-header --listening --tcp --numeric").splitlines()
        addresses = [line.split()[3] for line in lines]
        found += [each for each in addresses if not each.startswith("127.") and not each.endswith(":22")]
    return found


def pids(hosts: Hosts) -> dict[str, list[str]]:
    """The processes of the cluster on every host; those that restart are others."""
    query = "systemctl show --property=MainPID --value 'dask-main-*.service'"
    return {name: host.check_output(query).split() for name, host in hosts.group("all").items()}


def talks(address: str, context: ssl.SSLContext | None) -> bool:
    """Whether Dask answers a question at an address."""

    async def ask() -> bool:
        protocol = "tls" if context else "tcp"
        try:
            comm = await asyncio.wait_for(connect(f"{protocol}://{address}", timeout=5, ssl_context=context), 5)
            answer = await asyncio.wait_for(send_recv(comm, op="identity"), 5)
        except (OSError, asyncio.TimeoutError):
            return False
        return bool(answer["id"])

    return asyncio.run(ask())


def context_of(authorities: str, identity: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authorities)
    context.check_hostname = False
    if identity:
        context.load_cert_chain(identity / "client.crt", identity / "client.key")
    return context


def write_identity(directory: Path, identity: certificates.Identity) -> Path:
    (directory / "client.crt").write_text(identity.certificate_text)
    (directory / "client.key").write_text(identity.key_text())
    return directory


def test_a_stranger_is_refused_at_every_open_port(hosts: Hosts, bundle: Path, tmp_path: Path) -> None:
    addresses = comm_addresses(hosts)
    assert len(addresses) == 1 + 2 * 3 * 2, addresses  # of two hosts, worker and nanny of three processes
    authorities = (bundle / "ca.crt").read_text()
    other = write_identity(tmp_path, certificates.issue(certificates.authority("flotilla.dask main"), ["alice"]))
    contexts = {
        "a friend": context_of(authorities, bundle),
        "plain TCP": None,
        "no certificate": context_of(authorities, None),
        "a certificate of another authority": context_of(authorities, other),
    }
    answered = {who: {each for each in addresses if talks(each, context)} for who, context in contexts.items()}
    assert answered == {**{who: set() for who in contexts}, "a friend": set(addresses)}


def test_a_bundle_makes_a_client_connect_by_itself(bundle: Path) -> None:
    program = "from distributed import Client; print(Client(timeout=20).submit(sum, [20, 22]).result())"
    environment = {**os.environ, "DASK_CONFIG": str(bundle / "dask.yaml")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "42", done.stderr


def test_a_user_without_a_certificate_is_told_how_to_get_one(ansible: Ansible, bundle: Path, hosts: Hosts) -> None:
    def asked(wait: int = 0) -> dict[str, Any]:
        result = ansible.module("scheduler", "flotilla.dask.dask_cluster_info", "-e", "ansible_become=false", wait=wait)
        state: dict[str, Any] = result["scheduler"]["cluster"]
        return state

    assert "flotilla.dask.client" in asked()["reasons"][0]
    configuration = "/home/operator/.config/dask"
    hosts["scheduler"].check_output(f"sudo -u operator mkdir --parents {configuration}")
    try:
        ansible.module("scheduler", "copy", src=str(bundle / "dask.yaml"), dest=configuration, owner="operator")
        state = asked(wait=300)
        assert state["health"] == "healthy", state["reasons"]
    finally:
        hosts["scheduler"].check_output("rm -r /home/operator/.config")


def test_keys_are_on_their_own_host_alone_and_in_no_output(
    ansible: Ansible, hosts: Hosts, certificates_directory: Path, cluster: Cluster
) -> None:
    output = ansible.verbose_playbook("flotilla.dask.rotate_certificates")
    keys = {
        name: PRIVATE_KEY.findall(host.check_output("cat /etc/dask/main/tls/host.pem"))[0].strip()
        for name, host in hosts.group("all").items()
    }
    assert len(set(keys.values())) == 3
    assert "PRIVATE KEY" not in output
    assert PASSPHRASE not in output
    assert SECRET not in output
    written = "".join(path.read_text(errors="replace") for path in certificates_directory.rglob("*") if path.is_file())
    for name, key in keys.items():
        line = key.splitlines()[0]
        assert line not in output + written, name
        for other, host in hosts.group("all").items():
            count = host.check_output(f"grep --recursive --files-with-matches -e {line} /etc /opt/dask /tmp | wc -l")
            assert int(count) == (other == name), (name, other)
    assert "ENCRYPTED PRIVATE KEY" in (certificates_directory / "issuer" / "ca.key").read_text()
    assert cluster.state(wait=300)["health"] == "healthy"


def test_a_controller_without_the_authority_is_refused_and_makes_none(ansible: Ansible, tmp_path: Path) -> None:
    lost = tmp_path / "certificates"
    for playbook in ("flotilla.dask.site", "flotilla.dask.client"):
        variables = {"dask_certificates_directory": str(lost), "dask_client_name": "alice"}
        run = ansible.playbook(playbook, extra_vars=variables)
        assert (run.ok, run.changed) == (False, {})
        assert f"dask_certificates_directory: '{lost}' is refused" in run.problems
        assert "dask_certificates_new_authority=true" in run.problems
    assert not lost.exists()


def test_an_expired_certificate_is_said_and_renewed_by_the_next_run(
    ansible: Ansible, hosts: Hosts, certificates_directory: Path, cluster: Cluster
) -> None:
    scheduler = hosts["scheduler"]
    names = ["scheduler", str(scheduler.interface("eth0").addresses[0])]
    expired = certificates.issue(
        certificates.load_authority(certificates_directory / "issuer", PASSPHRASE), names, days=-1
    )
    content = expired.key_text() + expired.certificate_text
    ansible.module("scheduler", "copy", dest="/etc/dask/main/tls/host.pem", content=content, owner="dask", mode="0400")
    scheduler.check_output("systemctl restart dask-main-scheduler")
    wait_until(lambda: "certificate has expired" in str(cluster.state()["reasons"]), "the expiry is said")
    assert "flotilla.dask.site renews" in cluster.state()["reasons"][0]
    before = pids(hosts)
    run = ansible.playbook("flotilla.dask.site")
    assert run.ok, run.problems
    assert run.changed["flotilla.dask.dask_certificates : Install the key with its certificate"] == ["scheduler"]
    assert pids(hosts)["scheduler"] == before["scheduler"]
    assert ansible.playbook("flotilla.dask.site").changed == {}


def test_who_is_revoked_is_cut_off_everywhere_without_a_restart_and_others_are_not(
    ansible: Ansible, hosts: Hosts, certificates_directory: Path, bundle: Path, cluster: Cluster, tmp_path: Path
) -> None:
    assert ansible.playbook("flotilla.dask.client", extra_vars={"dask_client_name": "mallory"}).ok
    for file in (certificates_directory / "clients" / "mallory").iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    addresses, authorities = comm_addresses(hosts), (bundle / "ca.crt").read_text()
    stolen, friend = context_of(authorities, tmp_path), context_of(authorities, bundle)
    assert {each for each in addresses if talks(each, stolen)} == set(addresses)
    before = pids(hosts)
    program = (
        "import time; from distributed import Client; comm = Client(timeout=20).scheduler_comm.comm\n"
        "print('in', flush=True)\nwhile not comm.closed(): time.sleep(0.1)"
    )
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path / "dask.yaml")}
    live = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert live.stdout is not None
        assert live.stdout.readline() == "in\n"
        run = ansible.playbook("flotilla.dask.revoke_client", extra_vars={"dask_client_name": "mallory"})
        assert run.ok, run.problems
        live.wait(60)
    finally:
        live.kill()
        live.wait()
    assert {each for each in addresses if talks(each, stolen)} == set()
    assert {each for each in addresses if talks(each, friend)} == set(addresses)
    assert pids(hosts) == before
    assert not (certificates_directory / "clients" / "mallory").exists()
    again = ansible.playbook("flotilla.dask.revoke_client", extra_vars={"dask_client_name": "mallory"})
    assert (again.ok, again.changed) == (True, {})
    unknown = ansible.playbook("flotilla.dask.revoke_client", extra_vars={"dask_client_name": "nobody"})
    assert not unknown.ok
    assert "no certificate was ever issued" in str(unknown.problems)
    assert unknown.changed == {}
    assert ansible.playbook("flotilla.dask.site").changed == {}
    assert cluster.state(wait=300)["health"] == "healthy"


def test_another_authority_takes_over_while_a_job_runs_also_after_the_rotation_was_killed(
    ansible: Ansible,
    cluster: Cluster,
    bundle: Path,
    certificates_directory: Path,
    hosts: Hosts,
    held_job: str,
    tmp_path: Path,
) -> None:
    for file in bundle.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    issuer = (certificates_directory / "issuer").resolve().name
    before = pids(hosts)
    rotation = ansible.start("flotilla.dask.rotate_certificates", extra_vars=ROTATE)
    try:
        wait_until(lambda: (certificates_directory / "issuer").resolve().name != issuer, "the new authority issues")
        assert rotation.poll() is None
    finally:
        os.killpg(rotation.pid, signal.SIGKILL)
        rotation.wait()
    assert len(list(certificates_directory.glob("ca-*"))) == 2

    run = ansible.playbook("flotilla.dask.rotate_certificates", extra_vars=ROTATE)
    assert run.ok, run.problems
    assert pids(hosts) == before
    job = cluster.release_job(held_job)
    assert (job["state"], job["attempts"]) == ("finished", 1)
    assert len(list(certificates_directory.glob("ca-*"))) == 1
    address = next(address for address in comm_addresses(hosts) if address.endswith(":8786"))
    authorities = (bundle / "ca.crt").read_text()
    assert talks(address, context_of(authorities, bundle))
    assert not talks(address, context_of(authorities, tmp_path))
    assert cluster.state(wait=300)["health"] == "healthy"
    assert ansible.playbook("flotilla.dask.site").changed == {}
