# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What every module says about itself."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: In check mode nothing changes, and what is reported is what a real run would report.
  diff_mode:
    description: In diff mode the result shows what changes, before and after.
  idempotent:
    description: A second run with the same arguments reports no change.
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
    details: This module does not change anything.
  diff_mode:
    support: N/A
    details: This module does not change anything.
  idempotent:
    support: full
"""

    FACTS = r"""
options: {}
attributes:
  facts:
    description: The result's C(ansible_facts) become facts of the host.
    support: full
"""

    CLUSTER = r"""
options:
  cluster:
    description:
      - Name of the cluster. Not needed on a host with one cluster.
    type: str
  home:
    description:
      - Directory that holds the cluster's files, where the variable C(dask_home) says other than the default.
    type: str
    default: ""
"""
