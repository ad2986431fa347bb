"""The switch on a rented machine that ends it when nobody looks after it any more.

A process in a session of its own, in POSIX sh, watches two things by the machine's own clock: how long it has been
there, and how long ago its controller was last heard of. Past either limit it stops the jobs and ends the machine with
the provider's own means, again and again until it is gone. In its folder, `FOLDER/deadman/REQUEST`:

    watch.sh   what watches
    end.sh     how this machine is ended
    watcher    process id and birth of that
    beat       what the controller wrote last; any change is a sign of life
    ending     why the machine is being ended, once it is
    end.log    what ending it said
"""

from __future__ import annotations

import secrets
from enum import StrEnum

from tasks.hosts.errors import CommandFailed
from tasks.hosts.host import Host
from tasks.hosts.shell import SHELL_FUNCTIONS, assigned

CALL_S = 60.0
WATCH_EVERY_S = 5
END_EVERY_S = 30
JOB_GRACE_S = 20
_END_OF_WATCH, _END_OF_END = "JADE_END_OF_WATCH", "JADE_END_OF_END"


class Switch(StrEnum):
    """How the switch of a machine stands."""

    ARMED = "armed"
    MISSING = "missing"
    """Nobody watches: it was never armed, or was killed."""
    ENDING = "ending"
    """It has fired: the machine is about to go."""


_WATCH = """
cd -- "$folder" || exit 1
trap '' HUP INT
put watcher "$$ $(birth $$)"
stop_jobs() {
  for attempt in "$jobs"/*/attempt-*/; do
    [ ! -d "$attempt" ] || [ -f "$attempt/exit_code" ] || : > "$attempt/stop"
  done
  since=$(ticks)
  while [ "$(($(ticks) - since))" -lt "$job_grace_s" ]; do
    runs=
    for attempt in "$jobs"/*/attempt-*/; do
      [ ! -f "$attempt/process" ] || [ -f "$attempt/exit_code" ] || runs=1
    done
    [ -n "$runs" ] || return 0
    nap
  done
}
began=$(ticks); heard=$began; last=
while :; do
  now=$(ticks); get beat
  if [ "$value" != "$last" ]; then last=$value; heard=$now; fi
  why=
  if [ "$((now - began))" -ge "$max_age_s" ]; then why="age"
  elif [ "$((now - heard))" -ge "$grace_s" ]; then why="silence"; fi
  if [ -n "$why" ]; then
    put ending "$why"
    stop_jobs
    while :; do sh end.sh >> end.log 2>&1; sleep "$end_every_s"; done
  fi
  sleep "$watch_every_s"
done
"""

_LOOK = """
is_watched() {
  [ -f watcher ] || return 1
  read -r watcher watcher_birth < watcher
  is_alive "$watcher" "$watcher_birth"
}
tell() {
  if [ -f ending ]; then get ending; echo "ending $value"
  elif is_watched; then echo armed
  else echo missing; fi
}
"""

_ARM = """
base=$PWD
mkdir -p -- "$folder" && cd -- "$folder" && folder=$PWD || exit 1
put beat "$beat"
case $(tell) in armed|ending*) tell; exit 0 ;; esac
case $jobs in /*) ;; *) jobs=$base/$jobs ;; esac
{
  printf "folder='%s'\\njobs='%s'\\n" "$(quoted "$folder")" "$(quoted "$jobs")"
  cat <<'@WATCH_MARK@'
@WATCH@
@WATCH_MARK@
} > watch.sh || exit 1
cat > end.sh <<'@END_MARK@'
@END@
@END_MARK@
rm -f watcher
( own_session sh watch.sh ) < /dev/null > watch.log 2>&1 &
since=$(ticks)
while ! is_watched && [ "$(($(ticks) - since))" -lt 10 ]; do nap; done
tell
"""

_BEAT = """
[ -d "$folder" ] && cd -- "$folder" || { echo missing; exit 0; }
put beat "$beat"
tell
"""


def arm(
    host: Host, folder: str, jobs_folder: str, request_id: str, *, end: str, max_age_s: float, grace_s: float
) -> Switch:
    """Start the switch of a machine, unless it is armed; safe to repeat.

    Args:
        host: The machine.
        folder: Ours over there.
        jobs_folder: Where its jobs are.
        request_id: Of the rental.
        end: How the machine is ended from inside, POSIX sh.
        max_age_s: From now on.
        grace_s: How long nobody may be heard of.

    Raises:
        CommandFailed: It does not come up.
    """
    for mark in (_END_OF_WATCH, _END_OF_END):
        if mark in end:
            raise ValueError(f"end must not have {mark} in it")
    watch = (
        assigned(
            max_age_s=max(int(max_age_s), 1),
            grace_s=max(int(grace_s), 1),
            watch_every_s=min(WATCH_EVERY_S, max(int(grace_s) // 4, 1)),
            end_every_s=END_EVERY_S,
            job_grace_s=JOB_GRACE_S,
        )
        + SHELL_FUNCTIONS
        + _WATCH
    )
    body = _ARM.replace("@WATCH_MARK@", _END_OF_WATCH).replace("@END_MARK@", _END_OF_END)
    body = body.replace("@WATCH@", watch).replace("@END@", end)
    values = assigned(folder=f"{folder}/deadman/{request_id}", jobs=jobs_folder, beat=secrets.token_hex(4))
    script = f"# jade: arm dead-man switch {request_id}\n{values}{SHELL_FUNCTIONS}{_LOOK}{body}"
    result = host.run(script, timeout_s=CALL_S)
    switch = _switch(result.text)
    if switch is Switch.MISSING:
        raise CommandFailed(host.name, script, result.exit_status, f"it does not run: {result.text!r}")
    return switch


def beat(host: Host, folder: str, request_id: str) -> Switch:
    """Show the switch a sign of life; return how it stands."""
    values = assigned(folder=f"{folder}/deadman/{request_id}", beat=secrets.token_hex(4))
    return _switch(
        host.run(f"# jade: beat {request_id}\n{values}{SHELL_FUNCTIONS}{_LOOK}{_BEAT}", timeout_s=CALL_S).text
    )


def _switch(answer: str) -> Switch:
    return Switch(answer.split(maxsplit=1)[0]) if answer.strip() else Switch.MISSING
