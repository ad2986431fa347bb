#!/bin/sh
# Installs what the system tests talk to, where it is missing and the user may install packages.
set -eu
missing=
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
[ -x /usr/sbin/sshd ] || command -v sshd >/dev/null 2>&1 || missing="$missing openssh-server"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || missing="$missing postgresql"
for shell in tcsh fish zsh mksh busybox; do
  command -v "$shell" >/dev/null 2>&1 || missing="$missing $shell"
done
command -v bsd-csh >/dev/null 2>&1 || missing="$missing csh"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing$missing"
  apt-get -o Acquire::Retries=5 update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=5 install -y -qq --no-install-recommends $missing >/dev/null
else
  echo "the system tests need$missing; install them (Debian: apt-get install$missing)" >&2
  exit 2
fi
