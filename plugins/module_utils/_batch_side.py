# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs in every chunk of a batch job, with the interpreter of the environment (private to this collection).

It is handed over as text, so it imports nothing of the collection; and nothing of Dask's, as that would take a
processor from the scheduler and the workers while they start. Whatever queue runs the job, it is the same: as ``chunk
PLAN JOB STARTED NUMBER`` the first chunk leads, which means that it runs the scheduler and says where that is, and all
have workers that leave before the walltime ends. As ``call PLAN RESULT`` it calls the function that a job is for, or
runs its script, whose arguments others would see in the list of processes.

In the cluster's directory, which all nodes share, are ``endpoint-JOB.json`` for as long as the scheduler of a job can
be reached, and ``endpoint.json``, which leads there. A job's own directory ``jobs/JOB`` has logs, ``here/NUMBER`` of
each chunk that has begun, ``problem-NUMBER`` of one that cannot go on, ``leave`` once all are to end, ``exit`` with the
status that the job is to end with.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import typing as t

ARRIVAL_SECONDS = 15.0
"""By when every chunk has to be seen on shared storage."""
REGISTRATION_SECONDS = 300.0
"""By when every worker has to be known to the scheduler."""
STOP_SECONDS = 5.0
"""For a process that ends, beyond its drain; and for all that, where the queue ends the job."""
PAUSES = (0.05, 0.2, 1.0)
"""Seconds between two looks: for a file, at a scheduler that has much to do, and once the cluster is up."""
LAST_LINES = 10
FABRICS = ("hsn", "ib", "opa")
"""What the interfaces of fast networks are called, the first to be taken first."""

NAMES, DIRECTORY = "FLOTILLA_SECRETS", "CREDENTIALS_DIRECTORY"
"""Variables with the names of the job's secrets, and with the directory that has a file for each."""

Plan = t.Dict[str, t.Any]


class ChunkError(Exception):
    """A chunk cannot go on; in words for the user."""


