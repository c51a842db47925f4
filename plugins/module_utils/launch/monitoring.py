# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Prometheus has to know of a cluster's processes. Private to this collection."""

from __future__ import annotations

import json
import typing as t

JOB = "dask"
"""Prometheus' job of all processes of all clusters, whatever the scrape configuration calls it."""


def scrape_targets(endpoints: t.Iterable[t.Mapping[str, t.Any]], cluster: str) -> str:
    """Returns the text of a file for Prometheus' file-based discovery, one line for each process.

    Every process has one set of labels for as long as it is planned: ``job``, ``instance`` (a worker's name, or the host's
    name and ``scheduler``), ``cluster``, ``host``, ``kind``, ``process``, and for workers ``group`` and ``worker``.

    :param endpoints: What ``front.cluster_endpoints`` returned.
    """
    lines = []
    for each in endpoints:
        labels = {
            "job": JOB,
            "instance": each["worker"] or "{0}-{1}".format(each["host"], each["process"]),
            "cluster": cluster,
            "host": each["host"],
            "kind": each["kind"],
            "process": each["process"],
        }
        if each["worker"]:
            labels.update(group=each["group"], worker=each["worker"])
        lines.append(json.dumps({"targets": [each["http"]], "labels": labels}, ensure_ascii=False))
    return "[\n{0}\n]\n".format(",\n".join(lines))
