# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a user may say about a cluster: every value checked, every refusal in words. Private to this collection.

The keys are the inventory's variable names, so that a message names what the user wrote.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass, field, fields

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils._locks import has_package
from ansible_collections.flotilla.dask.plugins.module_utils._platform import OLDEST_GLIBC, Python, runs_uv
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import read_secrets, set_of, shown
from ansible_collections.flotilla.dask.plugins.module_utils._wait import LONGEST_DRAIN
from ansible_collections.flotilla.dask.plugins.module_utils.launch import memory
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import absolute, is_identifier, refusal

AUTO = "auto"
LAUNCHERS = (AUTO, "systemd", "supervisor", "docker", "swarm", "batch")
IN_CONTAINERS = ("docker", "swarm")
"""The launchers for which a host needs a Docker Engine and the cluster's image."""
NETWORKS = ("host", "bridge")
ENDPOINT_MODES = ("dnsrr", "vip")
SCOPES = (AUTO, "system", "user")
MISMATCHES = ("refuse", "warn")
REMOVALS = ("cluster", "all")
METHODS = ("venv", "conda", "existing")
DOWNLOADERS = ("host", "controller")
PORT_KINDS = ("worker", "nanny", "dashboard")
FIRST_PORT, LAST_PORT = 1024, 65535
LOOPBACK = "127.0.0.1"
DEFAULT_BASE = "python:3.11-slim-bookworm"
DEFAULT_REPOSITORY = "flotilla-dask"
NEEDED_PACKAGES = ("distributed", "prometheus_client")
"""Without it Dask's ``/metrics`` answers, with nothing, and no alert ever fires."""
DEFAULT_GROUPS: tuple[dict[str, t.Any], ...] = ({"name": "cpu"},)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]*\$?")
_WORD = re.compile(r"[^\s\x00-\x1f\x7f=,'\"]+")
_ADDRESS = re.compile(r"[A-Za-z0-9:][A-Za-z0-9._:-]*")
_PATH = re.compile(r"/[A-Za-z0-9/._+@~-]*")
_PLACE = re.compile(r"(https?://|file:///|/)[^\s\x00-\x1f\x7f]*")
_TEXT = re.compile(r"[^\x00-\x1f\x7f]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_VOLUME = re.compile(r"(?P<source>/[^:,\x00-\x1f\x7f]*)(:(?P<path>/[^:,\x00-\x1f\x7f]*))?(?P<mode>:ro|:rw)?")
_CONSTRAINT = re.compile(
    r"(node\.(id|hostname|role|ip|platform\.(os|arch)|labels\.[A-Za-z_][A-Za-z0-9._-]+)|engine\.labels\.[A-Za-z0-9._-]+)"
    r" *(==|!=) *[A-Za-z0-9:_.*/-]+"
)
_VERSION = re.compile(r"(\d+)\.(\d+)")
OLDEST_ENGINE = (20, 10)


@dataclass(frozen=True)
class Host:
    """One host, as seen from the plan.

    ``memory``: bytes, or None where it isn't known. ``taken``: ports of other clusters here, port to cluster's name.
    ``authorities`` and ``certificate``: the PEM texts that are, or are about to be, installed here.
    ``platform``: as conda calls it, e.g. ``linux-64``. ``libc``: the version of its GNU C library, empty for another.
    ``python``: what packages for the Python that makes its environments have to fit to, empty where nothing asks.
    ``engine``: the version of its Docker Engine, empty where none
    answers, and ``engine_problem`` why. ``encryption_problem``: why its kernel cannot encrypt between containers, empty
    where it can. ``launcher``: what runs the cluster here already, empty where nothing does. ``missing``: paths that
    were looked for and are not there; ``real_paths``: where the others are, links followed. ``problems``: in words what
    keeps the cluster from having its account and directories here.
    """

    name: str
    address: str
    http_address: str = LOOPBACK
    memory: int | None = None
    service_manager: str = ""
    root: bool = False
    user: str = ""
    user_directory: str = ""
    taken: t.Mapping[int, str] = field(default_factory=dict)
    authorities: str = ""
    certificate: str = ""
    platform: str = ""
    libc: str = ""
    python: t.Mapping[str, str] = field(default_factory=dict)
    engine: str = ""
    engine_problem: str = ""
    encryption_problem: str = ""
    launcher: str = ""
    missing: tuple[str, ...] = ()
    real_paths: t.Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Environment:
    """The software that processes run, and nothing that doesn't decide its content.

    ``path``: for method ``existing``, a prefix with ``bin/python``. ``command``: the Python that makes virtual
    environments, that of the launcher too. ``lock``: what identifies the lock of the other methods; ``locked``: its
    packages for the host. ``plugins``: what the lookup ``plugin_sources`` returns, of which only the digests count.
    """

    name: str
    method: str
    path: str = ""
    command: str = ""
    lock: str = ""
    locked: tuple[t.Mapping[str, str], ...] = ()
    plugins: tuple[t.Mapping[str, str], ...] = ()

    def content(self) -> dict[str, t.Any]:
        """Returns what the fingerprint is made from."""
        plugins = [plugin["digest"] for plugin in self.plugins]
        if self.method == "existing":
            return {"method": self.method, "path": self.path, "plugins": plugins}
        made_by = {"command": self.command} if self.method == "venv" else {}
        return {"method": self.method, **made_by, "lock": self.lock, "plugins": plugins}


@dataclass(frozen=True)
class Downloads:
    """How software gets to a host. None of this decides what it is.

    ``where``: who fetches, host or controller. ``conda_mirror``, ``wheelhouse``: directory or address instead of
    channels and index. ``ca_bundle``, ``cache``: paths on the controller. ``keep``: generations of an environment.
    """

    where: str
    conda_mirror: str
    wheelhouse: str
    ca_bundle: str
    cache: str
    keep: int


@dataclass(frozen=True)
class Volume:
    """A host's directory in every container of the cluster."""

    source: str
    path: str
    read_only: bool


@dataclass(frozen=True)
class Containers:
    """How processes run where they run in containers.

    ``network``: host, or bridge with published ports. ``image``: one that was made elsewhere; empty for one that is
    made from ``base`` and the cluster's environment. ``registry``, ``repository``: where that one goes, and its name.
    """

    network: str
    volumes: tuple[Volume, ...]
    image: str
    base: str
    registry: str
    repository: str


@dataclass(frozen=True)
class Swarm:
    """How processes run in a swarm.

    ``encrypted``: whether what containers send each other is, beside Dask's own TLS. ``endpoint_mode``: how Docker
    makes services known by name. ``manager``: whether the host manages the swarm, as that of the scheduler always does.
    ``memory``: bytes of each node that is known, by its name.
    """

    encrypted: bool
    endpoint_mode: str
    manager: bool
    memory: t.Mapping[str, int]


@dataclass(frozen=True)
class WorkerGroup:
    """Worker processes that are alike: of one host, or in a swarm of whichever nodes.

    ``memory``: bytes for the whole group on a host, or of each of the ``replicas``. ``placement``: what a swarm demands
    of the nodes. ``secrets``: their names.
    """

    name: str
    processes: int = 1
    replicas: int = 1
    placement: tuple[str, ...] = ()
    threads: int = 1
    memory: int = 0
    ports: t.Mapping[str, int] = field(default_factory=lambda: {"worker": 9000, "nanny": 9100, "dashboard": 9200})
    resources: t.Mapping[str, float] = field(default_factory=dict)
    environment: t.Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    local_directory: str = ""

    def slot(self, number: object) -> str:
        """The name of one replica of a swarm."""
        return "{0}-{1}".format(self.name, number)


@dataclass(frozen=True)
class Cluster:
    """What is the same on all hosts of a cluster.

    ``firewall``: whether only whom the plan's ports are for reaches them. ``remove``: what a teardown removes, the
    ``cluster`` or ``all``. ``http_users``: accounts on its hosts that may read dashboards and metrics. ``http_hosts``:
    the hosts, by name, that these are for: proxies and monitoring. ``secrets``: the names of those that scheduler and
    workers have.
    """

    name: str
    launcher: str
    scope: str
    home: str
    tls: bool
    scheduler_host: str
    scheduler_port: int
    scheduler_dashboard_port: int
    scheduler_environment: t.Mapping[str, str]
    scheduler_preload: tuple[str, ...]
    secrets: tuple[str, ...]
    configuration: t.Mapping[str, t.Any]
    drain_seconds: int
    environment_mismatch: str
    firewall: bool
    remove: str
    http_users: tuple[str, ...]
    http_hosts: tuple[str, ...]


class Reader:
    """Reads settings and gathers every problem, so that a user sees all of them at once."""

    def __init__(self, settings: t.Mapping[str, t.Any]) -> None:
        self.settings = settings
        self.problems: list[str] = []

    def refuse(self, variable: str, value: t.Any, allowed: str) -> None:
        self.problems.append("{0}: {1!r} is refused. Allowed: {2}.".format(variable, shown(value), allowed))

    def finish(self) -> None:
        """:raises SettingsError: any value was refused."""
        if self.problems:
            raise SettingsError(self.problems)

    def identifier(self, variable: str, value: t.Any) -> str:
        if is_identifier(value):
            return str(value)
        self.refuse(
            variable, value, "a name of at most 32 lower-case letters, digits and '_' that starts with a letter"
        )
        return "refused"

    def choice(self, variable: str, value: t.Any, choices: t.Sequence[str]) -> str:
        if value in choices:
            return str(value)
        self.refuse(variable, value, "one of " + ", ".join(choices))
        return choices[0]

    def integer(self, variable: str, value: t.Any, lowest: int, highest: int, what: str) -> int:
        text = str(value).strip()
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else lowest - 1
        if not isinstance(value, (bool, float)) and lowest <= number <= highest:
            return number
        self.refuse(variable, value, "{0} from {1} to {2}".format(what, lowest, highest))
        return lowest

    def boolean(self, variable: str, value: t.Any) -> bool:
        words = {"true": True, "yes": True, "false": False, "no": False}
        if str(value).lower() in words:
            return words[str(value).lower()]
        self.refuse(variable, value, "true or false")
        return True

    def port(self, variable: str, value: t.Any) -> int:
        return self.integer(variable, value, FIRST_PORT, LAST_PORT, "an unprivileged port,")

    def address(self, variable: str, value: t.Any) -> str:
        if isinstance(value, str) and _ADDRESS.fullmatch(value):
            return str(value)
        self.refuse(variable, value, "an IP address or a host's name")
        return ""

    def path(self, variable: str, value: t.Any) -> str:
        """An absolute path, or empty for the default."""
        if value in (None, ""):
            return ""
        if isinstance(value, str) and _PATH.fullmatch(value):
            return absolute(value)
        self.refuse(variable, value, "an absolute path of letters, digits and '/._+@~-'")
        return ""

    def directory(self, variable: str, value: t.Any) -> str:
        """The absolute path of a directory that may be the cluster's, or empty for the default."""
        path = self.path(variable, value)
        if path and refusal(path):
            self.refuse(variable, value, "a directory for the cluster; {0}".format(refusal(path)))
            return ""
        return path

    def file(self, variable: str, value: t.Any) -> str:
        """The path of a user's file on the controller, or empty for none."""
        if value in (None, ""):
            return ""
        if isinstance(value, str) and _TEXT.fullmatch(value) and not value.startswith("-"):
            return str(value)
        self.refuse(variable, value, "the path of a file on the controller")
        return ""

    def place(self, variable: str, value: t.Any) -> str:
        """An absolute path or an address, or empty for none."""
        if value in (None, ""):
            return ""
        if isinstance(value, str) and _PLACE.fullmatch(value):
            return str(value)
        self.refuse(variable, value, "an absolute path, or an address that starts with http://, https:// or file://")
        return ""

    def image(self, variable: str, value: t.Any) -> str:
        """The name of an image or of a part of one, or empty for none."""
        if value in (None, ""):
            return ""
        if isinstance(value, str) and _IMAGE.fullmatch(value) and len(value) <= 255:
            return str(value)
        self.refuse(variable, value, "the name of an image, such as registry.example.org/lab/dask:1.0")
        return ""

    def volumes(self, variable: str, value: t.Any) -> tuple[Volume, ...]:
        result: list[Volume] = []
        for index, text in enumerate(self.sequence(variable, value)):
            found = _VOLUME.fullmatch(text) if isinstance(text, str) else None
            where = "{0}[{1}]".format(variable, index)
            if not found:
                self.refuse(where, text, "an absolute path, or SOURCE:PATH, and :ro after it where nobody writes there")
                continue
            source, path = (absolute(found[name] or found["source"]) for name in ("source", "path"))
            for each in dict.fromkeys((source, path)):
                if refusal(each, mounted=True):
                    self.refuse(
                        where, text, "another directory than {0}; {1}".format(each, refusal(each, mounted=True))
                    )
            if path in ("/etc/group", "/etc/passwd"):
                self.refuse(where, text, "another place in the containers, which have the host's file there")
            if any(path == other.path for other in result):
                self.refuse(where, text, "one volume for each path in the containers")
            result.append(Volume(source=source, path=path, read_only=found["mode"] == ":ro"))
        return tuple(result)

    def constraints(self, variable: str, value: t.Any) -> tuple[str, ...]:
        """What a swarm demands of the node that a task is to run on."""
        result = []
        for index, text in enumerate(self.sequence(variable, value)):
            if isinstance(text, str) and _CONSTRAINT.fullmatch(text):
                result.append(str(text))
            else:
                allowed = "a constraint of Docker Swarm such as node.labels.disk==ssd or node.hostname!=node3"
                self.refuse("{0}[{1}]".format(variable, index), text, allowed)
        return tuple(result)

    def mapping(self, variable: str, value: t.Any) -> t.Mapping[str, t.Any]:
        if value is None:
            return {}
        if isinstance(value, t.Mapping):
            return value
        self.refuse(variable, value, "a mapping")
        return {}

    def sequence(self, variable: str, value: t.Any) -> t.Sequence[t.Any]:
        if value is None:
            return []
        if isinstance(value, t.Sequence) and not isinstance(value, (str, bytes)):
            return value
        self.refuse(variable, value, "a list")
        return []

    def environment(self, variable: str, value: t.Any) -> dict[str, str]:
        result = {}
        for name, text in self.mapping(variable, value).items():
            where = "{0}.{1}".format(variable, name)
            if not _VARIABLE.fullmatch(str(name)):
                self.refuse(where, name, "names of letters, digits and '_'")
            elif isinstance(text, bool) or not isinstance(text, (str, int, float)) or not _TEXT.fullmatch(str(text)):
                self.refuse(where, text, "a string without control characters (quote numbers and booleans)")
            else:
                result[str(name)] = str(text)
        return result

    def secrets(self, variable: str, value: t.Any, environment: t.Iterable[str]) -> dict[str, str]:
        """Secrets by their names. No message has a value.

        :param environment: Names of the environment variables that the same processes have.
        """
        result, problems = read_secrets(variable, value, set(environment))
        self.problems += problems
        return result

    def strings(self, variable: str, value: t.Any, allowed: str) -> tuple[str, ...]:
        result = []
        for index, text in enumerate(self.sequence(variable, value)):
            if isinstance(text, str) and text.strip() and _TEXT.fullmatch(text) and not text.startswith("-"):
                result.append(str(text))
            else:
                self.refuse("{0}[{1}]".format(variable, index), text, allowed)
        return tuple(result)

    def accounts(self, variable: str, value: t.Any) -> tuple[str, ...]:
        result = []
        for index, name in enumerate(self.sequence(variable, value)):
            if isinstance(name, str) and _ACCOUNT.fullmatch(name):
                result.append(str(name))
            else:
                self.refuse("{0}[{1}]".format(variable, index), name, "the name of an account on the host, e.g. alice")
        return tuple(result)

    def resources(self, variable: str, value: t.Any) -> dict[str, float]:
        result = {}
        for name, amount in self.mapping(variable, value).items():
            where = "{0}.{1}".format(variable, name)
            if not isinstance(name, str) or not _WORD.fullmatch(name):
                self.refuse(where, name, "a resource name without spaces, quotes, ',' and '='")
            elif isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 <= amount < 2**63:
                self.refuse(where, amount, "a number that isn't negative, e.g. {GPU: 1}")
            else:
                result[str(name)] = amount
        return result

    def memory(self, variable: str, value: t.Any, host: Host, processes: int) -> int:
        try:
            size = memory.parse_memory(value, host.memory)
        except ValueError as error:
            self.refuse(variable, value, "{0} ({1})".format(memory.ALLOWED, error))
            return 0
        if memory.share(size, processes) < memory.MINIMUM_PER_PROCESS:
            self.refuse(
                variable,
                value,
                "at least {0} for each of its {1} processes".format(
                    memory.human(memory.MINIMUM_PER_PROCESS), processes
                ),
            )
        return size


def read_cluster(reader: Reader) -> Cluster:
    """Reads the collection-wide settings; problems stay with ``reader``."""
    get = reader.settings.get
    scheduler_environment = reader.environment("dask_scheduler_environment", get("dask_scheduler_environment"))
    return Cluster(
        name=reader.identifier("dask_cluster_name", get("dask_cluster_name", "main")),
        launcher=reader.choice("dask_launcher", get("dask_launcher", "auto"), LAUNCHERS),
        scope=reader.choice("dask_scope", get("dask_scope", "auto"), SCOPES),
        home=reader.directory("dask_home", get("dask_home", "")),
        tls=reader.boolean("dask_tls", get("dask_tls", True)),
        scheduler_host=reader.address("dask_scheduler_address", get("dask_scheduler_address")),
        scheduler_port=reader.port("dask_scheduler_port", get("dask_scheduler_port", 8786)),
        scheduler_dashboard_port=reader.port(
            "dask_scheduler_dashboard_port", get("dask_scheduler_dashboard_port", 8787)
        ),
        scheduler_environment=scheduler_environment,
        scheduler_preload=reader.strings("dask_scheduler_preload", get("dask_scheduler_preload"), _PRELOAD),
        secrets=tuple(sorted(reader.secrets("dask_secrets", get("dask_secrets"), scheduler_environment))),
        configuration=reader.mapping("dask_configuration", get("dask_configuration")),
        drain_seconds=reader.integer(
            "dask_drain_seconds", get("dask_drain_seconds", 60), 0, LONGEST_DRAIN, "a number of seconds"
        ),
        environment_mismatch=reader.choice(
            "dask_environment_mismatch", get("dask_environment_mismatch", "refuse"), MISMATCHES
        ),
        firewall=reader.boolean("dask_firewall", get("dask_firewall", False)),
        remove=reader.choice("dask_remove", get("dask_remove", "cluster"), REMOVALS),
        http_users=reader.accounts("dask_http_users", get("dask_http_users")),
        http_hosts=tuple(sorted({*get("dask_proxy_hosts", ()), *get("dask_monitoring_hosts", ())})),
    )


def read_host(reader: Reader, cluster: Cluster, runs: bool) -> Host:
    """Reads ``dask_host`` and the addresses that its processes listen on; problems stay with ``reader``.

    :param runs: Whether anything of the cluster runs on the host.
    """
    known = {each.name for each in fields(Host)}
    values = {name: value for name, value in reader.settings.get("dask_host", {}).items() if name in known}
    values["taken"] = {int(port): owner for port, owner in values.get("taken", {}).items()}
    for name in ("missing", "problems"):
        values[name] = tuple(values.get(name, ()))
    values["address"] = reader.address("dask_host_address", values.get("address"))
    others = [name for name in cluster.http_hosts if name != values["name"]] if runs else []
    wanted = values.get("http_address", AUTO)
    if wanted == AUTO:
        wanted = values["address"] if others and cluster.firewall else LOOPBACK
    values["http_address"] = reader.address("dask_http_address", wanted)
    if others and is_loopback(values["http_address"]):
        reader.refuse(
            "dask_http_address",
            wanted,
            "an address of host {0} that {1} can reach, as dashboards and metrics are served there; or dask_firewall: "
            "true, with which they listen on the host's address, open to nobody else".format(
                values["name"], ", ".join(others)
            ),
        )
    return Host(**values)


def read_containers(reader: Reader) -> Containers:
    """Reads how processes run in containers; problems stay with ``reader``."""
    get = reader.settings.get
    return Containers(
        network=reader.choice("dask_docker_network", get("dask_docker_network", "host"), NETWORKS),
        volumes=reader.volumes("dask_docker_volumes", get("dask_docker_volumes")),
        image=reader.image("dask_image", get("dask_image")),
        base=reader.image("dask_image_base", get("dask_image_base", DEFAULT_BASE)),
        registry=reader.image("dask_image_registry", get("dask_image_registry")),
        repository=reader.image("dask_image_repository", get("dask_image_repository", DEFAULT_REPOSITORY)),
    )


def read_swarm(reader: Reader) -> Swarm:
    """Reads how processes run in a swarm; problems stay with ``reader``."""
    get = reader.settings.get
    modes = reader.choice("dask_swarm_endpoint_mode", get("dask_swarm_endpoint_mode", "dnsrr"), ENDPOINT_MODES)
    return Swarm(
        encrypted=reader.boolean("dask_swarm_encrypted", get("dask_swarm_encrypted", True)),
        endpoint_mode=modes,
        manager=reader.boolean("dask_swarm_manager", get("dask_swarm_manager", False)),
        memory={name: size for name, size in reader.mapping("nodes", get("dask_swarm_memory")).items() if size},
    )


def refuse_unfit_node(reader: Reader, cluster: Cluster, containers: Containers, swarm: Swarm, host: Host) -> None:
    """Refuses a host that cannot be a node of the cluster's swarm; problems stay with ``reader``."""
    if not is_address(host.address):
        reader.refuse(
            "dask_host_address", host.address, "an IP address with dask_launcher swarm, for its nodes to meet at"
        )
    if swarm.encrypted and host.encryption_problem:
        reader.refuse(
            "dask_swarm_encrypted",
            True,
            "false, as the kernel of host {0} cannot encrypt what containers send each other, and lets nothing through "
            "({1}); Dask's own TLS stays".format(host.name, host.encryption_problem),
        )
    if cluster.firewall:
        reader.refuse(
            "dask_firewall",
            cluster.firewall,
            "false with dask_launcher swarm, as what Docker publishes passes by the host's firewall",
        )
    if cluster.http_hosts and is_loopback(host.http_address):
        reader.refuse(
            "dask_http_address",
            host.http_address,
            "the address of host {0}, as {1} could not reach the scheduler's dashboard; a swarm publishes it on all "
            "addresses of the host, to whoever reaches them".format(host.name, ", ".join(cluster.http_hosts)),
        )
    if containers.network != "host":
        reader.refuse("dask_docker_network", containers.network, "nothing with dask_launcher swarm, which has its own")
    if cluster.http_users:
        reader.refuse("dask_http_users", list(cluster.http_users), _NO_HTTP_USERS.format("dask_launcher swarm"))


def refuse_small_nodes(reader: Reader, swarm: Swarm, needed: t.Sequence[tuple[str, int, int]]) -> None:
    """Refuses what no node has room for, as far as nodes are known; problems stay with ``reader``.

    :param needed: Of each group the variable, the number of replicas, and the most bytes that one may have.
    """
    if not swarm.memory:
        return
    largest, total = max(swarm.memory.values()), sum(swarm.memory.values())
    for variable, _replicas, size in needed:
        if size > largest:
            reader.refuse(
                variable + ".memory",
                memory.human(size),
                "with what its nanny needs at most {0}, as no node has more".format(memory.human(largest)),
            )
    wanted = sum(replicas * size for _variable, replicas, size in needed)
    if wanted > total and not any(size > largest for _variable, _replicas, size in needed):
        reader.refuse(
            "dask_worker_groups[].memory",
            " + ".join("{0} * {1}".format(replicas, memory.human(size)) for _variable, replicas, size in needed),
            "with what their nannies need together at most the {0} of the nodes {1}".format(
                memory.human(total), ", ".join(sorted(swarm.memory))
            ),
        )


def refuse_missing_engine(reader: Reader, cluster: Cluster, launcher: str, containers: Containers, host: Host) -> None:
    """Refuses containers on a host that cannot run them; problems stay with ``reader``."""
    version = _VERSION.match(host.engine)
    oldest = "{0}.{1:02}".format(*OLDEST_ENGINE)
    if not version:
        reader.refuse(
            "dask_launcher",
            launcher,
            "a host on which a Docker Engine {0} or newer answers; that of {1} doesn't: {2}".format(
                oldest, host.name, host.engine_problem or "it was not asked"
            ),
        )
    elif (int(version[1]), int(version[2])) < OLDEST_ENGINE:
        reader.refuse(
            "dask_launcher",
            launcher,
            "a host with Docker Engine {0} or newer; that of {1} is {2}".format(oldest, host.name, host.engine),
        )
    for index, volume in enumerate(containers.volumes):
        real = host.real_paths.get(volume.source, volume.source)
        if real != volume.source and refusal(real, mounted=True):
            reader.refuse(
                "dask_docker_volumes[{0}]".format(index),
                volume.source,
                "a directory for the cluster; on host {0} it leads to {1}, and {2}".format(
                    host.name, real, refusal(real, mounted=True)
                ),
            )
        if volume.source in host.missing:
            reader.refuse(
                "dask_docker_volumes[{0}]".format(index),
                volume.source,
                "directories that exist on every host with containers; there is none on {0}".format(host.name),
            )
    if containers.network == "bridge" and not is_address(host.address):
        reader.refuse("dask_host_address", host.address, "an IP address with dask_docker_network bridge, to publish on")
    if containers.network == "bridge" and cluster.http_users:
        reader.refuse("dask_http_users", list(cluster.http_users), _NO_HTTP_USERS.format("dask_docker_network bridge"))
    if containers.network == "bridge" and cluster.firewall:
        reader.refuse(
            "dask_docker_network",
            containers.network,
            "host where dask_firewall is true, as what Docker publishes passes by the host's firewall",
        )


def is_address(text: t.Any) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether an IP address, or the name that always stands for one, is reached from its own host alone."""
    return address in ("localhost", "::1") or address.startswith("127.")


def read_scheduler_memory(reader: Reader, host: Host) -> int | None:
    """Reads ``dask_scheduler_memory``; problems stay with ``reader``.

    :return: Bytes; None for the default where the host's memory isn't known.
    """
    variable = "dask_scheduler_memory"
    value = reader.settings.get(variable)
    if value is None and host.memory is None:
        return None
    size = reader.memory(variable, DEFAULT_MEMORY if value is None else value, host, 1)
    if host.memory is not None and size > host.memory:
        reader.refuse(variable, value, "at most the {0} that host {1} has".format(memory.human(host.memory), host.name))
    return size


def read_groups(reader: Reader, host: Host, replicated: bool = False) -> list[WorkerGroup]:
    """Reads ``dask_worker_groups``; problems stay with ``reader``.

    :param replicated: Whether they are of a swarm's, instead of ``host`` itself.
    """
    value = reader.settings.get("dask_worker_groups")
    entries = reader.sequence("dask_worker_groups", DEFAULT_GROUPS if value is None else value)
    if not entries and not reader.problems:
        reader.refuse("dask_worker_groups", value, "at least one group")
    groups: list[WorkerGroup] = []
    for index, entry in enumerate(entries):
        variable = "dask_worker_groups[{0}]".format(index)
        group = _read_group(reader, variable, entry, host, replicated)
        if any(group.name == other.name for other in groups):
            reader.refuse(variable + ".name", group.name, "a name that no other group of the host has")
        groups.append(group)
    total = sum(group.memory for group in groups)
    if not replicated and host.memory is not None and total > host.memory:
        reader.refuse(
            "dask_worker_groups[].memory",
            ", ".join("{0}: {1}".format(group.name, memory.human(group.memory)) for group in groups),
            "together at most the {0} that host {1} has".format(memory.human(host.memory), host.name),
        )
    return groups


def launch_secrets(settings: t.Mapping[str, t.Any]) -> dict[str, dict[str, str]]:
    """Returns the secrets of a host's processes, values included, by the names of their sets.

    A worker has those of the cluster and those of its group, which count where both have a name. What is wrong in a
    setting is left out here; ``launch_plan`` refuses it.

    :param settings: ``dask_secrets`` and ``dask_worker_groups``.
    """
    reader = Reader({})
    shared = reader.secrets("dask_secrets", settings.get("dask_secrets"), ())
    result = {set_of("scheduler", ""): shared}
    groups = settings.get("dask_worker_groups")
    for group in groups if isinstance(groups, t.Sequence) else ():
        if isinstance(group, t.Mapping) and is_identifier(group.get("name")):
            own = reader.secrets("secrets", group.get("secrets"), ())
            result[set_of("worker", str(group["name"]))] = {**shared, **own}
    return result


def refuse_public_secrets(reader: Reader, cluster: Cluster, groups: t.Sequence[WorkerGroup]) -> None:
    """Refuses a group's environment variables that the cluster has as secrets; problems stay with ``reader``."""
    for index, group in enumerate(groups):
        for name in sorted(set(cluster.secrets) & set(group.environment)):
            reader.problems.append(
                "dask_worker_groups[{0}].environment.{1} is refused, as dask_secrets has the name too. Allowed: a name "
                "in one of both. Remove it from the environment.".format(index, name)
            )


def read_environment(reader: Reader, host: Host, installs: bool) -> Environment:
    """Reads the settings of the software environment for ``host``; problems stay with ``reader``.

    :param installs: Whether the environment is to be on the host.
    """
    get = reader.settings.get
    method = reader.choice("dask_environment_method", get("dask_environment_method", "venv"), METHODS)
    path = reader.path("dask_environment_path", get("dask_environment_path"))
    if method == "existing" and not path:
        reader.refuse("dask_environment_path", path, "the prefix of an environment that has bin/python")
    reader.strings(
        "dask_environment_packages",
        get("dask_environment_packages"),
        "a requirement such as dask>=2026.8, without options",
    )
    if method == "venv" and get("dask_environment_packages", ["dask"]) in ([], None):
        reader.refuse("dask_environment_packages", get("dask_environment_packages"), "at least one requirement")
    for variable in ("dask_environment_constraints", "dask_environment_file", "dask_environment_lock"):
        reader.file(variable, get(variable))
    reader.boolean("dask_environment_update", get("dask_environment_update", False))
    lock = reader.mapping("dask_environment_lock", {} if method == "existing" else get("dask_environment_locked"))
    return Environment(
        name=reader.identifier("dask_environment_name", get("dask_environment_name", "dask")),
        method=method,
        path=path if method == "existing" else "",
        command=str(get("dask_environment_python", "python3")),
        lock=str(lock.get("digest", "")),
        locked=_read_locked(reader, method, lock, host) if installs else (),
        plugins=tuple(reader.sequence("dask_environment_plugins", get("dask_environment_plugin_sources"))),
    )


def refuse_host_without_uv(reader: Reader, environment: Environment, host: Host) -> None:
    """Refuses a host that no uv runs on which the controller can send. Where the platform is unknown, none is."""
    if not host.platform or runs_uv(host.platform, host.libc):
        return
    reader.refuse(
        "dask_environment_method",
        environment.method,
        "existing, without plugins and with dask_launcher systemd, on host {0}: its platform is {1} with {2}, and no "
        "uv runs there, which installs packages. It needs Linux with the GNU C library 2.{3} or newer, or macOS".format(
            host.name,
            host.platform,
            "the GNU C library " + host.libc if host.libc else "another C library than GNU's",
            OLDEST_GLIBC,
        ),
    )


def read_downloads(reader: Reader) -> Downloads:
    """Reads how software gets to hosts; problems stay with ``reader``."""
    get = reader.settings.get
    return Downloads(
        where=reader.choice("dask_download_on", get("dask_download_on", "host"), DOWNLOADERS),
        conda_mirror=reader.place("dask_conda_mirror", get("dask_conda_mirror")),
        wheelhouse=reader.place("dask_wheelhouse", get("dask_wheelhouse")),
        ca_bundle=reader.path("dask_ca_bundle", get("dask_ca_bundle")),
        cache=reader.path("dask_cache_directory", get("dask_cache_directory")),
        # With fewer than two there is nothing to go back to, and an upgrade would remove what still runs.
        keep=reader.integer(
            "dask_environment_keep", get("dask_environment_keep", 3), 2, 1000, "a number of environments"
        ),
    )


def _read_locked(
    reader: Reader, method: str, lock: t.Mapping[str, t.Any], host: Host
) -> tuple[t.Mapping[str, str], ...]:
    """The packages for the host. No lock at all is none that was asked for, as when a cluster is removed."""
    platform = Python(**host.python).key if method == "venv" and host.python else host.platform
    locked = [package for package in lock.get("packages", []) if package["platform"] == platform]
    if lock and not locked:
        reader.refuse(
            "dask_environment_lock",
            "; ".join(lock["platforms"]),
            "a lock with packages for {0}, which host {1} has".format(platform, host.name),
        )
    else:
        names = tuple(package["name"] for package in locked)
        for needed in NEEDED_PACKAGES if lock else ():
            if not has_package(names, needed):
                reader.refuse(
                    "dask_environment_lock",
                    "{0} packages for {1}".format(len(locked), platform),
                    "a lock that has {0} too, without which there are no processes or no metrics; add it to what "
                    "the lock is made from, and make it anew".format(needed),
                )
    return tuple(locked)


_KEYS = (
    *("name", "processes", "threads", "memory", "ports", "resources", "environment", "secrets", "preload"),
    "local_directory",
)
_REPLICATED_KEYS = (*_KEYS, "replicas", "placement")
_PRELOAD = "a module such as package.module, or the path of a Python file"
_NO_HTTP_USERS = "nothing with {0}, as a process with a network of its own cannot tell who asks"
DEFAULT_MEMORY = 0.75
"""Fraction of the host's memory that a group, or the scheduler, gets when it doesn't say."""


def _read_group(reader: Reader, variable: str, value: t.Any, host: Host, replicated: bool) -> WorkerGroup:
    entry = reader.mapping(variable, value)
    keys = _REPLICATED_KEYS if replicated else _KEYS
    for key in entry:
        if key in _REPLICATED_KEYS and key not in keys:
            reader.refuse(variable, key, "processes, as replicas are of dask_launcher swarm alone")
        elif key not in keys:
            reader.refuse(variable, key, "the keys " + ", ".join(keys))
    defaults = WorkerGroup(name="refused")
    processes = reader.integer(variable + ".processes", entry.get("processes", 1), 1, 1000, "a number of processes")
    ports = dict(defaults.ports)
    for kind, port in reader.mapping(variable + ".ports", entry.get("ports")).items():
        where = "{0}.ports.{1}".format(variable, kind)
        if kind not in PORT_KINDS:
            reader.refuse(where, kind, "the keys " + ", ".join(PORT_KINDS))
            continue
        ports[kind] = reader.port(where, port)
    for kind, port in ports.items():
        if port + processes - 1 > LAST_PORT:
            reader.refuse(
                "{0}.ports.{1}".format(variable, kind),
                port,
                "a first port that leaves room for {0} processes up to {1}".format(processes, LAST_PORT),
            )
    if replicated:
        _refuse_what_a_swarm_decides(reader, variable, entry, processes)
    environment = reader.environment(variable + ".environment", entry.get("environment"))
    return WorkerGroup(
        name=reader.identifier(variable + ".name", entry.get("name")),
        processes=processes,
        replicas=reader.integer(variable + ".replicas", entry.get("replicas", 1), 1, 10000, "a number of workers"),
        placement=reader.constraints(variable + ".placement", entry.get("placement")),
        threads=reader.integer(variable + ".threads", entry.get("threads", 1), 1, 1024, "a number of threads"),
        memory=_replica_memory(reader, variable + ".memory", entry.get("memory"))
        if replicated
        else reader.memory(variable + ".memory", entry.get("memory", DEFAULT_MEMORY), host, processes),
        ports=ports,
        resources=reader.resources(variable + ".resources", entry.get("resources")),
        environment=environment,
        secrets=tuple(sorted(reader.secrets(variable + ".secrets", entry.get("secrets"), environment))),
        preload=reader.strings(variable + ".preload", entry.get("preload"), _PRELOAD),
        local_directory=reader.directory(variable + ".local_directory", entry.get("local_directory")),
    )


def _refuse_what_a_swarm_decides(reader: Reader, variable: str, entry: t.Mapping[str, t.Any], processes: int) -> None:
    if processes != 1:
        reader.refuse(variable + ".processes", processes, "1 with dask_launcher swarm, which has replicas")
    if entry.get("local_directory"):
        reader.refuse(
            variable + ".local_directory",
            entry["local_directory"],
            "none with dask_launcher swarm; a worker spills to a volume of its own, below Docker's directory",
        )


def _replica_memory(reader: Reader, variable: str, value: t.Any) -> int:
    """Of each replica, on whichever node it will be: no fraction, and no default."""
    try:
        memory.parse_memory(value)
    except ValueError as error:
        reader.refuse(
            variable,
            value,
            "a size with a unit such as '4 GiB' with dask_launcher swarm, that of each worker ({0})".format(error),
        )
        return 0
    return reader.memory(variable, value, Host(name="", address=""), 1)
