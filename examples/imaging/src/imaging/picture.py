# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A picture of an image before and after CLEAN, for people to look at."""

from __future__ import annotations

import math
import typing as t

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imaging.synthesis import Beam, Floats

SIDE = 560
"""Pixels of the picture that an image is wide."""
LEFT, TOP, GAP, BAR, RIGHT, BOTTOM = 72, 44, 24, 18, 86, 62
"""The space around the images and the scale beside them."""
SMOOTH = 2
"""Everything is drawn so much larger, and made smaller in the end."""
COLOURS = ("#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4")
"""From faint to bright, in even steps; they keep their order in black and white."""
INK, LIGHT, PAPER = "#222222", "#ffffff", "#ffffff"
SOFT = 8.0
"""Times the noise up to which colours are nearly proportional to the brightness; above, to its logarithm."""
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
"""Arcminutes."""


class Mark(t.NamedTuple):
    """Something to circle, in pixels of the image, with a text beside it."""

    x: float
    y: float
    text: str


class Scale:
    """Says which colour a brightness has. :param top: the brightest, in Jy/beam."""

    def __init__(self, top: float, noise: float) -> None:
        self.soft = SOFT * noise
        self.low, self.high = (math.asinh(value / self.soft) for value in (-3 * noise, top))
        steps = [[int(colour[start : start + 2], 16) for start in (1, 3, 5)] for colour in COLOURS]
        self.steps = np.array(steps, float)

    def height(self, brightness: t.Any) -> t.Any:
        """Returns where between faintest (0) and brightest (1) something is."""
        return np.clip((np.arcsinh(brightness / self.soft) - self.low) / (self.high - self.low), 0, 1)

    def colour(self, height: Floats) -> Image.Image:
        place = height * (len(self.steps) - 1)
        levels = [np.interp(place, np.arange(len(self.steps)), channel) for channel in self.steps.T]
        return Image.fromarray(np.stack(levels, axis=-1).round().astype(np.uint8))


