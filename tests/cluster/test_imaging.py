# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pipeline in examples/imaging finds the sky that it simulated, on a real cluster, and refuses what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from imaging.image import image
from imaging.simulate import simulate
from imaging.sky import DEFAULT, Direction, read_sky
from imaging.stage import ImagingError
from imaging.visibilities import NAME as FILE
from imaging.visibilities import Visibilities, read_visibilities
from PIL import Image

from ansible_collections.flotilla.dask.tests.cluster.conftest import NAME, ROOT, SECONDS, Ansible, Cluster, free_ports

NOISE = 0.5
"""Of each real and imaginary part, in Jy; what simulate has by default."""
SIGMAS = 5
"""How far off a value may be. Of the 24 that are compared, one is beyond that in 1 of 70,000 runs."""
ARCSECONDS = math.degrees(1) * 3600
SKY = json.loads(DEFAULT.read_text())


@dataclasses.dataclass
class Stages:
    """Runs the stages as programs, as those do who know nothing of this collection."""

    cluster: Cluster

    def run(self, stage: str, *options: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "imaging." + stage, *map(str, options)],
            env={**os.environ, **self.cluster.plan["description"]["environment"], **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )


@pytest.fixture
def stages(cluster: Cluster) -> Stages:
    """The stages, with their package installed for everybody."""
    installed = cluster.packages / "imaging"
    if not installed.exists():
        shutil.copytree(ROOT / "examples" / "imaging" / "src" / "imaging", installed)
    return Stages(cluster)


@pytest.fixture
def measured(tmp_path: Path) -> Visibilities:
    """Some visibilities, written to ``tmp_path``, of which every part is as it should be."""
    some = np.random.default_rng(1)
    few = Visibilities(
        some.normal(size=(2, 3, 4)).astype(np.complex64),
        some.normal(size=(2, 3, 3)),
        np.linspace(1.3e9, 1.5e9, 4),
        np.array([60.0, -45.0]),
    )
    few.write(tmp_path)
    return few


def assert_recovered(found: dict[str, t.Any], visibilities: int) -> None:
    """Compares what was found with the known sky, within what the noise of the visibilities does to an image.

    With natural weights the image's noise is that of one visibility over the square root of their number. A place is
    known to half the beam over the signal-to-noise ratio.
    """
    noise = NOISE / math.sqrt(visibilities)
    # The image has about 1,000 beams, so its noise is known to about 3 %.
    assert found["noise"] == pytest.approx(noise, rel=0.15)
    known = sorted(read_sky(DEFAULT).sources, key=lambda source: -source.flux)
    sources = sorted(found["sources"], key=lambda source: -float(source["flux"]))
    assert len(sources) == len(known)
    for source, true in zip(sources, known):
        assert source["flux"] == pytest.approx(true.flux, abs=SIGMAS * noise), true.name
        east, north, _ahead = Direction(source["ra"], source["dec"]).cosines(true.direction)
        within = SIGMAS * found["beam"]["major"] / 2 * noise / true.flux
        assert max(abs(east), abs(north)) * ARCSECONDS < within, true.name


def test_the_known_sky_is_recovered_and_the_images_say_where_it_is(stages: Stages, tmp_path: Path) -> None:
    data, images = tmp_path / "data", tmp_path / "images"
    scheduler = stages.cluster.plan["description"]["scheduler"]
    elsewhere = "tls://127.0.0.1:1"
    first = stages.run("simulate", "--output", data, ARL_DASK_SCHEDULER=scheduler, DASK_SCHEDULER_ADDRESS=elsewhere)
    assert first.returncode == 0, first.stderr
    second = stages.run("image", "--input", data, "--output", images)
    assert second.returncode == 0, second.stderr
    assert f"scheduler {scheduler}, 2 workers" in first.stdout
    assert f"scheduler {scheduler}, 2 workers" in second.stdout

    number = read_visibilities(str(data)).values.size
    found = json.loads((images / "sources.json").read_text())
    assert found["converged"]
    assert_recovered(found, number)
    noise = NOISE / math.sqrt(number)

    # Others read the files, who know nothing but their headers.
    assert sorted(path.name for path in images.iterdir()) == [
        *("dirty.fits", "model.fits", "psf.fits", "restored.fits", "restored.png", "sources.json")
    ]
    hdu = {path.stem: fits.open(path)[0] for path in images.glob("*.fits")}
    assert {name: each.header.get("BUNIT") for name, each in hdu.items()} == {
        "dirty": "Jy/beam",
        "model": "Jy/pixel",
        "psf": None,
        "restored": "Jy/beam",
    }
    header, restored = hdu["restored"].header, hdu["restored"].data
    assert "BMAJ" not in hdu["model"].header
    assert header["BMAJ"] * 3600 == pytest.approx(found["beam"]["major"])
    total = sum(source["flux"] for source in SKY["sources"])
    # CLEAN leaves up to 4 times the noise of each source in the residual, which is 1 % of all.
    assert hdu["model"].data.sum() == pytest.approx(total, rel=0.02)
    world = WCS(header)
    for source in SKY["sources"]:
        x, y = world.wcs_world2pix(source["ra"], source["dec"], 0)
        column, row = round(float(x)), round(float(y))
        inside = restored[row - 4 : row + 5, column - 4 : column + 5]
        # Between pixels, in a beam of 6 pixels, the peak is up to 4 % higher than at the nearest one.
        assert inside.max() == pytest.approx(source["flux"], rel=0.05, abs=SIGMAS * noise)
        assert np.unravel_index(inside.argmax(), inside.shape) == pytest.approx((4, 4), abs=1)
    centre = tuple(int(hdu["psf"].header[key]) - 1 for key in ("CRPIX2", "CRPIX1"))
    spread = hdu["psf"].data
    assert np.unravel_index(spread.argmax(), spread.shape) == centre
    assert spread[centre] == pytest.approx(1, abs=1e-3)
    picture = Image.open(images / "restored.png")
    assert picture.width > 2 * 500
    assert len(picture.getcolors(picture.width * picture.height) or []) > 1000


