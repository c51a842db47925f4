# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the commands of Slurm and PBS say is read as their manuals describe it, and refusals name what to correct."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _queues
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._queues import JobState, QueueError, RefusedError


def scontrol(**changes: str) -> str:
    fields = {
        "JobId": "17",
        "JobName": "dask-main",
        "UserId": "ada(1000)",
        "Priority": "4294901759",
        "JobState": "PENDING",
        "Reason": "Resources",
        "Dependency": "(null)",
        "Requeue": "0",
        "ExitCode": "0:0",
        "RunTime": "00:00:00",
        "StartTime": "2026-03-01T10:00:00",
        "ReqNodeList": "(null)",
        "ExcNodeList": "(null)",
        "NodeList": "(null)",
        "NumNodes": "3-3",
        "Command": "/lab/it's here/x JobState=RUNNING.sh",
        **changes,
    }
    return " ".join("{0}={1}".format(*item) for item in fields.items())


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, JobState("pending", "Resources")),
        ({"Reason": "None"}, JobState("pending", "")),
        (
            {"Reason": "Nodes_required_for_job_are_DOWN,_DRAINED"},
            JobState("pending", "Nodes required for job are DOWN, DRAINED"),
        ),
        (
            {"Reason": "PartitionTimeLimit"},
            JobState("pending", "PartitionTimeLimit: the walltime is longer than the partition allows", never=True),
        ),
        ({"JobState": "RUNNING", "Reason": "None", "NodeList": "node[1-3]"}, JobState("running", nodes="node[1-3]")),
        ({"JobState": "CONFIGURING", "Reason": "None"}, JobState("running", "CONFIGURING")),
        ({"JobState": "COMPLETED", "Reason": "None"}, JobState("ended", "COMPLETED", exit_code=0)),
        (
            {"JobState": "FAILED", "Reason": "NonZeroExitCode", "ExitCode": "3:0"},
            JobState("ended", "FAILED, NonZeroExitCode", exit_code=3),
        ),
        (
            {"JobState": "CANCELLED", "Reason": "None", "ExitCode": "0:15"},
            JobState("ended", "CANCELLED", exit_code=143),
        ),
        (
            {"JobState": "NODE_FAIL", "Reason": "NodeDown", "ExitCode": "1:0"},
            JobState("ended", "NODE_FAIL, NodeDown", exit_code=1),
        ),
    ],
)
def test_slurms_description_of_a_job(changes: dict[str, str], state: JobState) -> None:
    assert _queues.parse_scontrol(scontrol(**changes)) == state


def test_slurms_accounting_of_a_job_that_it_forgot() -> None:
    assert _queues.parse_sacct("CANCELLED by 1000|0:15|node1") == JobState(
        "ended", "CANCELLED", exit_code=143, nodes="node1"
    )
    assert _queues.parse_sacct("COMPLETED|0:0|node1\nCOMPLETED|0:0|node1").exit_code == 0
    assert _queues.parse_sacct("") == JobState("unknown")


@pytest.mark.parametrize("said", ["17", "17;lab", "sbatch: a notice of the site\n17"])
def test_sbatch_says_the_job(said: str) -> None:
    assert _queues.parse_sbatch(said) == "17"


def test_sbatch_that_says_nothing_made_no_job() -> None:
    with pytest.raises(QueueError, match="did not say which job"):
        _queues.parse_sbatch("")


@pytest.mark.parametrize(
    ("complaint", "words"),
    [
        (
            "sbatch: error: invalid partition specified: nowhere\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "Correct 'queue'; 'sinfo -s' lists",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "'account'",
        ),
        ("sbatch: error: Memory specification can not be satisfied", "Correct 'memory'"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "Ask for less"),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid",
            "Correct 'walltime'",
        ),
        (
            "sbatch: error: Batch job submission failed: User's group not permitted to use this partition",
            "to let this account in",
        ),
        ("sbatch: error: Batch job submission failed: Access/permission denied", "to let this account in"),
        ("sbatch: unrecognized option '--reserve=x'", "Correct 'directives'"),
        ("sbatch: error: something new", "something new."),
    ],
)
def test_why_sbatch_refused(complaint: str, words: str) -> None:
    error = _queues.refusal("sbatch", complaint, 1)
    told = str(error)
    assert isinstance(error, RefusedError)
    assert told.startswith("The queue refused the job, there is none: ")
    assert words in told
    assert "sbatch: " not in told


