# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a proxy serves: which address leads to which page of which cluster, and to nothing else.

Private to this collection.
"""

from __future__ import annotations

import base64
import re
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import LAST_PORT, Reader, is_address

IMPLEMENTATIONS = ("nginx", "traefik")
ISSUERS = ("cluster", "own")

PAGES = (
    "("
    "[a-z][a-z0-9-]*(/ws)?"  # /status and its siblings, each with its websocket; /health, /metrics
    "|individual-plots[.]json"
    "|json/[a-z]+[.](json|html)"
    "|info/[a-z-]+/.+[.]html"
    "|statics?/[A-Za-z0-9._/@+-]+"
    ")?"
)
"""The paths of the pages that schedulers and workers have, as a regular expression without the first slash.

Whatever else Dask serves is not for somebody who only looks: ``api/`` retires workers, ``proxy/`` leads to other hosts
and ports, and ``jupyter/`` executes code.
"""

HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "Cache-Control": "no-store",
    # Bokeh's pages have scripts and styles in their text, and its tables compile functions. Dask's own tables take
    # their style from a public server. Everything else is of the same origin.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline' https://cdnjs.cloudflare.com/ajax/libs/bulma/; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What every answer has, whoever gave it."""

DROPPED_HEADERS = (
    *HEADERS,
    *("Server", "Set-Cookie", "WWW-Authenticate", "Expires", "Pragma", "Refresh", "Link", "Alt-Svc", "Clear-Site-Data"),
    *("Access-Control-Allow-Credentials", "Access-Control-Allow-Origin", "Service-Worker-Allowed"),
    *("Content-Security-Policy-Report-Only", "NEL", "Report-To", "Reporting-Endpoints"),
)
"""What browsers would obey if a dashboard said it. Every task of a cluster can make its dashboards say anything."""

_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
FORWARDED_HEADERS = (
    *("Forwarded", "Via", "Proxy", "X-Forwarded", "X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-Method"),
    *("X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Scheme", "X-Forwarded-Ssl"),
    *("X-Original-Url", "X-Original-Uri", "X-Original-Method", "X-Rewrite-Url", "X-Http-Method-Override"),
    *("Remote-User", "Remote-Groups", "X-Remote-User", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip"),
    *("X-Cluster-Client-Ip", "X-Originating-Ip", "X-Scheme"),
)
"""What the outside may say about where a request comes from and who makes it, and that Traefik does not replace itself.

nginx passes on only the headers that a dashboard needs.
"""

_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_PREFIX = re.compile(r"/([A-Za-z0-9_-][A-Za-z0-9._-]*/)*")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~%!&()*+,:=@?/-]*)?")


