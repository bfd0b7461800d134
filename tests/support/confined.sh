#!/bin/sh
# Runs a program as a container does: as process 1, on a file system that is read-only but for /tmp and
# /run, as a user that is not root and has no capability and gets none.
#
# usage: unshare --mount --pid --fork --propagation private confined.sh REPOSITORY PROGRAM [ARGUMENT...]
set -eu

repository=$1
program=$2
shift 2

# Wherever these are, the user reaches them here.
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/repository
mount --bind "$repository" /mnt/repository
name=/mnt/$(basename "$program")
touch "$name"
mount --bind "$program" "$name"
mount -o remount,bind,ro /mnt/repository
mount -o remount,bind,ro "$name"
mount -o remount,ro /mnt
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /run
mount -o remount,bind,ro /
mount -t proc proc /proc
cd /mnt/repository
exec setpriv --reuid=10042 --regid=10042 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
    "$name" "$@"
