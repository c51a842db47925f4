# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Dask's processes say of a drain and of their software, in words."""

from __future__ import annotations

import logging
import platform
import ssl
import time
from pathlib import Path

import certificates
import pytest
from distributed.security import Security

from ansible_collections.flotilla.dask.plugins.module_utils._in_process import (
    REASONS,
    certificate_expiries,
    describe_difference,
    describe_mismatch,
    describe_outcome,
    installed_packages,
)

DRAINED = {
    "name": "alpha-cpu-0",
    "reason": "",
    "seconds": 0.4159,
    "moved": 3,
    "moved_bytes": 24_000_000,
    "lost": 0,
    "lost_bytes": 0,
    "gone_for_good": 0,
    "lost_names": [],
    "unfinished": 0,
    "unfinished_names": [],
}


def test_packages_that_differ_are_named_with_both_versions() -> None:
    scheduler = {"python": "3.12.1", "numpy": "2.0", "xarray": "2024.1", "dask": "1"}
    other = {"python": "3.11.2", "numpy": "1.26", "lab": "3", "dask": "1"}
    assert describe_difference(scheduler, other) == (
        "lab 3 (scheduler: missing), numpy 1.26 (scheduler: 2.0), python 3.11.2 (scheduler: 3.12.1), "
        "xarray missing (scheduler: 2024.1)"
    )
    assert describe_difference(scheduler, dict(reversed(list(scheduler.items())))) == ""


def test_many_packages_that_differ_are_counted() -> None:
    words = describe_difference({}, {"package-{0:02}".format(number): "1" for number in range(14)})
    assert words.endswith("package-09 1 (scheduler: missing), and 4 more")


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ("numpy 1.26 (scheduler: 2.0)", "packages that differ: numpy 1.26 (scheduler: 2.0)"),
        ("", "packages that differ: none, by their versions"),
    ],
)
def test_a_mismatch_names_both_environments(difference: str, words: str) -> None:
    said = {"environment": "dask-1", "difference": difference}
    assert describe_mismatch("dask-2", said) == "environment dask-2 isn't the scheduler's dask-1; " + words
    assert describe_mismatch("", {**said, "environment": ""}).startswith(
        "environment (none) isn't the scheduler's (none)"
    )


def test_the_packages_of_a_process_have_normal_names_and_python_is_one() -> None:
    packages = installed_packages()
    assert packages["python"] == platform.python_version()
    assert {"distributed", "dask", "ansible-core"} <= set(packages)
    assert not [name for name in packages if name != name.lower() or "_" in name]


def test_a_drain_that_went_well_says_what_was_moved() -> None:
    assert describe_outcome(DRAINED) == "drained: 3 keys, 24.0 MB moved in 0.42 s"


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_drain_that_did_not_says_why_what_was_lost_and_what_begins_again(reason: str) -> None:
    outcome = {
        **DRAINED,
        "reason": reason,
        "lost": 12,
        "lost_bytes": 1_500_000,
        "gone_for_good": 1,
        "lost_names": ["a", "b"],
        "unfinished": 1,
        "unfinished_names": ["c"],
    }
    assert describe_outcome(outcome) == (
        "not drained, as {0}: 3 keys, 24.0 MB moved in 0.42 s; lost: 12 keys, 1.5 MB, of which 1 cannot be computed "
        "again: a, b and 10 more; not finished: 1 tasks: c".format(REASONS[reason])
    )


def security(directory: Path, days: float, **options: object) -> Security:
    """What Dask knows of a certificate that expires in so many days."""
    authority = certificates.authority()
    identity = certificates.issue(authority, ["here"], days)
    own, trusted = directory / "host.pem", directory / "ca.crt"
    own.write_text(identity.key_text() + identity.certificate_text)
    trusted.write_text(authority.certificate_text)
    files = {"tls_ca_file": str(trusted), "tls_worker_cert": str(own), "tls_worker_key": str(own)}
    return Security(require_encryption=True, **files, **options)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("days", [365, 1, -2], ids="{0} days".format)
def test_the_expiry_of_the_certificate_in_use_is_known_also_when_it_is_over(
    tmp_path: Path, days: int, version: ssl.TLSVersion
) -> None:
    expiries = certificate_expiries(
        security(tmp_path, days, tls_min_version=version, tls_max_version=version), "worker"
    )
    left = {name: (seconds - time.time()) / 86400 for name, seconds in expiries.items()}
    assert left == {"host": pytest.approx(days, abs=0.01), "authority": pytest.approx(3650, abs=0.01)}


def test_without_encryption_nothing_expires() -> None:
    assert certificate_expiries(Security(), "worker") == {}


def test_a_certificate_that_cannot_be_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = security(tmp_path, 365)
    (tmp_path / "host.pem").write_text("no certificate")
    with caplog.at_level(logging.WARNING, "distributed.flotilla"):
        assert certificate_expiries(broken, "worker") == {}
    assert "nobody knows when the certificate expires" in caplog.text
