# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Prometheus has to know of a cluster's processes, and how it watches them. Private to this collection."""

from __future__ import annotations

import json
import re
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import LAST_PORT, Reader

JOB = "dask"
"""Prometheus' job of all processes of all clusters, whatever the scrape configuration calls it."""
SOON = 60
"""Seconds that are long enough where nothing works any more."""
SCRAPES = 4
"""How many samples what looks back has to have, as one alone says little."""
TIMEOUT = 10
DAY = 24 * 3600
OWN_LABELS = ("alertname", "cluster", "severity")

_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNIT = re.compile(r"[A-Za-z0-9@._:-]*")


def scrape_targets(endpoints: t.Iterable[t.Mapping[str, t.Any]], cluster: str) -> str:
    """Returns the text of a file for Prometheus' file-based discovery, one line for each process.

    Every process has one set of labels for as long as it is planned: ``job``, ``instance`` (a worker's name, or the
    host's with the process's), ``cluster``, ``host``, ``kind``, ``process``, and for workers ``group`` and ``worker``.

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


def monitoring_plan(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Returns how Prometheus watches a cluster, the options of the role without their prefix, and what follows:

    ``scrape_timeout``; ``soon_seconds``: how long what leaves nothing working has to last; ``window_seconds``: how far
    back what comes and goes is looked for, within the time that it has to last; ``history_seconds``: how far back what
    happens at once is told.

    :param settings: The options of the role ``dask_monitoring`` by their names; ``dask_ports``: those that the cluster
        has on the host itself; ``dask_certificates_renew_days``.
    :raises SettingsError: with every value that was refused.
    """
    reader = Reader(settings)

    def get(name: str) -> t.Any:
        return settings.get("dask_monitoring_" + name)

    def integer(name: str, lowest: int, highest: int, what: str) -> int:
        return reader.integer("dask_monitoring_" + name, get(name), lowest, highest, what)

    install = reader.choice("dask_monitoring_prometheus", get("prometheus"), ("install", "existing")) == "install"
    scrape = integer("scrape_seconds", 1, 120, "seconds, as Prometheus forgets in five minutes,")
    lasting = integer("for_seconds", 1, DAY, "seconds")
    renewed = reader.integer(
        "dask_certificates_renew_days", settings.get("dask_certificates_renew_days", 30), 0, 36500, "days"
    )
    plan = {
        "install": install,
        "listen": _listen(reader, "dask_monitoring_listen", get("listen"), settings.get("dask_ports", ()), install),
        "retention_days": integer("retention_days", 1, 36500, "days"),
        "scrape_seconds": scrape,
        "scrape_timeout": min(scrape, TIMEOUT),
        "alertmanagers": [
            _listen(reader, "dask_monitoring_alertmanagers[{0}]".format(index), value, (), True)
            for index, value in enumerate(reader.sequence("dask_monitoring_alertmanagers", get("alertmanagers")))
        ],
        "for_seconds": lasting,
        "soon_seconds": min(lasting, SOON),
        "window_seconds": max(lasting // 2, SCRAPES * scrape),
        "history_seconds": max(lasting * 2, SCRAPES * scrape),
        "memory_share": _number(reader, "memory_share", get("memory_share"), 1),
        "spill_free_share": _number(reader, "spill_free_share", get("spill_free_share"), 1),
        "stall_seconds": _number(reader, "stall_seconds", get("stall_seconds"), DAY),
        "certificate_days": integer(
            "certificate_days",
            1,
            max(renewed - 1, 1),
            "days, less than dask_certificates_renew_days as flotilla.dask.site renews none before,",
        ),
        "alert_labels": _labels(reader, "dask_monitoring_alert_labels", get("alert_labels")),
        "service": _service(reader, "service", get("service")),
        "grafana_service": _service(reader, "grafana_service", get("grafana_service")),
        "promtool": reader.path("dask_monitoring_promtool", get("promtool")),
    }
    for name in ("targets_directory", "rules_directory", "grafana_provisioning"):
        variable = "dask_monitoring_" + name
        plan[name] = reader.path(variable, get(name))
        if not plan[name] and not get(name):
            reader.refuse(variable, get(name), "an absolute path")
    reader.finish()
    return plan


def _listen(reader: Reader, variable: str, value: t.Any, taken: t.Container[int], needed: bool) -> str:
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if not match or not 0 < int(match[2]) <= LAST_PORT:
        reader.refuse(variable, value, "an address with a port, such as 127.0.0.1:9090")
        return ""
    if needed and int(match[2]) in taken:
        reader.refuse(variable, value, "a port that the cluster's own processes on this host don't use")
    return str(value)


def _number(reader: Reader, name: str, value: t.Any, below: float) -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number < below:
        reader.refuse("dask_monitoring_" + name, value, "a number above 0 and below {0}".format(below))
    return number


def _labels(reader: Reader, variable: str, value: t.Any) -> dict[str, str]:
    labels = {}
    for name, text in reader.mapping(variable, value).items():
        if not _LABEL.fullmatch(str(name)) or str(name).startswith("__") or name in OWN_LABELS:
            reader.refuse(
                variable,
                name,
                "names of letters, digits and '_' that begin with no digit and aren't " + ", ".join(OWN_LABELS),
            )
        elif isinstance(text, bool) or not isinstance(text, (str, int, float)):
            reader.refuse("{0}.{1}".format(variable, name), text, "a string (quote numbers and booleans)")
        else:
            labels[str(name)] = str(text)
    return labels


def _service(reader: Reader, name: str, value: t.Any) -> str:
    if value is None or (isinstance(value, str) and _UNIT.fullmatch(value)):
        return str(value or "")
    reader.refuse("dask_monitoring_" + name, value, "the name of a service, or nothing")
    return ""
