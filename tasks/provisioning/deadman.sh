# The switch on a rented machine that ends it when nobody looks after it any more, in POSIX sh. It runs after functions.sh,
# with its variables assigned.
#
# A process in a session of its own watches two things by the machine's own clock: how long it has been there, and how
# long ago its controller was last heard of. Past either limit it stops the jobs and ends the machine with the provider's
# own means, again and again until it is gone. In its folder, FOLDER/deadman/REQUEST:
#   watch.sh   what watches
#   end.sh     how this machine is ended
#   watcher    process id and birth of that
#   beat       what the controller wrote last; any change is a sign of life
#   ending     why the machine is being ended, once it is
#   end.log    what ending it said
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
beat() {
  [ -d "$folder" ] && cd -- "$folder" || { echo missing; return 0; }
  put beat "$beat"
  tell
}
# Standard input is what watches, then the line JADE_END, then how the machine is ended.
arm() {
  base=$PWD
  mkdir -p -- "$folder" && cd -- "$folder" && folder=$PWD || return 1
  put beat "$beat"
  case $(tell) in armed|ending*) tell; return 0 ;; esac
  case $jobs in /*) ;; *) jobs=$base/$jobs ;; esac
  cat > both || return 1
  {
    sed '/^JADE_END$/,$d' both
    printf "folder='%s'\njobs='%s'\nwatch\n" "$(quoted "$folder")" "$(quoted "$jobs")"
  } > watch.sh && sed '1,/^JADE_END$/d' both > end.sh && rm -f both watcher || return 1
  ( own_session sh watch.sh ) < /dev/null > watch.log 2>&1 &
  since=$(ticks)
  while ! is_watched && [ "$(($(ticks) - since))" -lt 10 ]; do nap; done
  tell
}
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
watch() {
  cd -- "$folder" || exit 1
  trap '' HUP INT
  put watcher "$$ $(birth $$)"
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
}
