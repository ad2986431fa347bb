"""What a RunPod pod runs first: it shows our host key, starts the image as usual, and ends itself when its time is up.

The service shows a pod's environment to whoever holds the account's API key. So the host key in there vouches for
the first connection alone; over that one it is to be replaced (`RENEW_HOST_KEY`).
"""

from __future__ import annotations

import base64

ARGUMENTS = """bash -c 'eval "$JADE_START"'"""
"""The container's command. The script itself travels in the environment, where nothing takes its quotes apart."""

END = 'mkdir -p "$HOME/.jade" && : > "$HOME/.jade/end-machine"'
"""Asks the pod's first process to end the pod; it does so within seconds."""

RENEW_HOST_KEY = 'sh "$HOME/.jade/renew-host-key"'
"""Makes a new host key and prints its public line."""

# The pod ends through the service's API where the key that it was given by the service may do that; if not, the
# container exits, and whoever watches from outside deletes the pod. The end is a point in time, not an age: a
# container that the service starts again must not live that long again.
_SCRIPT = r"""
umask 077
mkdir -p "@HOST_KEYS@" "$HOME/.jade"
key="@HOST_KEYS@/ssh_host_ed25519_key"
printf %s "$JADE_HOST_KEY" | base64 -d > "$key"
ssh-keygen -y -f "$key" > "$key.pub"
cat > "$HOME/.jade/renew-host-key" <<'RENEW'
set -eu
key="@HOST_KEYS@/ssh_host_ed25519_key"
rm -f "$key.new" "$key.new.pub"
ssh-keygen -q -t ed25519 -N '' -C '' -f "$key.new"
mv -f "$key.new" "$key"
mv -f "$key.new.pub" "$key.pub"
kill -HUP "$(cat "@PID_FILE@")"
cat "$key.pub"
RENEW
api=$JADE_API ends_at=$JADE_ENDS_AT
# Images write their environment to files for login shells: what is secret must not be in it any more.
unset JADE_HOST_KEY JADE_START JADE_API JADE_ENDS_AT
umask 022
is_due() { [ "$(date +%s)" -ge "$ends_at" ] || [ -e "$HOME/.jade/end-machine" ]; }
main=
if ! is_due; then
  @START@ &
  main=$!
  while kill -0 "$main" 2>/dev/null && ! is_due; do sleep @LOOK_S@; done
fi
JADE_API=$api python3 -c '
import os, urllib.request
url = os.environ["JADE_API"] + "/pods/" + os.environ["RUNPOD_POD_ID"]
headers = {"Authorization": "Bearer " + os.environ["RUNPOD_API_KEY"]}
urllib.request.urlopen(urllib.request.Request(url, headers=headers, method="DELETE"), timeout=30)
'
[ -z "$main" ] || kill "$main" 2>/dev/null
exit 0
"""
_LOOK_S = 2


def start_environment(
    *,
    host_private_key: str,
    public_key: str,
    ends_at: float,
    api_url: str,
    start_command: str,
    host_key_folder: str,
    pid_file: str,
) -> dict[str, str]:
    """Return the environment that makes `ARGUMENTS` do all this.

    Args:
        host_private_key: OpenSSH private key (Ed25519) that the pod's SSH server shows at first.
        public_key: Line of `authorized_keys`; RunPod's images admit the one in `PUBLIC_KEY`.
        ends_at: When the pod ends itself; seconds since 1970.
        api_url: Base of the service's API.
        start_command: What the image would start by itself; it sets up and starts the SSH server.
        host_key_folder: Where that server looks for its keys.
        pid_file: Where that server writes its process id.
    """
    script = _SCRIPT
    for mark, value in (
        ("@HOST_KEYS@", host_key_folder),
        ("@PID_FILE@", pid_file),
        ("@START@", start_command),
        ("@LOOK_S@", str(_LOOK_S)),
    ):
        script = script.replace(mark, value)
    return {
        "PUBLIC_KEY": public_key.strip(),
        "JADE_HOST_KEY": base64.b64encode(host_private_key.encode()).decode(),
        "JADE_ENDS_AT": str(int(ends_at)),
        "JADE_API": api_url,
        "JADE_START": script,
    }