def qstat(**attributes: t.Any) -> str:
    job = {
        "Job_Name": "dask-main",
        "Job_Owner": "ada@login",
        "job_state": "Q",
        "queue": "workq",
        "Resource_List": {"mem": "60gb", "ncpus": 12, "nodect": 3, "walltime": "01:00:00"},
        "Variable_List": {"PBS_O_HOME": "/home/ada", "PBS_O_WORKDIR": "/lab"},
        **attributes,
    }
    server = {"timestamp": 1767225600, "pbs_version": "23.06.06", "pbs_server": "pbs"}
    return json.dumps({**server, "Jobs": {"12.pbs": job}}, indent=4)


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ({}, JobState("pending", "")),
        (
            {"comment": "Not Running: Insufficient amount of resource: ncpus (R: 12 A: 4 T: 4)"},
            JobState("pending", "Insufficient amount of resource: ncpus (R: 12 A: 4 T: 4)"),
        ),
        (
            {"comment": "Can Never Run: Insufficient amount of resource: ncpus (R: 99 A: 4 T: 4)"},
            JobState("pending", "Insufficient amount of resource: ncpus (R: 99 A: 4 T: 4)", never=True),
        ),
        ({"job_state": "H"}, JobState("pending", "it is held")),
        ({"job_state": "R", "exec_host": "n1/0*4+n2/0*4"}, JobState("running", nodes="n1/0*4+n2/0*4")),
        ({"job_state": "E"}, JobState("running")),
        ({"job_state": "F", "Exit_status": 3, "comment": "failed"}, JobState("ended", "failed", exit_code=3)),
        ({"job_state": "F", "Exit_status": -29}, JobState("ended", exit_code=-29)),
        ({"job_state": "F"}, JobState("ended")),
    ],
)
def test_pbs_description_of_a_job(attributes: dict[str, t.Any], state: JobState) -> None:
    assert _queues.parse_qstat(qstat(**attributes), "12.pbs") == state
    # The same where a variable of the job makes it something that isn't JSON.
    broken = qstat(**attributes).replace('"/lab"', '"/lab "quoted" \\here"')
    assert _queues.parse_qstat(broken, "12.pbs") == state


def test_pbs_may_name_the_server_otherwise() -> None:
    assert _queues.parse_qstat(qstat(job_state="R"), "12.pbs.lab.example").state == "running"
    with pytest.raises(QueueError, match="is not job 13"):
        _queues.parse_qstat(qstat(), "13.pbs")


def test_qsub_says_the_job() -> None:
    assert _queues.parse_qsub("12.pbs-01.lab.example") == "12.pbs-01.lab.example"
    with pytest.raises(QueueError, match="did not say which job"):
        _queues.parse_qsub("qsub: waiting for job")


@pytest.mark.parametrize(
    ("status", "complaint", "words"),
    [
        (170, "qsub: Unknown queue", "Correct 'queue'; 'qstat -Q' lists"),
        (170, "", "exit status 170. Correct 'queue'"),
        (159, "qsub: Unauthorized Request", "to let this account in"),
        (188, "qsub: Job violates queue and/or server resource limits", "Ask for less"),
        (166, "qsub: Illegal attribute or resource value Resource_List.walltime", "Correct 'walltime'"),
        (38, "qsub: would exceed queue workq's per-user limit of jobs in 'Q' state", "Wait for other jobs"),
        (2, "usage: qsub [-a date_time] ...", "Correct 'directives'"),
    ],
)
def test_why_qsub_refused(status: int, complaint: str, words: str) -> None:
    error = _queues.refusal("qsub", complaint, status)
    assert isinstance(error, RefusedError)
    assert words in str(error)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("sbatch", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"),
        ("sbatch", "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"),
        ("qsub", "qsub: cannot connect to server pbs (errno=15010)"),
    ],
)
def test_a_queue_that_does_not_answer_has_not_refused(command: str, complaint: str) -> None:
    error = _queues.refusal(command, complaint, 1)
    assert not isinstance(error, RefusedError)
    assert "did not say whether it took the job" in str(error)
    assert "Run the task again" in str(error)