class Chunk:
    """One chunk of a job, whose workers join the cluster's scheduler.

    :param plan: What ``launch.batch`` calls ``job``. ``started``: when the job did, in seconds since 1970.
    """

    def __init__(self, plan: Plan, job: str, started: float, number: int) -> None:
        self.plan = plan
        self.job = job
        self.started = started
        self.number = number
        self.node = socket.gethostname()
        self.files = os.path.join(plan["directory"], "jobs", job)
        self.ends = started + plan["walltime"]
        # Slurm rounds a limit up, and an administrator may have changed it.
        told = os.environ.get("SLURM_JOB_END_TIME", "")
        if told.isdigit():
            self.ends = min(self.ends, float(told))
        self.leaves = self.ends - plan["leave_seconds"]
        self.terminated = False
        self.address = ""
        self.scratch = ""
        self.workers: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Works until the end, and returns the exit status."""
        signal.signal(signal.SIGTERM, self._terminate)
        status = 0
        try:
            load_secrets()
            self.address = find_address(self.plan["interface"])
            status = self.work()
        except ChunkError as error:
            self.report("node {0}: {1}".format(self.node, error))
            status = 1
        except Exception as error:
            traceback.print_exc()
            self.report("node {0}: {1}: {2}".format(self.node, type(error).__name__, error))
            status = 1
        finally:
            self.finish(status)
            if self.scratch:
                shutil.rmtree(self.scratch, ignore_errors=True)
        return status

    def work(self) -> int:
        """Has workers until they are to leave, or have left."""
        endpoint = self.endpoint_file()
        self.start_workers(endpoint)
        self.until(lambda: os.path.basename(endpoint) in os.listdir(self.plan["directory"]), self.check_workers)
        while not self.is_over():
            self.check_workers()
            if self.workers is not None and self.workers.poll() is not None:
                break
            time.sleep(PAUSES[2])
        return 0

    def endpoint_file(self) -> str:
        """The file that says where the scheduler is. :raises ChunkError: there is no cluster to join."""
        if self.plan["kind"] == "cluster":
            return os.path.join(self.plan["directory"], "endpoint-{0}.json".format(self.job))
        path = os.path.realpath(os.path.join(self.plan["directory"], "endpoint.json"))
        if not os.path.exists(path):
            raise ChunkError("cluster '{0}' is not running, so no workers can join it".format(self.plan["cluster"]))
        return path

    def start_workers(self, endpoint: str) -> None:
        """Starts the chunk's workers, which wait for the file themselves."""
        self.scratch = self.make_scratch()
        name = "chunk-{0}".format(self.number)
        if self.plan["kind"] != "cluster":
            name = "more-{0}-{1}".format(self.job.split(".")[0], self.number)
        words = [*self.plan["worker"], "--scheduler-file", endpoint, "--host", self.address]
        words += ["--dashboard-address", self.dashboard_address(), "--name", name, "--local-directory", self.scratch]
        self.workers = self.start("worker-{0}".format(self.number), words)

    def dashboard_address(self) -> str:
        return "{0}:0".format("127.0.0.1" if self.plan["dashboard"] == "loopback" else in_url(self.address))

    def make_scratch(self) -> str:
        """Makes a directory of the chunk's own, below what the site names as this node has it."""
        named = self.plan["local_directory"] or os.environ.get("TMPDIR") or "/tmp"
        base = os.path.expandvars(named)
        if "$" in base:
            raise ChunkError("local_directory: '{0}' has a variable that is not set there".format(named))
        path = os.path.join(base, "dask-{0}-{1}-{2}".format(self.plan["cluster"], self.job, self.number))
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise ChunkError("local_directory: {0} cannot be used ({1})".format(base, error.strerror)) from error
        return path

    def start(self, name: str, words: t.Sequence[str], **options: t.Any) -> subprocess.Popen[bytes]:
        """Starts a process whose output goes to a file of that name."""
        with open(self.log(name), "ab") as output:
            try:
                return subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.files, **options
                )
            except OSError as error:
                raise ChunkError("{0} cannot be run ({1})".format(words[0], error.strerror)) from error

    def log(self, name: str) -> str:
        return os.path.join(self.files, name + ".log")

    def check_workers(self) -> None:
        """Looks whether the workers' process runs. :raises ChunkError: it ended by itself, and not well."""
        if self.workers is not None and self.workers.poll() and not self.is_over():
            raise ChunkError(
                "workers ended with exit status {0}. Their last lines:\n{1}".format(
                    self.workers.returncode, last_lines(self.log("worker-{0}".format(self.number)))
                )
            )

    def is_over(self) -> bool:
        """Whether the chunk is to end."""
        # By its listing, as an NFS client remembers that a file wasn't there, but looks whether a directory changed.
        return self.terminated or time.time() >= self.leaves or "leave" in os.listdir(self.files)

    def until(self, condition: t.Callable[[], bool], check: t.Callable[[], None], pause: float = PAUSES[0]) -> bool:
        """Waits for a condition, and returns whether it came true before the end."""
        while not condition():
            if self.is_over():
                return False
            check()
            time.sleep(pause)
        return True

    def report(self, problem: str) -> None:
        """Says that this chunk cannot go on."""
        sys.stderr.write(problem + "\n")
        with contextlib.suppress(OSError):
            write(os.path.join(self.files, "problem-{0}".format(self.number)), problem + "\n")

    def finish(self, status: int) -> None:
        """Has the workers leave: their nannies hand over what they have."""
        self.stop(self.workers, self.patience())
        if self.number == 0:
            self.conclude(status)

    def patience(self) -> float:
        """Seconds that workers have for their leave."""
        return float(STOP_SECONDS if self.terminated else self.plan["drain_seconds"] + STOP_SECONDS)

    def conclude(self, status: int) -> None:
        """Says how the job is to end."""
        with contextlib.suppress(OSError):
            write(os.path.join(self.files, "exit"), "{0}\n".format(status))

    @staticmethod
    def stop(process: subprocess.Popen[bytes] | None, patience: float) -> None:
        """Ends a process, by force if it takes longer."""
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _terminate(self, *_details: object) -> None:
        self.terminated = True


