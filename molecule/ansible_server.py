# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs Ansible's commands without starting Python and importing Ansible for each: `python ansible_server.py SOCKET`.

A scenario's tests run Ansible hundreds of times. Each command is a process of its own, forked from one that has
imported Ansible and does nothing else. The commands share what Ansible makes of a module to send it to a host.

A request is one line of JSON: `words`, the command line, and `stdout` and `stderr`, files that are written. The answer
is the exit status. What depends on environment variables is as it was when the server was started.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socketserver
import sys
from typing import NoReturn

import ansible.cli.adhoc
import ansible.cli.playbook
import ansible.executor.module_common
import ansible.executor.task_executor
import ansible.plugins.action

COMMANDS = {"ansible": ansible.cli.adhoc.AdHocCLI, "ansible-playbook": ansible.cli.playbook.PlaybookCLI}


class Handler(socketserver.StreamRequestHandler):
    """Serves one request, in a process of its own."""

    def handle(self) -> None:
        request = json.loads(self.rfile.readline())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        command = os.fork()
        if not command:
            run(request["words"], request["stdout"], request["stderr"])
        _pid, status = os.waitpid(command, 0)
        self.wfile.write(b"%d\n" % os.waitstatus_to_exitcode(status))


def run(words: list[str], stdout: str, stderr: str) -> NoReturn:
    """Becomes the command."""
    for path, flags, number in ((os.devnull, os.O_RDONLY, 0), (stdout, os.O_WRONLY, 1), (stderr, os.O_WRONLY, 2)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = words
    status = 1
    try:
        COMMANDS[words[0]].cli_executor(words)
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # what Ansible does when Python ends is the server's to do


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    max_children = 100


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_details: sys.exit(0))
    gc.collect()
    gc.freeze()
    with Server(sys.argv[1], Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
