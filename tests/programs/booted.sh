#!/usr/bin/env bash
# booted.sh GROUP SHARED COMMAND...: starts systemd as the init of namespaces of its own, on a copy of this machine's file system
# that is gone afterwards (an overlay in memory), and runs a command there as a unit. SHARED is /run/shared there; what the
# command says is in SHARED/said, and SHARED/good is there if it ended well. GROUP is a control group for all of it.
set -euo pipefail
group=$1 shared=$2
shift 2
echo $$ >"$group/cgroup.procs"
export shared command="$*"
# shellcheck disable=SC2016
exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net --propagation private bash -euc '
root=$(mktemp -d)
mount -t tmpfs tmpfs "$root"
mkdir "$root/upper" "$root/work" "$root/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" "$root/root"
# What an earlier stasis has left on this machine.
rm -rf "$root"/root/{var/lib,var/cache,etc}/stasis
cd "$root/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir run/shared .old
mount --bind "$shared" run/shared
ip link set lo up
cat >etc/systemd/system/packaged.service <<EOF
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
KeyringMode=inherit
WorkingDirectory=/run/shared
StandardOutput=file:/run/shared/said
StandardError=inherit
ExecStart=$command
ExecStartPost=touch /run/shared/good
EOF
cat >etc/systemd/system/packaged.target <<EOF
[Unit]
Requires=packaged.service
EOF
pivot_root . .old
umount -l /.old
rmdir /.old
exec env -i container=stasis-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=packaged.target --log-target=null --show-status=no
'