class Head(Chunk):
    """The first chunk: it runs the scheduler, and all others depend on it."""

    def __init__(self, plan: Plan, job: str, started: float, number: int) -> None:
        super().__init__(plan, job, started, number)
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.application: subprocess.Popen[bytes] | None = None
        self.endpoint: dict[str, t.Any] = {}
        self.http = ""

    def work(self) -> int:
        """Runs the scheduler until the end of all, or the application to its own."""
        path = os.path.join(self.files, "scheduler.json")
        words = [*self.plan["scheduler"], "--host", self.address, "--scheduler-file", path]
        words += ["--dashboard-address", self.dashboard_address()]
        environment = {**os.environ, "FLOTILLA_EXPECTED_WORKERS": str(self.plan["workers"])}
        self.scheduler = self.start("scheduler", words, env=environment)
        if not self.plan["scheduler_alone"]:
            self.start_workers(self.endpoint_file())
        said: dict[str, t.Any] = {}

        def answers() -> bool:
            # It is written while we read.
            with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
                said.update(json.load(file))
            return bool(said)

        if not self.until(answers, self.check_all):
            return self.ended_early()
        self.announce(said)
        if not self.until(self.all_are_registered, self.check_all, PAUSES[1]):
            return self.ended_early()
        self.write_endpoint(ready=time.time())
        if self.plan["application"]:
            self.application = self.start_application()
        return self.watch()

    def announce(self, said: t.Mapping[str, t.Any]) -> None:
        """Says where the scheduler is, and leads the stable link there."""
        host = "127.0.0.1" if self.plan["dashboard"] == "loopback" else self.address
        self.http = "http://{0}:{1}".format(in_url(host), said["services"]["dashboard"])
        self.write_endpoint(
            address=said["address"],
            certificates=self.plan["certificates"],
            cluster=self.plan["cluster"],
            dashboard=self.http + "/status",
            ends=self.ends,
            job=self.job,
            leaves=self.leaves,
            node=self.node,
            ready=0,
            started=self.started,
            system=self.plan["system"],
            workers=self.plan["workers"],
        )
        link = os.path.join(self.plan["directory"], "endpoint.json")
        temporary = "{0}.{1}".format(link, self.job)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(os.path.basename(self.endpoint_file()), temporary)
        os.replace(temporary, link)

    def write_endpoint(self, **changes: t.Any) -> None:
        self.endpoint.update(changes)
        write(self.endpoint_file(), json.dumps(self.endpoint, indent=2, sort_keys=True) + "\n")

    def withdraw(self) -> None:
        """Takes back what was announced."""
        link = os.path.join(self.plan["directory"], "endpoint.json")
        with contextlib.suppress(OSError):
            os.unlink(self.endpoint_file())
        with contextlib.suppress(OSError):
            if os.readlink(link) == os.path.basename(self.endpoint_file()):
                os.unlink(link)

    def check_all(self) -> None:
        """Looks for what keeps the cluster from starting. :raises ChunkError: something does."""
        self.check_workers()
        if self.scheduler is not None and self.scheduler.poll() is not None:
            raise ChunkError(
                "the scheduler ended with exit status {0}. Its last lines:\n{1}".format(
                    self.scheduler.returncode, last_lines(self.log("scheduler"))
                )
            )
        for name in sorted(os.listdir(self.files)):
            if name.startswith("problem-"):
                with open(os.path.join(self.files, name), encoding="utf-8") as file:
                    raise ChunkError("chunk {0} cannot go on. {1}".format(name.partition("-")[2], file.read().strip()))
        seconds = time.time() - self.started
        if seconds > ARRIVAL_SECONDS:
            here = os.listdir(os.path.join(self.files, "here"))
            absent = [str(each) for each in range(self.plan["chunks"]) if str(each) not in here]
            if absent:
                raise ChunkError(
                    "chunks {0} of {1} are not seen in {2} after {3:.0f} s: it has to be on storage that all nodes "
                    "share. {4}".format(
                        ", ".join(absent), self.plan["chunks"], self.files, seconds, last_lines(self.log("job"))
                    )
                )
        if seconds > REGISTRATION_SECONDS:
            raise ChunkError(
                "only {0} of {1} workers reached the scheduler at {2} within {3:.0f} s; the logs worker-*.log say "
                "why. The nodes may need another interface".format(
                    self.registered(), self.plan["workers"], self.endpoint.get("address"), seconds
                )
            )

    def registered(self) -> int:
        """How many workers the scheduler has."""
        import urllib.request  # takes its time, and the other chunks have no use for it

        # Without the proxies that a site has for the world outside.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.http + "/json/counts.json", timeout=STOP_SECONDS) as answer:
                return int(json.load(answer)["workers"])
        except (OSError, ValueError, KeyError):
            return -1

    def all_are_registered(self) -> bool:
        return self.registered() >= int(self.plan["workers"])

    def start_application(self) -> subprocess.Popen[bytes]:
        """Runs what the job is for, in the job's directory; a ``Client()`` without an address finds the cluster."""
        words = [
            sys.executable,
            os.path.abspath(__file__),
            "call",
            sys.argv[2],
            os.path.join(self.files, "result.json"),
        ]
        environment = {**os.environ, "DASK_SCHEDULER_ADDRESS": self.endpoint["address"]}
        return self.start("output-" + self.job, words, env=environment, start_new_session=True)

    def watch(self) -> int:
        """Returns the exit status at the end, whoever brings it about."""
        while True:
            if self.application is not None and self.application.poll() is not None:
                status = self.application.returncode
                return status if status >= 0 else 128 - status
            lost = self.scheduler is not None and self.scheduler.poll() is not None
            if lost:
                time.sleep(PAUSES[0])  # whoever ends the job ends it with all others
            if self.is_over():
                return self.ended_early() if self.application is not None else 0
            if lost and self.scheduler is not None and self.scheduler.returncode == 0 and self.application is None:
                return 0  # nobody used it for long
            if lost:
                self.check_all()
            time.sleep(PAUSES[2] / 2)

    def ended_early(self) -> int:
        """Says why the end came before what the job is for. :raises ChunkError: unless somebody ended the job."""
        if self.terminated or "leave" in os.listdir(self.files):
            return 1
        raise ChunkError(
            "the walltime ended while {0}".format(
                "the application ran" if self.application is not None else "the cluster was starting"
            )
        )

    def finish(self, status: int) -> None:
        """Ends everything, the scheduler last."""
        if self.application is not None and self.application.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.application.pid, signal.SIGTERM)
        with contextlib.suppress(OSError):
            write(os.path.join(self.files, "leave"), "")
        if self.terminated:
            self.withdraw()  # the queue gives only seconds
        self.stop(self.workers, self.patience())
        last = STOP_SECONDS if self.terminated else self.ends - self.plan["last_seconds"] - time.time()
        deadline = time.monotonic() + min(last, self.patience())
        while self.scheduler is not None and self.scheduler.poll() is None and time.monotonic() < deadline:
            if self.registered() <= 0:
                break
            time.sleep(PAUSES[1])
        self.withdraw()
        self.stop(self.scheduler, STOP_SECONDS)
        self.stop(self.application, 0)
        if os.environ.get(NAMES):
            shutil.rmtree(os.environ[DIRECTORY], ignore_errors=True)
        self.conclude(status)


