# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looks from outside which certificates running processes use (private to this collection)."""

from __future__ import annotations

import socket
import ssl
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._in_process import read_text, trust_name
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll

COMMS = ("scheduler", "worker", "nanny")
"""The ports of a process that speak Dask's protocol, by what the plan calls them."""

ANSWER_SECONDS = 5.0
"""How long one handshake may take."""


@dataclass(frozen=True)
class Port:
    """A port of a process."""

    process: str
    purpose: str
    address: str
    number: int

    def __str__(self) -> str:
        return "{0} ({1} port {2} of {3})".format(self.process, self.purpose, self.number, self.address)


def comm_ports(processes: t.Iterable[t.Mapping[str, t.Any]]) -> list[Port]:
    """Returns the ports of the plan's processes that need a certificate."""
    return [
        Port(process["name"], purpose, process["listen"][purpose], int(process["ports"][purpose]))
        for process in processes
        for purpose in COMMS
        if purpose in process["ports"]
    ]


class Installed:
    """The certificates that are installed for the processes of a host.

    :param authorities: File with the certificates that are trusted. ``identity``: with the host's key and certificate.
    :raises DaskError: they aren't there, or don't fit.
    """

    def __init__(self, authorities: str, identity: str) -> None:
        try:
            self._context = ssl.create_default_context(cafile=authorities)
            self._context.load_cert_chain(identity)
            self._trust = trust_name(read_text(authorities))
            text = read_text(identity)
            self._certificate = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----") :])
        except (OSError, ValueError) as error:
            raise DaskError(
                "The certificates in {0} and {1} cannot be used ({2}). Run flotilla.dask.site, which installs "
                "them.".format(authorities, identity, error)
            ) from error
        self._context.check_hostname = False  # nor does Dask
        self._context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
        self._context.set_alpn_protocols([self._trust])

    def problem(self, port: Port) -> str | None:
        """Returns in words how what a process uses differs; nothing if it doesn't, and None where none listens."""
        try:
            connection = socket.create_connection((port.address, port.number), ANSWER_SECONDS)
        except ConnectionRefusedError:
            return None
        except OSError as error:
            return "it does not answer ({0})".format(error)
        try:
            with self._context.wrap_socket(connection) as secured:
                shown, trusts = secured.getpeercert(binary_form=True), secured.selected_alpn_protocol()
        except (OSError, ValueError) as error:
            return "TLS fails ({0})".format(error)
        finally:
            connection.close()
        if shown != self._certificate:
            return "it shows another certificate"
        return "" if trusts == self._trust else "it trusts other authorities, or does not know of a revocation"


def wait_until_served(installed: Installed, ports: t.Iterable[Port], seconds: float) -> tuple[list[str], list[str]]:
    """Returns the ports whose processes use what is installed, and those that nobody listens on.

    :param seconds: How long they may take for it.
    :raises DaskError: some don't use it by then.
    """
    found: dict[Port, str | None] = dict.fromkeys(ports, "it was not asked")

    def all_are_served() -> bool:
        for port, problem in found.items():
            if problem:
                found[port] = installed.problem(port)
        return not any(found.values())

    if not poll(all_are_served, seconds, longest_pause=1):
        raise DaskError(
            "After {0:g} s running processes do not use the certificates that are installed: {1}. Their logs say why. "
            "A restart of the process loads them.".format(
                seconds, "; ".join("{0}: {1}".format(port, problem) for port, problem in found.items() if problem)
            )
        )
    return (
        [str(port) for port, problem in found.items() if problem == ""],
        [str(port) for port, problem in found.items() if problem is None],
    )