@pytest.mark.usefixtures("stages")
def test_the_playbook_runs_the_stages_as_jobs_once(ansible: Ansible, tmp_path: Path) -> None:
    group, picture = tmp_path / "group.ini", tmp_path / "picture.png"
    group.write_text("[dask_scheduler]\nlocalhost\n")
    variables = {"dask_cluster_name": NAME, "dask_home": str(ansible.home), "imaging_picture": str(picture)}
    playbook = ROOT / "examples" / "imaging.yml"

    def play() -> str:
        outcome = ansible.run("ansible-playbook", str(playbook), "--inventory", str(group), "-e", json.dumps(variables))
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return outcome.stdout

    assert "changed=3 " in play()
    first, second = ansible.record("imaging-simulate"), ansible.record("imaging-image")
    assert first is not None
    assert second is not None
    assert_recovered(second["result"], first["result"]["visibilities"])
    assert picture.read_bytes() == Path(second["directory"], "work", "restored.png").read_bytes()
    assert "changed=0 " in play()


@pytest.mark.usefixtures("stages")
def test_a_stage_is_a_script_that_fails_with_its_last_line(ansible: Ansible, tmp_path: Path) -> None:
    script = ROOT / "examples" / "imaging" / "src" / "imaging" / "image.py"
    arguments = ["--input", str(tmp_path), "--output", "."]
    outcome = ansible.job(name="imaging-script", script=str(script), arguments=arguments)
    assert outcome["failed"]
    assert outcome["job"]["reason"] == "exit"
    assert f"imaging.image: input: '{tmp_path}' is refused: there is no visibilities.npz." in outcome["msg"]


def test_the_same_seed_gives_the_same_data(stages: Stages, tmp_path: Path) -> None:
    def values(seed: int) -> t.Any:
        outcome = stages.run("simulate", "--output", tmp_path, "--times", 20, "--channels", 2, "--seed", seed)
        assert outcome.returncode == 0, outcome.stderr
        return read_visibilities(str(tmp_path)).values

    first, second, other = values(1), values(1), values(2)
    assert (first == second).all()
    # The sky is the same: their difference is noise, in each part of twice the variance.
    assert (first - other).real.std() == pytest.approx(NOISE * math.sqrt(2), rel=0.05)


