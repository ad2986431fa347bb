# The far side of the detached-job protocol, in POSIX sh: no systemd, tmux, rsync or Python is needed there. It runs after
# functions.sh, with its variables assigned; $action says which function.
#
# An attempt's folder JOBS/RUN_KEY/attempt-N is made with mkdir, which only one of several starters can do. In it:
#   claimed      when it was made, by the host's clock
#   id           random; every process of the job carries it as JADE_JOB_ID in its environment
#   environment  variables, mode 0600; removed as soon as the job has read them
#   supervise.sh what watches the job, in a session of its own
#   supervisor   process id and birth of that
#   process      process id, process group and birth of the job itself, in a session of its own, too
#   out.log      what the job writes, both streams
#   heartbeat    the host's clock, every few seconds
#   stop         is there if somebody asked the job to stop
#   ending       why the supervisor ended the job, if it did
#   exit_code    status and ending, written last: who sees it knows that nothing of the job runs any more
group_of() {
  stat=; read -r stat 2>/dev/null < "/proc/$1/stat" || return 0
  set -- ${stat##*) }; echo "$3"
}
members() { [ -z "$id" ] || grep -ls "JADE_JOB_ID=$id" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3; }
kill_members() { for member in $(members); do kill -KILL "$member" 2>/dev/null || :; done; }
is_gone() { [ -z "$(members)" ] && ! kill -0 "-$1" 2>/dev/null; }
end_group() {
  kill -TERM "-$1" 2>/dev/null || :
  # Once each: to many programs a second TERM means to give up tidying.
  for member in $(members); do
    [ "$(group_of "$member")" = "$1" ] || kill -TERM "$member" 2>/dev/null || :
  done
  since=$(ticks)
  while ! is_gone "$1" && [ "$(($(ticks) - since))" -lt "$2" ]; do nap; done
  kill -KILL "-$1" 2>/dev/null || :
  kill_members
  since=$(ticks)
  while [ -n "$(members)" ] && [ "$(($(ticks) - since))" -lt 5 ]; do nap; done
}
look() {
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
  elif [ -z "$supervisor" ] && [ "$(($(date +%s) - claimed))" -lt "$starting_s" ]; then state=starting
  else state=lost; fi
  [ "$state" != done ] || read -r code ending < exit_code
}
report() {
  size=0; [ ! -f out.log ] || size=$(($(wc -c < out.log)))
  echo "jade-job $state ${code:--} ${ending:--} $(date +%s) ${heartbeat:--} $size"
}
newest() { ls | sed -n 's/^attempt-\([0-9][0-9]*\)$/\1/p' | sort -n | tail -n 1; }

# How many processes the kernel has killed for lack of memory: in our control group, or in all of a container.
num_starved() {
  own=$(sed -n 's/^0:://p; s/^[0-9]*:memory://p' /proc/self/cgroup 2>/dev/null | head -n 1)
  for file in "/sys/fs/cgroup$own/memory.events" "/sys/fs/cgroup/memory$own/memory.oom_control" \
    /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r "$file" ] || continue
    sed -n 's/^oom_kill //p' "$file"; return
  done
}
last_killed() { dmesg 2>/dev/null | grep -i 'killed process' | tail -n 1; }
explain_end() {
  starved=$(num_starved); killed=$(last_killed)
  if [ "${starved:-0}" -gt "${starved_before:-0}" ]; then
    echo "jade: out of memory: the kernel killed $((starved - ${starved_before:-0})) process(es) here meanwhile"
  elif [ "$killed" != "$killed_before" ]; then echo "jade: out of memory, by the kernel's log: $killed"
  elif [ "$1" -eq 137 ]; then
    echo 'jade: killed by signal 9: out of memory, or by somebody; this host does not let us see which'
  elif [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then echo "jade: ended by signal $(($1 - 128))"; fi
}

job_supervise() {
  get id; id=$value
  starved_before=$(num_starved); killed_before=$(last_killed)
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
  [ -n "$value" ] || [ "$code" -eq 0 ] || explain_end "$code" >> out.log
  put exit_code "$code ${value:-exited}"
}
watch() {
  began=$(ticks); beat=$began
  while kill -0 $$ 2>/dev/null; do
    now=$(ticks)
    if [ -e stop ]; then put ending stopped; end_group "$child" "$grace_s"; return; fi
    if [ "$((now - began))" -ge "$limit_s" ]; then put ending timed_out; end_group "$child" "$grace_s"; return; fi
    if [ "$((now - beat))" -ge "$heartbeat_s" ]; then put heartbeat "$(date +%s)"; beat=$now; fi
    nap
  done
  # The supervisor was killed. Without it there is no exit code, and the job must not run on unseen.
  end_group "$child" "$grace_s"
}

job_start() {
  ( own_session true ) || exit 127
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
    kill_members
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
    printf "cd -- '%s' || exit 1\nworkdir='%s'\ncommand='%s'\n" \
      "$(quoted "$attempt")" "$(quoted "$workdir")" "$(quoted "$command")"
    echo "limit_s=$limit_s; grace_s=$grace_s; heartbeat_s=$heartbeat_s; action=supervise"
    printf '%s\n' "$program"
  } > supervise.sh || exit 1
  ( own_session sh supervise.sh ) < /dev/null > supervise.log 2>&1 &
  since=$(ticks)
  while [ ! -f process ] && [ "$(($(ticks) - since))" -lt 10 ]; do nap; done
  echo "started $number"
}

job_look() {
  cd -- "$attempt" || exit 1
  look
  report
  if [ "$num_bytes" -gt 0 ] && [ "$size" -gt "$offset" ]; then
    tail -c "+$((offset + 1))" out.log | head -c "$num_bytes"
  fi
}

job_stop() {
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
    kill_members
    [ "$state" = lost ] || [ -f exit_code ] || put exit_code "137 stopped"
    look
  fi
  report
}

job_list() {
  [ -d "$jobs" ] || exit 0
  cd -- "$jobs" || exit 1
  for folder in */; do
    case $folder in [!A-Za-z0-9]*|*[!A-Za-z0-9._/-]*|"*/") continue ;; esac
    ( cd -- "$folder" && number=$(newest) && [ -n "$number" ] && cd "attempt-$number" || exit 0
      look; printf '%s %s ' "${folder%/}" "$number"; report )
  done
}

job_find() {
  [ -d "$jobs/$key" ] || exit 0
  cd -- "$jobs/$key" || exit 1
  newest
}

job_remove() {
  base=$PWD
  cd -- "$jobs/$key" || exit 1
  for folder in attempt-*/; do
    [ -d "$folder" ] || continue
    ( cd -- "$folder" && look && case $state in starting|running) exit 1 ;; esac ) || {
      echo "jade: $folder still runs" >&2; exit 1; }
  done
  cd .. && rm -rf -- "./$key" || exit 1
  cd -- "$base" && { [ -z "$also" ] || rm -rf -- "$also"; }
}

"job_$action"