def find_address(interface: str) -> str:
    """Returns the address at which this node is reached: that of an interface, or of the one that others would use.

    :raises ChunkError: there is no such interface, or it has no address.
    """
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found: dict[str, str] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for family in (socket.AF_INET, socket.AF_INET6):
            usable = [each.address for each in addresses if each.family == family and "%" not in each.address]
            if usable and name in up:
                found.setdefault(name, usable[0])
    if interface:
        if interface not in found:
            listed = ", ".join("{0} ({1})".format(*item) for item in sorted(found.items()))
            raise ChunkError(
                "interface: '{0}' is refused, as it isn't there or has no address. Allowed there: {1}".format(
                    interface, listed or "none"
                )
            )
        return found[interface]
    return choose_address(found, default_address())


def choose_address(found: t.Mapping[str, str], default: str) -> str:
    """Returns the address of a fast network, else the default one, else any that isn't the node's for itself.

    :raises ChunkError: there is none.
    """
    for prefix in FABRICS:
        for name in sorted(found):
            if name.startswith(prefix):
                return found[name]
    others = [
        address for _name, address in sorted(found.items()) if not address.startswith("127.") and address != "::1"
    ]
    if default and not default.startswith("127."):
        return default
    if others:
        return others[0]
    raise ChunkError("it has no network that other nodes could reach it by")


