#!/bin/sh
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Runs as root in a host that is starting up: waits for systemd, then lets one ordinary user in over SSH.
#   host_setup.sh USER       PUBLIC_KEY and ENVIRONMENT (lines for /etc/environment) are in the environment
set -eu

user=$1
getent passwd "$user" >/dev/null || useradd --create-home --no-user-group --shell /bin/bash "$user"
install -d -m 0700 -o "$user" "/home/$user/.ssh"
printf '%s\n' "$PUBLIC_KEY" >"/home/$user/.ssh/authorized_keys"
chown "$user" "/home/$user/.ssh/authorized_keys"
printf '%s ALL=(ALL) NOPASSWD: ALL\n' "$user" >/etc/sudoers.d/test-user
printf '%s' "$ENVIRONMENT" >>/etc/environment
echo 'Defaults env_keep += "PIP_* SSL_CERT_FILE"' >>/etc/sudoers.d/test-user
# The image has no package lists: they must not look fresh to a task that updates what is old.
[ ! -d /var/lib/apt/lists ] || touch --date=@0 /var/lib/apt/lists

# The first answers come before systemd listens.
tries=0
until state=$(timeout 60 systemctl is-system-running --wait 2>&1) && [ "$state" = running ]; do
  tries=$((tries + 1))
  if [ "$tries" -ge 100 ]; then
    echo "systemd: $state" >&2
    systemctl --failed --no-legend >&2
    exit 1
  fi
  sleep 0.1
done
