#!/bin/sh
# Becomes the process 1 of a systemd: CGROUP FOLDER CHECKOUT PYTHON_PREFIX PYTHON_NAME. Started in the namespaces' parent.
set -eu
cgroup=$1 folder=$2 checkout=$3 prefix=$4 python=$5
if [ -z "${APART:-}" ]; then
  # Before the cgroup namespace is made, so that this becomes the root in it.
  echo $$ >"$cgroup/cgroup.procs"
  APART=1 exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child sh "$0" "$@"
fi
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$folder"
cd "$folder"
mkdir changes work root checkout-changes checkout-work
mount -t overlay -o lowerdir=/,upperdir=changes,workdir=work overlay root
mkdir -p root/opt/jade root/opt/python
mount -t overlay -o lowerdir="$checkout",upperdir=checkout-changes,workdir=checkout-work overlay root/opt/jade
mount --bind "$prefix" root/opt/python

# The environment as if it had been made in /opt/jade, by a Python that is not in somebody's home.
cd root/opt/jade
rm -rf artifacts .state
for file in $(grep -rlIF "$checkout" .venv/bin .venv/pyvenv.cfg .venv/lib/*/site-packages/*.pth); do
  sed -i "s,$checkout,/opt/jade,g" "$file"
done
sed -i 's,^home = .*,home = /opt/python/bin,' .venv/pyvenv.cfg
for name in python python3 "$python"; do ln -sf "/opt/python/bin/$python" ".venv/bin/$name"; done
# A fresh installation has no bytecode yet.
find . -name __pycache__ -prune -exec rm -rf {} +
cd ../..
echo /opt/python/lib >etc/ld.so.conf.d/00-python.conf
chroot . ldconfig

# Nothing of the machine's own services, and nothing that reaches its kernel.
rm -rf etc/systemd/system etc/fstab
mkdir etc/systemd/system
mount -t proc proc proc
for path in proc/sys proc/sysrq-trigger; do
  [ ! -e "$path" ] || { mount --bind "$path" "$path" && mount -o remount,bind,ro "$path"; }
done
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs dev
for device in full null random tty urandom zero; do
  : >"dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . mnt
umount -l mnt
ip link set lo up
# As in a container, systemd leaves clock, modules and the like alone.
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target --show-status=no