def test_a_cluster_that_is_not_there_is_named(stages: Stages, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = f"tls://127.0.0.1:{port}"
    outcome = stages.run("simulate", "--output", tmp_path, "--patience", 0.5, ARL_DASK_SCHEDULER=address)
    assert outcome.returncode == 1
    said = f"imaging.simulate: The scheduler at {address}, which ARL_DASK_SCHEDULER names, cannot be reached within"
    assert outcome.stderr.splitlines()[-1].startswith(said)
    assert not (tmp_path / FILE).exists()


def test_a_cluster_without_workers_is_refused(stages: Stages, tmp_path: Path) -> None:
    for worker in stages.cluster.workers:
        stages.cluster.lose(worker)
    outcome = stages.run("simulate", "--output", tmp_path, "--patience", 2)
    assert outcome.returncode == 1
    scheduler = stages.cluster.plan["description"]["scheduler"]
    said = f"imaging.simulate: The scheduler at {scheduler} has no workers after 2 s."
    assert outcome.stderr.splitlines()[-1].startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_is_missing_ends_the_program_with_a_message(stages: Stages, tmp_path: Path) -> None:
    outcome = stages.run("image", "--input", tmp_path / "nothing", "--output", tmp_path)
    assert outcome.returncode == 1
    assert outcome.stderr == (
        f"imaging.image: input: '{tmp_path}/nothing' is refused: there is no visibilities.npz. Allowed: the output "
        "directory of imaging.simulate.\n"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.zeros((0, 3, 4), np.complex64)}, "frequencies (their shape is (0, 3, 4))"),
        ({"values": np.zeros(4, np.complex64)}, "frequencies (their shape is (4,))"),
        ({"values": np.zeros((2, 3, 5), np.complex64)}, "its arrays don't belong together"),
        ({"values": np.zeros((2, 3, 4))}, "visibilities have to be complex"),
        ({"values": np.full((2, 3, 4), np.nan, np.complex64)}, "it has values that aren't finite"),
        ({"frequencies": np.array([1e9, 1e9, 1e9, 0])}, "it has frequencies that aren't above 0"),
        ({"baselines": np.zeros((2, 3, 3))}, "all antennas are in one place"),
    ],
)
def test_visibilities_that_are_none_are_refused(
    measured: Visibilities, tmp_path: Path, changes: dict[str, t.Any], message: str
) -> None:
    dataclasses.replace(measured, **changes).write(tmp_path)
    with pytest.raises(ImagingError) as refusal:
        image(str(tmp_path), str(tmp_path / "images"))
    assert message in str(refusal.value)


@pytest.mark.usefixtures("measured")
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for content in (path.read_bytes()[:-100], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(ImagingError, match="cannot be read"):
            read_visibilities(str(tmp_path))


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 250}, "size: 250 is refused. Allowed: multiples of 4 from 64 to 512."),
        ({"size": 1024}, "size: 1024 is refused"),
        ({"cell": 1e5}, "cell: 100000 is refused. Allowed: more than 0, and at most"),
        ({"cell": -1.0}, "cell: -1 is refused"),
        ({"iterations": 0}, "iterations: 0 is refused"),
        ({"patience": 0}, "patience: 0 is refused"),
        ({"size": 512, "cell": 4000.0}, "the field is so wide that phases in its corners are wrong"),
        ({"output": "/dev/null"}, "output: '/dev/null' is refused: File exists"),
    ],
)
def test_what_cannot_be_imaged_is_refused(tmp_path: Path, options: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ImagingError) as refusal:
        image(**{"visibilities": str(tmp_path), "output": str(tmp_path / "images"), "cell": 1.0, **options})
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hours": 13.0}, "hours: 13 is refused. Allowed: more than 0, at most 12."),
        ({"times": 0}, "times: 0 is refused"),
        ({"channels": 0}, "channels: 0 is refused"),
        ({"times": 10_000, "channels": 100}, "which is 50 MB"),
        ({"noise": math.nan}, "noise: nan is refused"),
        ({"seed": -1}, "seed: -1 is refused"),
        ({"sky": "/nowhere"}, "sky: '/nowhere' is refused: No such file or directory."),
    ],
)
def test_what_cannot_be_simulated_is_refused(tmp_path: Path, options: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ImagingError) as refusal:
        simulate(str(tmp_path), **options)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it isn't JSON"),
        ("[]", "the sky is refused: it is no mapping. Allowed: exactly centre, sources."),
        (json.dumps({**SKY, "sources": []}), "sources is refused: it has to be a list of at least one source."),
        (json.dumps({**SKY, "centre": {"ra": 1}}), "centre is refused: it has ra. Allowed: exactly dec, ra."),
        (json.dumps({**SKY, "centre": {"ra": 60, "dec": 40}}), "is more than 1 degree from the centre"),
        (json.dumps({**SKY, "sources": SKY["sources"][:1] * 2}), "more than one is called A"),
        (
            json.dumps({**SKY, "sources": [{**SKY["sources"][0], "flux": -1}]}),
            "sources[0].flux: -1 is refused. Allowed: a number of janskys above 0.",
        ),
        (json.dumps({**SKY, "sources": [{**SKY["sources"][0], "ra": True}]}), "sources[0].ra: True is refused"),
        (
            json.dumps({"centre": {"ra": 0, "dec": 70}, "sources": [{"name": "a", "ra": 0, "dec": 70, "flux": 1}]}),
            "degrees above the horizon. Allowed: at least 15",
        ),
    ],
)
def test_a_sky_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sky.json"
    path.write_text(text)
    with pytest.raises(ImagingError) as refusal:
        simulate(str(tmp_path), sky=str(path))
    assert message in str(refusal.value)