def default_address() -> str:
    """Returns the address that connections to elsewhere come from, or that the node's name stands for; or nothing."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: RFC 5737 keeps it for examples
        return str(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return ""


def load_secrets() -> None:
    """Makes environment variables of the secrets that the job has as files. :raises ChunkError: one is not there."""
    for name in os.environ.get(NAMES, "").split():
        path = os.path.join(os.environ.get(DIRECTORY, ""), name)
        try:
            with open(path, encoding="utf-8", newline="") as file:
                os.environ[name] = file.read()
        except (OSError, ValueError) as error:
            raise ChunkError("the secret {0} cannot be read ({1})".format(path, type(error).__name__)) from None


def in_url(address: str) -> str:
    return "[{0}]".format(address) if ":" in address else address


def last_lines(path: str, number: int = LAST_LINES) -> str:
    """Returns the end of a log, or nothing."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 8192))
            return b"\n".join(file.read().splitlines()[-number:]).decode(errors="replace")
    except OSError:
        return ""


def write(path: str, text: str) -> None:
    """Writes a file under another name first: whoever reads it sees all of it."""
    temporary = "{0}.{1}.part".format(path, os.getpid())
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def call(wanted: t.Mapping[str, t.Any], result: str) -> None:
    """Calls the function that the job is for with a client of the cluster, and writes down what it returns as JSON.

    Or runs the script that the job is for, as Python does with a script.
    """
    if wanted["script"]:
        sys.argv = [wanted["script"], *map(str, wanted["arguments"])]
        sys.path[0] = os.path.dirname(os.path.realpath(wanted["script"]))
        runpy.run_path(wanted["script"], run_name="__main__")
        return
    module, _colon, names = wanted["function"].partition(":")
    function: t.Any = importlib.import_module(module)
    for name in names.split("."):
        function = getattr(function, name)
    from distributed import Client

    with Client(os.environ["DASK_SCHEDULER_ADDRESS"]):
        arguments = wanted["arguments"]
        returned = function(**arguments) if isinstance(arguments, dict) else function(*arguments)
    write(result, json.dumps(returned) + "\n")


def main(words: t.Sequence[str]) -> int:
    with open(words[1], encoding="utf-8") as file:
        plan: Plan = json.load(file)
    if words[0] == "call":
        call(plan["application"], words[2])
        return 0
    job, started, number = words[2], float(words[3]), int(words[4])
    leads = number == 0 and plan["kind"] == "cluster"
    status = (Head if leads else Chunk)(plan, job, started, number).run()
    return status if leads else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