def proxy_site(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Returns what the proxy on one host serves.

    :param settings: The variables of role dask_proxy by the names that the inventory uses; ``dask_cluster_name``;
        ``host``: the proxy's inventory name; ``plan``: its launch plan; ``endpoints``: what ``cluster_endpoints``
        returns; ``beside``: the ``cluster`` of every other cluster that this proxy serves.
    :return: ``implementation``, ``issuer``, ``names`` (host names, as in a URL), ``origins`` (scheme, name and port),
        ``http_port`` (0 for none), ``https_port``, ``cluster`` (what is particular to this one) and ``clusters`` (that
        and those beside it). A cluster has its ``certificate`` (whether it sees to the proxy's: one of them does),
        ``prefix`` (begins and ends with a slash), ``scheduler`` (address and port of its pages), ``workers`` (what is
        after ``proxy/`` in the links of Dask's pages to address and port), ``users`` (their names) or ``auth_request``
        and ``sign_in``, ``log_ins_per_minute``, and ``passwords``, which changes with them. ``pages``: the paths that
        there are below a cluster's prefix and a worker's link, as a regular expression; ``log_ins``: user to what
        ``credentials`` returns; ``headers`` (name to value): what is added to answers; ``dropped_headers`` and
        ``forwarded_headers``: what is taken from answers of dashboards and from requests. Nothing of it is secret.
    :raises SettingsError: with every value that was refused.
    """
    reader = Reader(settings)
    plan = settings["plan"]
    names = _read_names(reader, settings.get("dask_proxy_names") or [settings["host"], plan["address"]])
    https_port = _read_port(reader, "dask_proxy_https_port", settings.get("dask_proxy_https_port", 443), 1)
    http_port = _read_port(reader, "dask_proxy_http_port", settings.get("dask_proxy_http_port", 80), 0)
    _refuse_taken_ports(reader, https_port, http_port, plan)
    cluster = {
        "cluster": settings["dask_cluster_name"],
        "certificate": _owns_certificate(reader, settings["beside"]),
        "prefix": _read_prefix(reader, settings.get("dask_proxy_prefix", "/"), settings["beside"]),
        **_routes(reader, settings["endpoints"]),
        **_read_authentication(reader),
    }
    implementation = reader.choice(
        "dask_proxy_implementation", settings.get("dask_proxy_implementation", "nginx"), IMPLEMENTATIONS
    )
    default_issuer = "cluster" if plan["tls"] else "own"
    issuer = reader.choice("dask_proxy_issuer", settings.get("dask_proxy_issuer") or default_issuer, ISSUERS)
    if issuer == "cluster" and not plan["tls"]:
        reader.refuse("dask_proxy_issuer", issuer, "own, as with dask_tls: false the cluster has no authority")
    reader.finish()
    clusters = sorted([*settings["beside"], cluster], key=lambda each: str(each["cluster"]))
    return {
        "implementation": implementation,
        "issuer": issuer,
        "names": names,
        "origins": ["https://" + name + ("" if https_port == 443 else ":{0}".format(https_port)) for name in names],
        "http_port": http_port,
        "https_port": https_port,
        "cluster": cluster,
        "clusters": clusters,
        "pages": PAGES,
        "log_ins": {user: credentials(user) for user in sorted({user for each in clusters for user in each["users"]})},
        "headers": dict(HEADERS),
        "dropped_headers": list(DROPPED_HEADERS),
        "forwarded_headers": list(FORWARDED_HEADERS),
    }


def credentials(user: str) -> str:
    """Returns a regular expression for the header ``Authorization`` of whoever says to be that user.

    It holds for every password. Base64 makes four characters of three bytes, so the one that the end of a name shares
    with the password varies.
    """
    said = (user + ":").encode()
    whole = len(said) - len(said) % 3
    known, varying = base64.b64encode(said[:whole]).decode(), ""
    shared = "".join("{0:08b}".format(byte) for byte in said[whole:])
    if shared:
        *fixed, last = (shared[start : start + 6] for start in range(0, len(shared), 6))
        known += "".join(_BASE64[int(bits, 2)] for bits in fixed)
        varying = "[{0}]".format(_BASE64[int(last.ljust(6, "0"), 2) : int(last.ljust(6, "1"), 2) + 1])
    return "^(?i:basic) {0}{1}".format(known.replace("+", "[+]"), varying)


def _read_names(reader: Reader, value: t.Any) -> list[str]:
    variable = "dask_proxy_names"
    names = []
    for index, name in enumerate(reader.sequence(variable, value)):
        if is_address(name):
            names.append("[{0}]".format(name) if ":" in name else str(name))
        elif isinstance(name, str) and _NAME.fullmatch(name):
            names.append(name.lower())
        else:
            reader.refuse(
                "{0}[{1}]".format(variable, index),
                name,
                "a host name or an IP address that browsers reach the proxy at",
            )
    return sorted(set(names))


def _read_port(reader: Reader, variable: str, value: t.Any, lowest: int) -> int:
    return reader.integer(variable, value, lowest, LAST_PORT, "a port," if lowest else "a port, or 0 for none,")


def _refuse_taken_ports(reader: Reader, https_port: int, http_port: int, plan: t.Mapping[str, t.Any]) -> None:
    taken = {port: process["name"] for process in plan["processes"] for port in process["ports"].values()}
    for variable, port in (("dask_proxy_https_port", https_port), ("dask_proxy_http_port", http_port)):
        if port in taken:
            reader.refuse(variable, port, "a port that {0} of the same host doesn't use".format(taken[port]))
    if https_port == http_port:
        reader.refuse("dask_proxy_http_port", http_port, "another port than dask_proxy_https_port, or 0 for none")


def _read_prefix(reader: Reader, value: t.Any, beside: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    variable = "dask_proxy_prefix"
    prefix = str(value).rstrip("/") + "/"
    if not _PREFIX.fullmatch(prefix):
        reader.refuse(
            variable, value, "a path that begins with '/', of letters, digits, '.', '_' and '-', such as / or /main"
        )
    for other in beside:
        if other["prefix"] == prefix:
            reader.refuse(
                variable, value, "a prefix that cluster {0} of this proxy hasn't got".format(other["cluster"])
            )
    return prefix


def _owns_certificate(reader: Reader, beside: t.Iterable[t.Mapping[str, t.Any]]) -> bool:
    """One certificate serves all clusters of a proxy: that of the first one, for as long as it is there."""
    owners = [other["cluster"] for other in beside if other["certificate"]]
    given = reader.settings.get("dask_proxy_certificate")
    if owners and given:
        reader.refuse(
            "dask_proxy_certificate",
            given,
            "none, as cluster {0} of this proxy sees to its certificate".format(owners[0]),
        )
    return not owners


def _routes(reader: Reader, endpoints: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """Dask's pages link to a worker's by its port and the address that it is connected from."""
    scheduler = ""
    workers = {}
    hosts = {}
    for endpoint in endpoints:
        hosts[endpoint["host"]] = endpoint["address"]
        if endpoint["kind"] == "scheduler":
            scheduler = endpoint["http"]
        else:
            workers["{0}/{1}".format(endpoint["http_port"], endpoint["address"])] = endpoint["http"]
    for host, address in hosts.items():
        if not is_address(address):
            reader.refuse(
                "dask_host_address",
                address,
                "for host {0} behind a proxy an IP address, as Dask's links to workers have it".format(host),
            )
    return {"scheduler": scheduler, "workers": workers}


def _read_authentication(reader: Reader) -> dict[str, t.Any]:
    """Users with passwords, or somebody else who is asked."""
    get = reader.settings.get
    users = {}
    for name, hashed in reader.mapping("dask_proxy_users", get("dask_proxy_users")).items():
        if not isinstance(name, str) or not _USER.fullmatch(name):
            reader.refuse("dask_proxy_users", name, "names of at most 64 letters, digits and '._@+-'")
        elif not isinstance(hashed, str) or not _BCRYPT.fullmatch(hashed):
            # Whatever it is, it may be a password: it is not repeated.
            reader.refuse(
                "dask_proxy_users." + name,
                "(not shown)",
                "a bcrypt hash, which starts with $2b$ or $2y$; 'htpasswd -nBC 10 {0}' makes one".format(name),
            )
        else:
            users[name] = str(hashed)
    urls = {}
    for key in ("auth_request", "sign_in"):
        urls[key] = str(get("dask_proxy_" + key) or "")
        if urls[key] and not _URL.fullmatch(urls[key]):
            reader.refuse("dask_proxy_" + key, urls[key], "an address that starts with https:// or http://")
    if bool(users) == bool(urls["auth_request"]) and not reader.problems:
        reader.refuse(
            "dask_proxy_users",
            ", ".join(users),
            "users with bcrypt hashes of their passwords, or dask_proxy_auth_request; one of both, and not both",
        )
    per_minute = get("dask_proxy_log_ins_per_minute", 20)
    return {
        "users": sorted(users),
        **urls,
        "log_ins_per_minute": reader.integer(
            "dask_proxy_log_ins_per_minute", per_minute, 1, 6000, "a number of failed log-ins"
        ),
        "passwords": digest(users),
    }
