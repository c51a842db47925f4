# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import importlib.metadata

print(" ".join(sorted({"{0}=={1}".format(each.name, each.version) for each in importlib.metadata.distributions()})))
