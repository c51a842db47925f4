# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Aperture synthesis on a Dask cluster, in two stages: ``imaging.simulate`` observes, ``imaging.image`` makes images.

A stage reads and writes files in its own process only; workers get arrays and return arrays, so they need not share a
file system with it, or with each other. That is meant for data of some tens of megabytes, as `simulate` makes them.
"""
