# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a module is told is neither in a file nor in the host's log."""

from __future__ import annotations

import typing as t

import pytest
from ansible import constants

from ansible_collections.flotilla.dask.plugins.plugin_utils.private import send_through_pipe, unlogged


def test_ansible_is_told_to_log_nothing_on_the_host_and_variables_stay_as_they_are() -> None:
    before = {"inventory_hostname": "alpha"}
    after = unlogged(before)
    logged = [
        constants.config.get_config_value("DEFAULT_NO_TARGET_SYSLOG", variables=variables)
        for variables in (before, after, unlogged(None))
    ]
    assert logged == [False, True, True]
    assert before == {"inventory_hostname": "alpha"}
    assert after["inventory_hostname"] == "alpha"


@pytest.mark.parametrize("can", [True, False])
def test_a_connection_that_has_a_pipe_uses_it(can: bool) -> None:
    class Connection:
        has_pipelining = can

        def __init__(self) -> None:
            self.options: dict[str, t.Any] = {}

        def set_option(self, name: str, value: t.Any) -> None:
            self.options[name] = value

    connection = Connection()
    send_through_pipe(connection)
    assert connection.options == ({"pipelining": True} if can else {})
