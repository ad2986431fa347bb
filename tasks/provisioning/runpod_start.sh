# What a RunPod pod runs first, from the variable JADE_START: it shows our host key, starts the image as usual, and ends
# itself when its time is up.
#
# The service shows a pod's environment to whoever holds the account's API key. So the host key in there vouches for the
# first connection alone; over that one it is replaced. The pod ends through the service's API where the key that it was
# given by the service may do that; if not, the container exits, and whoever watches from outside deletes the pod. The
# end is a point in time, not an age: a container that the service starts again must not live that long again.
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
