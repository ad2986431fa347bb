"""The far side of the detached-job protocol, in POSIX sh: no systemd, tmux, rsync or Python is needed there.

An attempt's folder `JOBS/RUN_KEY/attempt-N` is made with `mkdir`, which only one of several starters can do. In it:

    claimed      when it was made, by the host's clock
    id           random; every process of the job carries it as JADE_JOB_ID in its environment
    environment  variables, mode 0600; removed as soon as the job has read them
    supervise.sh what watches the job, in a session of its own
    supervisor   process id and birth of that
    process      process id, process group and birth of the job itself, in a session of its own, too
    out.log      what the job writes, both streams
    heartbeat    the host's clock, every few seconds
    stop         is there if somebody asked the job to stop
    ending       why the supervisor ended the job, if it did
    exit_code    status and ending, written last: who sees it knows that nothing of the job runs any more

Single values are written beside and renamed, so that nobody reads half of one. A birth is the start time and the
boot in which it counts: with it, a process id that was given out anew is no longer mistaken for the job.
"""

from __future__ import annotations

import shlex

from tasks.hosts.shell import TOOL_MISSING

HEARTBEAT_S = 5
STARTING_S = 60
"""A claim whose supervisor has not come up after this long was abandoned by its starter."""
STOP_SLACK_S = 10
"""What a stop may take beyond the grace that the job was given."""
STATUS_MARK = "jade-job"
END_OF_SUPERVISOR = "JADE_END_OF_SUPERVISOR"

COMMON = f"""export LC_ALL=C; umask 077
nap() {{ sleep 0.2 2>/dev/null || sleep 1; }}
put() {{ printf '%s\\n' "$2" > "$1.tmp.$$" && mv -f "$1.tmp.$$" "$1"; }}
get() {{ value=; [ ! -f "$1" ] || IFS= read -r value < "$1" || :; }}
ticks() {{
  if [ -r /proc/uptime ]; then read -r up rest < /proc/uptime; echo "${{up%%.*}}"; else date +%s; fi
}}
birth() {{
  if [ -d /proc/self ]; then
    stat=; read -r stat 2>/dev/null < "/proc/$1/stat" || return 0
    boot=; read -r boot 2>/dev/null < /proc/sys/kernel/random/boot_id || :
    set -- ${{stat##*) }}
    case $1 in Z|X|x) ;; *) echo "${{20}}@$boot" ;; esac
  else
    ps -o stat=,lstart= -p "$1" | sed '/^ *Z/d; s/^ *[^ ]* *//'
  fi
}}
group_of() {{
  stat=; read -r stat 2>/dev/null < "/proc/$1/stat" || return 0
  set -- ${{stat##*) }}; echo "$3"
}}
is_alive() {{ [ -n "$1" ] && [ -n "$2" ] && [ "$(birth "$1")" = "$2" ]; }}
members() {{ [ -z "$id" ] || grep -ls "JADE_JOB_ID=$id" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3; }}
is_gone() {{ [ -z "$(members)" ] && ! kill -0 "-$1" 2>/dev/null; }}
end_group() {{
  kill -TERM "-$1" 2>/dev/null || :
  # Once each: to many programs a second TERM means to give up tidying.
  for member in $(members); do
    [ "$(group_of "$member")" = "$1" ] || kill -TERM "$member" 2>/dev/null || :
  done
  since=$(ticks)
  while ! is_gone "$1" && [ "$(($(ticks) - since))" -lt "$2" ]; do nap; done
  kill -KILL "-$1" 2>/dev/null || :
  for member in $(members); do kill -KILL "$member" 2>/dev/null || :; done
  since=$(ticks)
  while [ -n "$(members)" ] && [ "$(($(ticks) - since))" -lt 5 ]; do nap; done
}}
look() {{
  id=; supervisor=; supervisor_birth=; process=; group=; process_birth=; code=; ending=; heartbeat=; claimed=
  get id; id=$value
  get claimed; claimed=$value
  # A starter that died between two lines left no time: its claim begins to age with the first who looks.
  if [ -z "$claimed" ]; then put claimed "$(date +%s)"; get claimed; claimed=$value; fi
  [ ! -f supervisor ] || read -r supervisor supervisor_birth < supervisor
  [ ! -f process ] || read -r process group process_birth < process
  get heartbeat; heartbeat=$value
  if [ -f exit_code ]; then state=done
  elif is_alive "$supervisor" "$supervisor_birth" || is_alive "$process" "$process_birth"; then state=running
  # It may have ended, in good order, between the two looks.
  elif [ -f exit_code ]; then state=done
  elif [ -z "$supervisor" ] && [ "$(($(date +%s) - claimed))" -lt {STARTING_S} ]; then state=starting
  else state=lost; fi
  [ "$state" != done ] || read -r code ending < exit_code
}}
report() {{
  size=0; [ ! -f out.log ] || size=$(($(wc -c < out.log)))
  set -- "$state" "${{code:--}}" "${{ending:--}}" "$(date +%s)" "${{heartbeat:--}}" "$size" "${{process:--}}"
  echo "{STATUS_MARK} $*"
}}
newest() {{ ls | sed -n 's/^attempt-\\([0-9][0-9]*\\)$/\\1/p' | sort -n | tail -n 1; }}
"""

