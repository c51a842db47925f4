# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with a certificate, and whom it is for.

Ansible loads all filters of a collection anew in each process that uses one of them. So what takes time to import is
imported where it is needed.
"""

from __future__ import annotations

import datetime
import typing as t

from ansible.errors import AnsibleFilterError

if t.TYPE_CHECKING:
    from cryptography.x509 import Certificate


def certificate_due(certificate: str, issuer: str, names: t.Sequence[str], days: int) -> str:
    """Returns in words why a certificate has to be issued, or an empty string where it is good.

    :param certificate: PEM text; empty where there is none.
    :param issuer: The issuing authority's certificate, as PEM text; empty where there is none yet.
    :param names: The host names and IP addresses that the certificate has to be for, in any order.
    :param days: How long before its expiry a certificate is renewed.
    """
    if not certificate:
        return "there is none"
    if not issuer:
        return "another authority issued it"
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        found = x509.load_pem_x509_certificate(certificate.encode())
        authority = x509.load_pem_x509_certificate(issuer.encode())
    except ValueError as error:
        raise AnsibleFilterError(f"certificate_due takes certificates in PEM format ({error})") from error
    try:
        found.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return "another authority issued it"
    if found.not_valid_after_utc - datetime.timedelta(days=int(days)) <= datetime.datetime.now(datetime.timezone.utc):
        return f"it expires on {found.not_valid_after_utc:%Y-%m-%d at %H:%M} UTC"
    if subjects(found) != set(map(str, names)):
        return "it is for other names"
    return ""


def certificate_problem(certificate: str, key: str) -> str:
    """Returns in words why a certificate that somebody gave cannot be used, or an empty string where it can.

    :param certificate: PEM text, those of intermediate authorities after it.
    :param key: Its private key without a passphrase, as PEM text.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        found = x509.load_pem_x509_certificates(certificate.encode())[0]
    except ValueError:
        return "it isn't a certificate in PEM format"
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "its key isn't a private key in PEM format without a passphrase"
    shape = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*shape) != found.public_key().public_bytes(*shape):
        return "the key is another certificate's"
    now = datetime.datetime.now(datetime.timezone.utc)
    if found.not_valid_after_utc <= now:
        return f"it expired on {found.not_valid_after_utc:%Y-%m-%d at %H:%M} UTC"
    if found.not_valid_before_utc > now:
        return f"it is good from {found.not_valid_before_utc:%Y-%m-%d at %H:%M} UTC only"
    return ""


def subjects(certificate: Certificate) -> set[str]:
    """Returns the host names and addresses that a certificate is for."""
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    found = set(extension.value.get_values_for_type(x509.DNSName))
    return found | {str(address) for address in extension.value.get_values_for_type(x509.IPAddress)}


def unknown_authorities(trusted: t.Mapping[str, str], known: t.Sequence[str]) -> list[str]:
    """Returns the names of the hosts that trust authorities of which none is known.

    :param trusted: Of each host the certificates of the authorities that it trusts, as PEM text; empty for none.
    :param known: SHA-256 fingerprints of certificates.
    """
    from ansible_collections.flotilla.dask.plugins.plugin_utils.authority import fingerprints

    prints = {host: fingerprints(text) for host, text in trusted.items()}
    return [host for host, found in prints.items() if found and not set(found) & set(known)]


class FilterModule:
    """The filters of certificates."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "certificate_due": certificate_due,
            "certificate_problem": certificate_problem,
            "unknown_authorities": unknown_authorities,
        }
