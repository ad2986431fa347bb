"""What an EC2 machine is told at its first start, and what it can do about itself.

Whoever may describe instances of the account can read what a machine was told. So the host key in there vouches for
the first connection alone; over that one it is to be replaced.
"""

from __future__ import annotations

import io
import json

import paramiko

_AS_ROOT = 'as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }\n'

END = _AS_ROOT + "as_root shutdown -h now"
"""The machine is made so that a shutdown from inside terminates it, and so ends its cost."""

RENEW_HOST_KEY = (
    _AS_ROOT
    + r"""set -eu
as_root sh -c '
set -eu
key=$(sshd -T 2>/dev/null | sed -n "s/^hostkey //p" | grep ed25519 | head -n 1)
pid_file=$(sshd -T 2>/dev/null | sed -n "s/^pidfile //p")
rm -f "$key.new" "$key.new.pub"
ssh-keygen -q -t ed25519 -N "" -C "" -f "$key.new"
mv -f "$key.new" "$key"
mv -f "$key.new.pub" "$key.pub"
kill -HUP "$(cat "$pid_file")"
cat "$key.pub"
'"""
)
"""Makes a new host key and prints its public line."""

NOTICE = r"""base=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
token=$(curl -s -f -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$base/latest/api/token") || exit 0
printf 'X-aws-ec2-metadata-token: %s' "$token" |
  curl -s -f -m 2 -H @- "$base/latest/meta-data/spot/instance-action" | tr -d '\n' || :
"""
"""Prints what AWS announces about a spot machine, such as `{"action": "terminate", "time": "..."}`; else nothing."""

_END_AT_AGE = """#!/bin/sh
left_s=$(({ends_at} - $(date +%s)))
if [ "$left_s" -gt 0 ]; then shutdown -h "+$(((left_s + 59) / 60))"; else shutdown -h now; fi
"""


def user_data(*, host_private_key: str, public_key: str, ends_at: float) -> str:
    """Return the cloud-config of a machine.

    Args:
        host_private_key: OpenSSH private key (Ed25519); the only one that the SSH server shows.
        public_key: Line of `authorized_keys` that admits us.
        ends_at: When it shuts itself down, at every start anew; seconds since 1970.
    """
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(host_private_key))
    config = {
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": host_private_key,
            "ed25519_public": f"{key.get_name()} {key.get_base64()}",
        },
        "ssh_authorized_keys": [public_key.strip()],
        "write_files": [
            {
                "path": "/var/lib/cloud/scripts/per-boot/jade-end-at-age",
                "permissions": "0755",
                "content": _END_AT_AGE.format(ends_at=int(ends_at)),
            }
        ],
    }
    # JSON is YAML, and leaves no questions of quoting.
    return "#cloud-config\n" + json.dumps(config, indent=1)
