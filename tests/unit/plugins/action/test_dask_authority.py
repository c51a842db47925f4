# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys and certificates by community.crypto, in runs of Ansible that could show or leave them somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import typing as t
from pathlib import Path

import certificates
import pytest
import yaml
from cryptography import x509

from ansible_collections.flotilla.dask.plugins.filter.certificates import certificate_due, certificate_problem
from ansible_collections.flotilla.dask.plugins.plugin_utils.authority import BUNDLE, read

PASSPHRASE = "correct horse battery"
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*", re.DOTALL)
NAMES = ["worker1", "10.0.0.5"]


class Controller:
    """Runs tasks with Ansible, in a directory of its own."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.directory = directory
        self.certificates = directory / "certificates"

    def start(self, *tasks: dict[str, t.Any], options: t.Sequence[str] = ()) -> subprocess.Popen[str]:
        """Starts a run that sends no module as a file: there is no directory for one."""
        playbook = self.directory / f"{os.urandom(4).hex()}.yml"
        playbook.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.root / "collections"),
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_PIPELINING": "false",
            "ANSIBLE_REMOTE_TEMP": "/dev/null/nowhere",
        }
        inventory = "all: {hosts: {worker1: {ansible_connection: local, ansible_python_interpreter: python3}}}"
        (self.directory / "hosts.yml").write_text(inventory)
        (self.directory / "ansible.cfg").touch()
        words = ["ansible-playbook", "--inventory", "hosts.yml", *options, playbook.name]
        return subprocess.Popen(
            words, cwd=self.directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *tasks: dict[str, t.Any], options: t.Sequence[str] = ()) -> str:
        started = self.start(*tasks, options=options)
        output = started.communicate()[0]
        assert started.returncode == 0, output
        return output

    def authority(self, **changes: t.Any) -> dict[str, t.Any]:
        template = str(self.root / "roles/dask_certificates/templates/client.yaml.j2")
        arguments = {
            "directory": str(self.certificates),
            "cluster": "main",
            "scheduler": "tls://10.0.0.1:8786",
            "passphrase": PASSPHRASE,
            "clients": ["alice"],
            "template": template,
            **changes,
        }
        return {"flotilla.dask.dask_authority": arguments}

    def identity(self, **changes: t.Any) -> dict[str, t.Any]:
        authority = {"directory": str(self.certificates), "passphrase": PASSPHRASE}
        issue = {"names": NAMES, "usage": ["serverAuth", "clientAuth"], "days": 365, **authority}
        arguments = {"path": str(self.directory / "host" / "host.pem"), "issue": issue, **changes}
        return {"flotilla.dask.dask_identity": arguments}


@pytest.fixture
def controller(root: Path, tmp_path: Path) -> Controller:
    return Controller(root, tmp_path)


def test_keys_are_in_their_own_files_and_in_no_output_however_much_is_asked_for(controller: Controller) -> None:
    output = controller.run(controller.authority(), controller.identity(), options=["--diff", "-vvvvv"])
    found = read(str(controller.certificates))
    bundle = {name: (controller.certificates / "clients/alice" / name).read_text() for name in BUNDLE}
    host = (controller.directory / "host" / "host.pem").read_text()
    shown = CERTIFICATE.search(host)
    assert shown
    assert certificate_due(shown.group(), found.certificate, NAMES, 30) == ""
    assert certificate_problem(shown.group(), host) == ""
    assert certificate_due(bundle["client.crt"], found.certificate, ["alice"], 30) == ""
    assert certificate_problem(bundle["client.crt"], bundle["client.key"]) == ""
    configuration = yaml.safe_load(bundle["dask.yaml"])
    assert configuration["scheduler-address"] == "tls://10.0.0.1:8786"
    tls = configuration["distributed"]["comm"]["tls"]
    assert certificate_problem(tls["client"]["cert"], tls["client"]["key"]) == ""
    assert tls["ca-file"].strip() == found.trusted
    certificates.load_authority(controller.certificates / "issuer", PASSPHRASE)

    keys = {host.splitlines()[1], bundle["client.key"].splitlines()[1]}
    files = [path for path in controller.directory.rglob("*") if path.is_file()]
    assert {path.name for path in files if any(key in path.read_text() for key in keys)} == {
        *("host.pem", "client.key", "dask.yaml")
    }
    for secret in (PASSPHRASE, "PRIVATE KEY", *keys):
        assert secret not in output


def test_a_certificate_of_an_authority_or_of_its_own_key_is_for_what_it_is_asked_for(controller: Controller) -> None:
    alone = controller.identity(issue={"names": NAMES, "usage": ["serverAuth"], "days": 7})
    controller.run(controller.authority(clients=[]), alone)
    found = CERTIFICATE.search((controller.directory / "host" / "host.pem").read_text())
    assert found
    assert certificate_due(found.group(), found.group(), NAMES, 6) == ""
    certificate = x509.load_pem_x509_certificate(found.group().encode())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    issuer = x509.load_pem_x509_certificate((controller.certificates / "issuer" / "ca.crt").read_bytes())
    assert issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (issuer.not_valid_after_utc - issuer.not_valid_before_utc).days == 3650


def test_two_clients_at_the_same_moment_get_certificates_of_one_authority(controller: Controller) -> None:
    runs = [controller.start(controller.authority(clients=[name])) for name in ("alice", "bob")]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    found = read(str(controller.certificates))
    assert (list(found.certificates), found.clients) == ([1], ["alice", "bob"])
    for name in found.clients:
        bundle = controller.certificates / "clients" / name
        certificate, key = ((bundle / file).read_text() for file in ("client.crt", "client.key"))
        assert certificate_due(certificate, found.certificate, [name], 30) == ""
        assert certificate_problem(certificate, key) == ""


def test_a_refusal_is_in_words(controller: Controller) -> None:
    controller.run(controller.authority())
    refused = controller.start(controller.authority(passphrase="another one than that"), options=["-vvv"])
    output = refused.communicate()[0]
    assert refused.returncode
    assert "dask_certificates_passphrase does not open" in output
    assert "another one than that" not in output