_SUPERVISE = """
cd -- "$attempt" || exit 1
get id; id=$value
put heartbeat "$(date +%s)"
put supervisor "$$ $(birth $$)"
(
  . ./environment; rm -f environment
  cd -- "$workdir" || exit 126
  export JADE_JOB_ID="$id" PYTHONUNBUFFERED=1
  eval "own_session $command"
) < /dev/null >> out.log 2>&1 &
child=$!
put process "$child $child $(birth $child)"
watch() {
  began=$(ticks); beat=$began
  while kill -0 $$ 2>/dev/null; do
    now=$(ticks)
    if [ -e stop ]; then put ending stopped; end_group "$child" "$grace_s"; return; fi
    if [ "$((now - began))" -ge "$limit_s" ]; then
      put ending timed_out; end_group "$child" "$grace_s"; return
    fi
    if [ "$((now - beat))" -ge "$heartbeat_s" ]; then put heartbeat "$(date +%s)"; beat=$now; fi
    nap
  done
  # The supervisor was killed. Without it there is no exit code, and the job must not run on unseen.
  end_group "$child" "$grace_s"
}
watch &
watcher=$!
# The host shutting down, for one, tells the supervisor as well.
trap 'was_interrupted=1; : > stop' TERM INT HUP
while :; do
  was_interrupted=; wait "$child"; code=$?
  [ -n "$was_interrupted" ] || break
done
kill "$watcher" 2>/dev/null; wait "$watcher" 2>/dev/null
end_group "$child" "$grace_s"
get ending
put exit_code "$code ${value:-exited}"
"""

OWN_SESSION = f"""
if command -v setsid >/dev/null 2>&1; then own_session() {{ exec setsid "$@"; }}
elif command -v python3 >/dev/null 2>&1; then
  own_session() {{ exec python3 -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' "$@"; }}
else echo "{TOOL_MISSING}setsid or python3" >&2; exit 127; fi
"""

QUOTED = """quoted() { printf '%s' "$1" | sed "s/'/'\\\\\\\\''/g"; }\n"""

_START = """
base=$PWD
mkdir -p -- "$jobs/$key" && cd -- "$jobs/$key" || exit 1
number=$(newest)
if [ -n "$number" ]; then
  cd "attempt-$number" || exit 1
  look
  case "$state $code $ending" in
    starting*|running*|"done 0 exited") echo "attached $number"; exit 0 ;;
  esac
  # A lost job may have left processes; the next one must not train beside them.
  for member in $(members); do kill -KILL "$member" 2>/dev/null || :; done
  cd ..
fi
number=$((${number:-0} + 1))
if ! mkdir "attempt-$number" 2>/dev/null; then
  # Somebody else was quicker, or nobody can write here.
  [ -d "attempt-$number" ] || mkdir "attempt-$number" || exit 1
  echo "attached $number"; exit 0
fi
cd "attempt-$number" && attempt=$PWD || exit 1
put claimed "$(date +%s)" && put id "$new_id" && : > out.log && cat > environment || exit 1
if [ "$(($(wc -c < environment)))" -ne "$num_environment_bytes" ]; then
  echo 'jade: the environment arrived in part' >&2; rm -rf -- "$attempt"; exit 1
fi
case $workdir in /*) ;; *) workdir=$base/$workdir ;; esac
{
  printf "attempt='%s'\\nworkdir='%s'\\n" "$(quoted "$attempt")" "$(quoted "$workdir")"
  cat <<'@END@'
@SUPERVISOR@
@END@
} > supervise.sh || exit 1
( own_session sh supervise.sh ) < /dev/null > supervise.log 2>&1 &
since=$(ticks)
while [ ! -f process ] && [ "$(($(ticks) - since))" -lt 10 ]; do nap; done
echo "started $number"
"""

