# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the launcher docker makes of a plan. That engines obey is for the tests on hosts."""

from __future__ import annotations

import json
import typing as t

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.docker import DEFINITION, arguments
from ansible_collections.flotilla.dask.tests.unit import samples

Definitions = t.Callable[..., t.List[t.Dict[str, t.Any]]]
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)


@pytest.fixture(scope="session")
def definitions(render_role_template: t.Callable[..., str]) -> Definitions:
    """The definitions of a host's processes, as the role writes them."""

    def call(**changes: t.Any) -> list[dict[str, t.Any]]:
        plan = launch_plan(samples.settings(dask_launcher="docker", **changes))
        facts = {"dask_host": {"account": "998:997"}}
        texts = [
            render_role_template("container.json.j2", dask_common_plan=plan, process=process, ansible_facts=facts)
            for process in plan["processes"]
        ]
        return [json.loads(text) if isinstance(text, str) else text for text in texts]

    return call


def options(words: t.Sequence[str], name: str) -> list[str]:
    return [value for option, value in zip(words, words[1:]) if option == name]


def test_a_process_becomes_a_container_without_rights_that_starts_at_boot(definitions: Definitions) -> None:
    for definition in definitions():
        words = arguments(definition)
        assert options(words, "--user") == ["998:997"]
        assert options(words, "--cap-drop") == ["ALL"]
        assert options(words, "--security-opt") == ["no-new-privileges"]
        assert options(words, "--restart") == ["always"]
        assert options(words, "--network") == ["host"]
        assert {"--read-only", "--init"} < set(words)
        assert "--publish" not in words
        writable = [volume for volume in options(words, "--volume") if not volume.endswith(":ro")]
        assert writable == ["/var/lib/dask/main:/var/lib/dask/main:rw"]


def test_a_container_has_more_memory_than_dask_gives_its_worker_and_longer_to_stop_than_a_drain_takes(
    definitions: Definitions,
) -> None:
    _scheduler, *workers = definitions(dask_drain_seconds=100)
    for worker in workers:
        words = arguments(worker)
        [limit], [hard] = options(worker["command"], "--memory-limit"), options(words, "--memory")
        assert int(limit) < int(hard)
        assert options(words, "--memory-swap") == [hard]
        assert int(options(words, "--stop-timeout")[0]) > 100


def test_published_ports_are_those_of_the_process(definitions: Definitions) -> None:
    scheduler, worker, _other = definitions(dask_docker_network="bridge")
    assert options(arguments(scheduler), "--publish") == ["10.0.0.1:8786:8786", "127.0.0.1:8787:8787"]
    published = ["10.0.0.1:9000:9000", "10.0.0.1:9100:9100", "127.0.0.1:9200:9200"]
    assert options(arguments(worker), "--publish") == published
    assert worker["environment"]["FLOTILLA_HEALTH"] == "http://127.0.0.1:9200/health"


def test_volumes_are_in_every_container(definitions: Definitions) -> None:
    for definition in definitions(dask_docker_volumes=["/data", "/srv/in put:/input:ro"]):
        assert {"/data:/data:rw", "/srv/in put:/input:ro"} < set(options(arguments(definition), "--volume"))


def test_whatever_a_process_is_made_of_is_in_its_digest(definitions: Definitions) -> None:
    changes: list[dict[str, t.Any]] = [
        {},
        {"dask_docker_network": "bridge"},
        {"dask_docker_volumes": ["/data"]},
        {"dask_image": "lab/dask:2"},
        {"dask_worker_groups": [samples.group(environment={"A": "1"})]},
        {"dask_drain_seconds": 7},
    ]
    digests = {definitions(**change)[-1]["labels"][DEFINITION] for change in changes}
    assert len(digests) == len(changes)


@given(st.dictionaries(st.from_regex("[A-Z]{1,5}", fullmatch=True), WORDS), st.lists(WORDS, min_size=1))
@hypothesis_settings(max_examples=300)
def test_words_and_variables_are_handed_on_as_they_are(environment: dict[str, str], command: list[str]) -> None:
    words = arguments({"image": "lab", "command": command, "environment": environment})
    assert words[-len(command) - 1 :] == ["lab", *command]
    assert dict(word.split("=", 1) for word in options(words[: -len(command) - 1], "--env")) == environment


def test_a_key_that_nobody_translates_is_not_left_out_in_silence() -> None:
    with pytest.raises(KeyError, match="privileged"):
        arguments({"image": "lab", "command": [], "privileged": True})


@pytest.mark.parametrize(
    ("host", "changes", "words"),
    [
        ({"engine": "", "engine_problem": "docker cannot be run"}, {}, "docker cannot be run"),
        ({"engine": "19.03.8"}, {}, "Docker Engine 20.10 or newer; that of alpha is 19.03.8"),
        ({"missing": ["/data"]}, {"dask_docker_volumes": ["/data"]}, "there is none on alpha"),
        ({}, {"dask_docker_volumes": ["data"]}, "dask_docker_volumes[0]: 'data' is refused"),
        ({}, {"dask_docker_volumes": ["/a:/data", "/b:/data"]}, "one volume for each path"),
        ({}, {"dask_docker_network": "bridge", "dask_firewall": True}, "dask_docker_network: 'bridge' is refused"),
        ({"address": "alpha.lab"}, {"dask_docker_network": "bridge"}, "dask_host_address: 'alpha.lab' is refused"),
        ({}, {"dask_environment_method": "existing", "dask_environment_path": "/opt/lab"}, "conda or venv"),
        ({}, {"dask_image": "-v"}, "dask_image: '-v' is refused"),
        ({"root": False}, {}, "supervisor for dask_scope user"),
    ],
)
def test_what_a_host_cannot_run_is_refused_in_words(
    host: dict[str, t.Any], changes: dict[str, t.Any], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        launch_plan(samples.settings(dask_launcher="docker", dask_host=samples.host(**host), **changes))
    assert words in str(caught.value)


def test_a_container_reads_the_secrets_of_its_own_group_and_has_no_value(definitions: Definitions) -> None:
    groups = [samples.group(processes=1, secrets={"TOKEN": "hunter22"}), samples.group(name="gpu", processes=1)]
    groups[1].update(ports={"worker": 9001, "nanny": 9101, "dashboard": 9201}, memory="1 GiB")
    with_secrets = definitions(dask_worker_groups=groups, dask_secrets={"SHARED": "hunter23"})
    without = definitions(dask_worker_groups=[{**groups[0], "secrets": {}}, groups[1]])
    for name, names, one, other in zip(
        ("scheduler", "worker-cpu", "worker-gpu"), ("SHARED", "SHARED TOKEN", "SHARED"), with_secrets, without
    ):
        told = {key: value for key, value in one["environment"].items() if key not in other["environment"]}
        assert told == {
            "CREDENTIALS_DIRECTORY": "/run/secrets",
            "FLOTILLA_SECRETS": names,
            "FLOTILLA_SECRETS_VERSION": "@secrets@",
        }
        mounts = [volume for volume in one["volumes"] if volume not in other["volumes"]]
        assert mounts == ["/etc/dask/main/secrets/{0}:/run/secrets:ro".format(name)]
        assert "hunter" not in str(one)
