# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.flotilla.dask.plugins.plugin_utils.issuing import subject_alternative_names


def test_names_and_addresses_are_told_apart() -> None:
    assert subject_alternative_names(["worker1", "10.0.0.5", "fd00::5"]) == ["DNS:worker1", "IP:10.0.0.5", "IP:fd00::5"]