_LOOK = """
cd -- "$attempt" || exit 1
look
report
if [ "$num_bytes" -gt 0 ] && [ "$size" -gt "$offset" ]; then
  tail -c "+$((offset + 1))" out.log | head -c "$num_bytes"
fi
"""

_STOP = """
cd -- "$attempt" || exit 1
: > stop
since=$(ticks)
look
while [ "$state" = starting ] || [ "$state" = running ]; do
  [ "$(($(ticks) - since))" -lt "$wait_s" ] || break
  # A job whose supervisor was killed obeys nobody.
  [ "$state" = starting ] || is_alive "$supervisor" "$supervisor_birth" || break
  nap; look
done
if [ "$state" != done ]; then
  # Nobody over there obeys, so this does it, and writes what the supervisor would have.
  ! is_alive "$supervisor" "$supervisor_birth" || kill -KILL "$supervisor"
  ! is_alive "$process" "$process_birth" || kill -KILL "-$group"
  for member in $(members); do kill -KILL "$member" 2>/dev/null || :; done
  [ "$state" = lost ] || [ -f exit_code ] || put exit_code "137 stopped"
  look
fi
report
"""

_LIST = """
[ -d "$jobs" ] || exit 0
cd -- "$jobs" || exit 1
for folder in */; do
  case $folder in [!A-Za-z0-9]*|*[!A-Za-z0-9._/-]*|"*/") continue ;; esac
  ( cd -- "$folder" && number=$(newest) && [ -n "$number" ] && cd "attempt-$number" || exit 0
    look; printf '%s %s ' "${folder%/}" "$number"; report )
done
"""

_FIND = """
[ -d "$jobs/$key" ] || exit 0
cd -- "$jobs/$key" || exit 1
newest
"""

_REMOVE = """
base=$PWD
cd -- "$jobs/$key" || exit 1
for folder in attempt-*/; do
  [ -d "$folder" ] || continue
  ( cd -- "$folder" && look && case $state in starting|running) exit 1 ;; esac ) || {
    echo "jade: $folder still runs" >&2; exit 1; }
done
cd .. && rm -rf -- "./$key" || exit 1
cd -- "$base" && { [ -z "$also" ] || rm -rf -- "$also"; }
"""


def assigned(**values: str | int) -> str:
    """Shell variables, quoted."""
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


def start(
    *,
    jobs: str,
    key: str,
    new_id: str,
    command: str,
    workdir: str,
    num_environment_bytes: int,
    limit_s: int,
    grace_s: int,
) -> str:
    """Claim the next attempt and start it, or say which one runs or is well done.

    The script reads the environment from standard input.
    """
    supervisor = (
        assigned(command=command, limit_s=limit_s, grace_s=grace_s, heartbeat_s=HEARTBEAT_S)
        + COMMON
        + OWN_SESSION
        + _SUPERVISE
    )
    values = assigned(jobs=jobs, key=key, new_id=new_id, workdir=workdir, num_environment_bytes=num_environment_bytes)
    body = _START.replace("@END@", END_OF_SUPERVISOR).replace("@SUPERVISOR@", supervisor)
    return f"# jade: start job {key}\n{values}{COMMON}{OWN_SESSION}{QUOTED}{body}"


def look(*, attempt: str, offset: int, num_bytes: int) -> str:
    """One line of status, then at most `num_bytes` of the log from `offset` on."""
    values = assigned(attempt=attempt, offset=offset, num_bytes=num_bytes)
    return f"# jade: look at job {shlex.quote(attempt)}\n{values}{COMMON}{_LOOK}"


def stop(*, attempt: str, wait_s: int) -> str:
    """Ask the job to stop, wait for it, make sure of it; then one line of status."""
    values = assigned(attempt=attempt, wait_s=wait_s)
    return f"# jade: stop job {shlex.quote(attempt)}\n{values}{COMMON}{_STOP}"


def list_all(*, jobs: str) -> str:
    """For every run key: key, number of its newest attempt and one line of status."""
    return f"# jade: list jobs\n{assigned(jobs=jobs)}{COMMON}{_LIST}"


def find(*, jobs: str, key: str) -> str:
    """The number of the newest attempt, or nothing."""
    return f"# jade: find job {key}\n{assigned(jobs=jobs, key=key)}{COMMON}{_FIND}"


def remove(*, jobs: str, key: str, also: str) -> str:
    """Remove all attempts of a run key, and one more folder if it is named, unless one runs."""
    return f"# jade: remove job {key}\n{assigned(jobs=jobs, key=key, also=also)}{COMMON}{_REMOVE}"
