# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes keys and certificates by community.crypto, on the controller (private to this collection).

The modules get their arguments through a pipe, and log nothing: no key is ever in a temporary file, in a list of
processes or in a journal.
"""

from __future__ import annotations

import sys
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import is_address
from ansible_collections.flotilla.dask.plugins.plugin_utils.private import send_through_pipe

Result = t.Dict[str, t.Any]

BEFORE = "-1h"
"""From when on certificates are good: clocks differ."""


class Controller(ActionBase):
    """Runs modules on the controller, as the user who runs Ansible, whatever the task's host is."""

    def run(self, tmp: str | None = None, task_vars: Result | None = None) -> Result:
        raise NotImplementedError

    def execute(self, module: str, options: Result) -> Result:
        """Returns what a module returns.

        :raises DaskError: it failed.
        """
        variables = {"ansible_python_interpreter": sys.executable}
        return _checked(module, self._execute_module(module_name=module, module_args=options, task_vars=variables))


class Issuer:
    """Makes keys and certificates for the task of an action plugin."""

    def __init__(self, action: ActionBase) -> None:
        self._loaders = action._shared_loader_obj
        task = action._task.copy()
        task.no_log = True  # what modules are told is not logged on the controller
        task.delegate_to = None
        connection = self._loaders.connection_loader.get("ansible.builtin.local", action._play_context)
        send_through_pipe(connection)
        self._words = {
            "task": task,
            "connection": connection,
            "play_context": action._play_context,
            "loader": action._loader,
            "templar": action._templar,
            "shared_loader_obj": self._loaders,
        }
        self._controller = Controller(**self._words)

    def make_key(self, curve: str = "secp256r1", passphrase: str = "") -> str:
        """Returns a new private key, encrypted if there is a passphrase."""
        task = self._words["task"].copy()
        task.args = {"type": "ECC", "curve": curve, "format": "pkcs8"}
        if passphrase:
            task.args.update(passphrase=passphrase, cipher="auto")
        name = "community.crypto.openssl_privatekey_pipe"  # an action plugin: it is no module
        action = self._loaders.action_loader.get(name, **{**self._words, "task": task})
        return str(_checked(name, action.run(task_vars={}))["privatekey"])

    def make_authority(self, key: str, passphrase: str, name: str, days: int) -> str:
        """Returns the certificate of an authority, for ``days`` from now on."""
        request = self._request(
            {
                "privatekey_content": key,
                "privatekey_passphrase": passphrase,
                "common_name": name,
                "basic_constraints": ["CA:TRUE", "pathlen:0"],
                "basic_constraints_critical": True,
                "key_usage": ["keyCertSign", "cRLSign"],
                "key_usage_critical": True,
                "use_common_name_for_san": False,
            }
        )
        return self._sign(
            {
                "provider": "selfsigned",
                "csr_content": request,
                "privatekey_content": key,
                "privatekey_passphrase": passphrase,
                "selfsigned_not_before": BEFORE,
                "selfsigned_not_after": "+{0}d".format(days),
            }
        )

    def issue(
        self, names: t.Sequence[str], usage: t.Sequence[str], days: int, authority: tuple[str, str] | None = None
    ) -> tuple[str, str]:
        """Returns a new key and its certificate.

        :param names: Host names and addresses, or a client's name.
        :param usage: What the certificate is for: ``serverAuth``, ``clientAuth``.
        :param authority: The authority's directory and the passphrase of its key; without it the key signs itself.
        """
        key = self.make_key()
        request = self._request(
            {
                "privatekey_content": key,
                "common_name": names[0][:64],
                "subject_alt_name": subject_alternative_names(names),
                "key_usage": ["digitalSignature"],
                "key_usage_critical": True,
                "extended_key_usage": list(usage),
            }
        )
        after = "+{0}d".format(days)
        if authority is None:
            signer = {"provider": "selfsigned", "privatekey_content": key}
            signer.update(selfsigned_not_before=BEFORE, selfsigned_not_after=after)
        else:
            directory, passphrase = authority
            signer = {"provider": "ownca", "ownca_path": directory + "/ca.crt"}
            signer.update(ownca_privatekey_path=directory + "/ca.key", ownca_privatekey_passphrase=passphrase)
            signer.update(ownca_not_before=BEFORE, ownca_not_after=after)
        return key, self._sign({**signer, "csr_content": request})

    def _request(self, options: Result) -> str:
        return str(self._controller.execute("community.crypto.openssl_csr_pipe", options)["csr"])

    def _sign(self, options: Result) -> str:
        return str(self._controller.execute("community.crypto.x509_certificate_pipe", options)["certificate"])


def subject_alternative_names(names: t.Sequence[str]) -> list[str]:
    """Returns host names and addresses as community.crypto wants them: C(DNS:worker1), C(IP:10.0.0.5)."""
    return ["{0}:{1}".format("IP" if is_address(name) else "DNS", name) for name in names]


def _checked(module: str, result: Result) -> Result:
    if result.get("failed"):
        raise DaskError("{0} failed: {1}".format(module, result.get("msg", "it gave no reason")))
    return result