class Sheet:
    """Draws with anti-aliasing on paper of a size in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.paper = Image.new("RGB", (width * SMOOTH, height * SMOOTH), PAPER)
        self.pen = ImageDraw.Draw(self.paper)

    def text(self, x: float, y: float, words: str, anchor: str, colour: str = INK, size: int = 15) -> None:
        font = ImageFont.load_default(size * SMOOTH)
        self.pen.text((x * SMOOTH, y * SMOOTH), words, fill=colour, font=font, anchor=anchor)

    def line(self, *points: tuple[float, float], colour: str = INK, width: float = 1.0) -> None:
        self.pen.line([(x * SMOOTH, y * SMOOTH) for x, y in points], colour, round(width * SMOOTH))

    def circle(self, x: float, y: float, radius: float, colour: str) -> None:
        box = [(value + sign * radius) * SMOOTH for sign in (-1, 1) for value in (x, y)]
        self.pen.ellipse(box, outline=colour, width=round(1.25 * SMOOTH))

    def paste(self, image: Image.Image, x: int, y: int, width: int, height: int) -> None:
        large = image.resize((width * SMOOTH, height * SMOOTH), Image.Resampling.BICUBIC)
        self.paper.paste(large, (x * SMOOTH, y * SMOOTH))
        self.line((x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y))

    def finished(self) -> Image.Image:
        return self.paper.resize(self.size, Image.Resampling.LANCZOS)


def draw(
    dirty: Floats, restored: Floats, beam: Beam, noise: float, cell: float, marks: t.Sequence[Mark]
) -> Image.Image:
    """Returns a picture of both images side by side, with one scale, and sources marked in the second one.

    :param dirty: In Jy/beam, north up and east to the left, the first row at the bottom.
    :param noise: In Jy/beam.
    :param cell: The size of a pixel, in arcseconds.
    :param marks: What to mark, in pixels from 0.
    """
    scale = Scale(max(float(restored.max()), 10 * noise), noise)
    second, third = LEFT + SIDE + GAP, LEFT + 2 * (SIDE + GAP)
    sheet = Sheet(third + BAR + RIGHT, TOP + SIDE + BOTTOM)
    sheet.text(LEFT + SIDE / 2, TOP / 2, "dirty image", "mm", size=19)
    sheet.text(second + SIDE / 2, TOP / 2, "after CLEAN, flux densities in mJy", "mm", size=19)
    for image, left in ((dirty, LEFT), (restored, second)):
        sheet.paste(scale.colour(scale.height(image[::-1])), left, TOP, SIDE, SIDE)
        _axes(sheet, left, len(image) * cell / 60, left == LEFT)
    _beam(sheet, beam, second + 26, TOP + SIDE - 26, SIDE / len(restored))
    for mark in marks:
        _mark(sheet, mark, second, beam.axes()[0], SIDE / len(restored))
    _bar(sheet, scale, third)
    return sheet.finished()


def _axes(sheet: Sheet, left: int, width: float, first: bool) -> None:
    """Writes arcminutes below an image that is so many wide, and beside it if it is the first one."""
    step = next((step for step in TICKS if width / step <= 8), TICKS[-1])
    middle, bottom = SIDE / 2, TOP + SIDE
    for number in range(-int(width / 2 / step), int(width / 2 / step) + 1):
        along = number * step / width * SIDE
        words = f"{number * step:g}"
        # Offsets to the east are positive, and east is to the left.
        sheet.line((left + middle - along, bottom), (left + middle - along, bottom + 5))
        sheet.text(left + middle - along, bottom + 9, words, "mt", size=14)
        sheet.line((left, TOP + middle - along), (left - 5, TOP + middle - along))
        if first:
            sheet.text(left - 9, TOP + middle - along, words, "rm", size=14)
    sheet.text(left + middle, bottom + 46, "east of the centre (arcmin)", "ms")
    if first:
        _upright(sheet, "north of the centre (arcmin)", 20, TOP + middle)


def _upright(sheet: Sheet, words: str, x: float, y: float) -> None:
    font = ImageFont.load_default(15 * SMOOTH)
    box = font.getbbox(words)
    label = Image.new("RGB", (math.ceil(box[2]), math.ceil(box[3])), PAPER)
    ImageDraw.Draw(label).text((0, 0), words, fill=INK, font=font)
    turned = label.rotate(90, expand=True)
    sheet.paper.paste(turned, (round(x * SMOOTH - turned.width / 2), round(y * SMOOTH - turned.height / 2)))


def _mark(sheet: Sheet, mark: Mark, left: int, width: float, zoom: float) -> None:
    """Circles a source that is some pixels wide, with its text on the side where there is space."""
    x, y = left + (mark.x + 0.5) * zoom, TOP + SIDE - (mark.y + 0.5) * zoom
    radius = max(1.4 * width * zoom, 8)
    sheet.circle(x, y, radius, LIGHT)
    side = -1 if x > left + SIDE - 80 else 1
    sheet.text(x + side * (radius + 5), y, mark.text, "rm" if side < 0 else "lm", LIGHT)


def _beam(sheet: Sheet, beam: Beam, x: float, y: float, zoom: float) -> None:
    """Draws the beam's outline at half of its height."""
    major, minor, angle = beam.axes()
    turn = math.radians(angle)
    points = []
    for step in range(73):
        along, across = major / 2 * math.cos(step * math.pi / 36), minor / 2 * math.sin(step * math.pi / 36)
        east, north = along * math.sin(turn) + across * math.cos(turn), along * math.cos(turn) - across * math.sin(turn)
        points.append((x - east * zoom, y - north * zoom))
    sheet.line(*points, colour=LIGHT, width=1.25)
    sheet.text(x + major / 2 * zoom + 6, y, "beam", "lm", LIGHT, size=13)


def _bar(sheet: Sheet, scale: Scale, left: int) -> None:
    """Draws the scale, with ticks at whole powers of ten and their halves and fifths."""
    sheet.paste(scale.colour(np.linspace(1, 0, SIDE)[:, None]), left, TOP, BAR, SIDE)
    ticks = [0.0] + [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]
    last = math.inf
    for tick in ticks:
        height = float(scale.height(tick))
        y = TOP + SIDE * (1 - height)
        if 0 < height < 1 and last - y > 24:
            sheet.line((left + BAR, y), (left + BAR + 5, y))
            sheet.text(left + BAR + 9, y, f"{tick * 1000:g}", "lm", size=14)
            last = y
    sheet.text(left + BAR / 2, TOP / 2, "mJy/beam", "mm", size=14)