def tool(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text("#!/bin/sh\n" + text)
    (directory / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is all of the path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_which_queue_a_host_has(tools: Path) -> None:
    with pytest.raises(DaskError, match="no sbatch or qsub on its path"):
        _queues.find_queue("auto")
    tool(tools, "qsub", "echo 12.pbs")
    assert _queues.find_queue("auto").name == "pbs"
    with pytest.raises(DaskError, match="no sbatch on its path"):
        _queues.find_queue("slurm")
    tool(tools, "sbatch", "echo 17")
    with pytest.raises(DaskError, match="which of slurm and pbs"):
        _queues.find_queue("auto")
    assert _queues.find_queue("slurm").submit("/lab/my job.sh", str(tools)) == "17"
    assert _queues.find_queue("pbs").submit("/lab/my job.sh", str(tools)) == "12.pbs"


def test_commands_of_pbs_are_found_where_only_login_shells_look(
    tools: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("pbs")
    (place / "bin").mkdir()
    tool(place / "bin", "qsub", "echo 12.pbs")
    (tools / "pbs.conf").write_text("PBS_SERVER=pbs\nPBS_EXEC={0}\n".format(place))
    monkeypatch.setattr(_queues, "PBS_CONFIGURATION", str(tools / "pbs.conf"))
    assert _queues.find_queue("auto").submit("job.sh", str(tools)) == "12.pbs"


def test_a_server_of_pbs_that_keeps_no_history_is_asked_without(tools: Path) -> None:
    told = qstat(job_state="R").replace("\n", " ")
    words = "echo 'qstat: PBS is not configured to maintain job history' >&2; exit 1"
    tool(tools, "qstat", "if [ \"$1\" = -x ]; then {0}; fi; echo '{1}'".format(words, told))
    assert _queues.Pbs().state("12.pbs").state == "running"


def test_a_job_that_the_queue_has_forgotten_has_ended(tools: Path) -> None:
    tool(tools, "sbatch", "exit 0")
    tool(tools, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert not _queues.Slurm().state("17").lives
    tool(tools, "sacct", "echo 'TIMEOUT|0:0|node1'")
    assert _queues.Slurm().state("17").reason == "TIMEOUT"
    tool(tools, "qstat", "echo 'qstat: Unknown Job Id 12.pbs' >&2; exit 153")
    assert _queues.Pbs().state("12.pbs") == JobState("unknown")


def test_a_queue_that_does_not_answer_is_not_one_without_the_job(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_queues, "COMMAND_SECONDS", 0.1)
    tool(tools, "scontrol", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(QueueError, match=r"does not say how job 17 is: .*Unable to contact"):
        _queues.Slurm().state("17")
    tool(tools, "qstat", "echo 'Connection refused' >&2; exit 255")
    with pytest.raises(QueueError, match="does not say how job 12"):
        _queues.Pbs().state("12.pbs")


def test_a_busy_queue_is_asked_again(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tools)
    busy = "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1"
    tool(tools, "scontrol", 'if [ ! -e asked ]; then : >asked; {0}; fi; echo "{1}"'.format(busy, scontrol()))
    assert _queues.Slurm().state("17").state == "pending"


def test_jobs_are_found_by_their_names(tools: Path) -> None:
    me = _queues.user()
    tool(tools, "squeue", '[ "$3 $4" = "--user={0} --name=dask-main-1" ] && echo 17 && echo 18'.format(me))
    assert _queues.Slurm().find("dask-main-1") == ["17", "18"]
    tool(tools, "qselect", '[ "$*" = "-u {0} -N dask-main-1" ] && echo 12.pbs'.format(me))
    assert _queues.Pbs().find("dask-main-1") == ["12.pbs"]
    with pytest.raises(QueueError, match="does not say which jobs are called other"):
        _queues.Pbs().find("other")


def test_ending_a_job_that_has_ended_is_no_error(tools: Path) -> None:
    tool(tools, "scancel", "echo 'scancel: error: Kill job error on job id 17: Invalid job id specified' >&2; exit 1")
    _queues.Slurm().cancel("17")
    tool(tools, "qdel", "echo 'qdel: Job has finished 12.pbs' >&2; exit 35")
    _queues.Pbs().cancel("12.pbs")
    tool(tools, "qdel", "echo 'qdel: Unauthorized Request 12.pbs' >&2; exit 159")
    with pytest.raises(QueueError, match="Unauthorized"):
        _queues.Pbs().cancel("12.pbs")
