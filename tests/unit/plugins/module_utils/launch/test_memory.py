# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sizes of memory mean what Dask takes them to mean."""

from __future__ import annotations

import logging
import typing as t

import pytest
from dask.utils import parse_bytes
from distributed import system
from distributed.worker_memory import parse_memory_limit
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils.launch.memory import human, parse_memory, share

HOST = system.MEMORY_LIMIT
NUMBERS = st.one_of(
    st.integers(0, 10**15).map(str),
    st.decimals(0, 10**6, places=3).map(str),
    st.floats(0, 1e15).map(repr),
    st.sampled_from([".5", "5.", "1e3", "2E+2", "3e-1", "1"]),
)
UNITS = st.from_regex(r"([kmgtp]i?)?b?", fullmatch=True).flatmap(
    lambda unit: st.sampled_from([unit, unit.title(), unit.upper()])
)
SIZES = st.one_of(NUMBERS, st.builds("{0}{1}{2}".format, NUMBERS, st.sampled_from(["", " ", "  "]), UNITS))
NO_SIZES: list[t.Any] = [
    *(
        "",
        "MB",
        "auto",
        "8 GBit",
        "8 gigabytes",
        "-1 GB",
        "0",
        "0 GB",
        "inf",
        "nan",
        "1e999",
        "1,5 GB",
        "1_000",
        "٣ GB",
    ),
    *(0, -5, float("inf"), 1e-30, True, None, [], {}, b"1 GB"),
]
NEARLY_SIZES = st.text("0123456789.eE+-_ kKmMgGtTpPiIbBx", max_size=8)


def size_or_zero(value: t.Any) -> int:
    try:
        return parse_memory(value, HOST)
    except ValueError:
        return 0


def size_for_dask(value: t.Any) -> int:
    """Zero for what Dask takes to be no limit."""
    size = parse_memory_limit(value, 1, 1, logger=logging.getLogger()) or 0
    # Dask falls back to the host's memory after it has read a size that is more.
    return size if size < HOST else max(size, parse_bytes(str(value)))


@given(st.one_of(SIZES, st.integers(0, 2 * HOST), st.floats(0, 2 * HOST)))
@settings(max_examples=700)
def test_a_size_means_what_dask_takes_it_to_mean(value: t.Any) -> None:
    assert size_or_zero(value) == size_for_dask(value)


@given(NEARLY_SIZES)
@example("0 .5")
@settings(max_examples=700)
def test_text_that_is_nearly_a_size_is_refused_or_means_the_same_to_dask(value: str) -> None:
    size = size_or_zero(value)
    assert not size or size == size_for_dask(value)


@pytest.mark.parametrize("value", NO_SIZES, ids=repr)
def test_what_is_no_positive_size_is_refused(value: t.Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_memory(value, HOST)


def test_a_fraction_is_refused_where_the_memory_of_the_host_is_not_known() -> None:
    with pytest.raises(ValueError, match="fraction"):
        parse_memory("0.5")
    assert parse_memory("0.5 GB") == 500_000_000


@given(st.integers(0, 2**60), st.integers(1, 1000))
def test_shares_never_add_up_to_more_than_was_given_and_waste_less_than_a_byte_each(
    memory: int, processes: int
) -> None:
    left = memory - share(memory, processes) * processes
    assert 0 <= left < processes


@given(st.integers(0, 2**60))
def test_a_size_in_words_is_read_back_as_nearly_the_same_size(size: int) -> None:
    assert parse_bytes(human(size)) == pytest.approx(size, rel=1e-3, abs=1)
