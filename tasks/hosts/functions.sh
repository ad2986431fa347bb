# POSIX sh that scripts for a host share. Single values are written beside and renamed, so that nobody reads half of one.
# A birth is a process's start time and the boot in which it counts: with it, a process id that was given out anew is no
# longer mistaken for an old one.
export LC_ALL=C; umask 077
nap() { sleep 0.2 2>/dev/null || sleep 1; }
put() { printf '%s\n' "$2" > "$1.tmp.$$" && mv -f "$1.tmp.$$" "$1"; }
get() { value=; [ ! -f "$1" ] || IFS= read -r value < "$1" || :; }
quoted() { printf '%s' "$1" | sed "s/'/'\\\\''/g"; }
ticks() {
  if [ -r /proc/uptime ]; then read -r up rest < /proc/uptime; echo "${up%%.*}"; else date +%s; fi
}
birth() {
  if [ -d /proc/self ]; then
    stat=; read -r stat 2>/dev/null < "/proc/$1/stat" || return 0
    boot=; read -r boot 2>/dev/null < /proc/sys/kernel/random/boot_id || :
    set -- ${stat##*) }
    case $1 in Z|X|x) ;; *) echo "${20}@$boot" ;; esac
  else
    ps -o stat=,lstart= -p "$1" | sed '/^ *Z/d; s/^ *[^ ]* *//'
  fi
}
is_alive() { [ -n "$1" ] && [ -n "$2" ] && [ "$(birth "$1")" = "$2" ]; }
own_session() {
  if command -v setsid >/dev/null 2>&1; then exec setsid "$@"; fi
  if command -v python3 >/dev/null 2>&1; then
    exec python3 -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' "$@"
  fi
  echo 'jade: needs setsid or python3' >&2; exit 127
}
