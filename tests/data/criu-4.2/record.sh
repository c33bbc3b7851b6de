#!/usr/bin/env bash
# Records the image sets of this directory again. Needs root, gcc, python3, and CRIU 4.2 as $1.
# The programs run with an empty environment, in a directory of their own: their memory is in the images.
set -eu
criu=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
place=/tmp/stasis-sets
# Nothing that this script was started with is to be in the images.
for fd in /proc/self/fd/*; do
	fd=${fd##*/}
	[ "$fd" -gt 2 ] && [ "$fd" -ne 255 ] && eval "exec $fd>&-"
done
rm -rf "$place"
mkdir -p "$place"
gcc -Os -static -nostdlib -fno-stack-protector -o "$place/minimal" "$here/sources/minimal.c"
for name in busy family ghosts terminal; do
	gcc -Os -static -o "$place/$name" "$here/sources/$name.c"
done

record() {
	local name=$1 pid=$2
	for _ in $(seq 100); do
		grep -qs ready "$place/$name.out" && break
		[ "$name" = minimal ] && sleep 0.3 && break
		sleep 0.05
	done
	rm -rf "${here:?}/$name"
	mkdir "$here/$name"
	"$criu" dump -t "$pid" -D "$here/$name" --shell-job -v0 -o /dev/null
	echo "$name: $(du -sb "$here/$name" | cut -f1) bytes"
}

cd "$place"
for name in minimal busy family ghosts; do
	mkdir "$place/work"
	env -i setsid "$place/$name" "$place/work" </dev/null >"$place/$name.out" 2>&1 &
	record "$name" $!
	rm -rf "$place/work"
done

env -i python3 - "$place/terminal" "$place" <<'PYTHON' &
import os, pty, sys
pid, master = pty.fork()
if pid == 0:
    os.execve(sys.argv[1], ["terminal"], {})
open(sys.argv[2] + "/terminal.pid", "w").write(str(pid))
while True:
    try:
        data = os.read(master, 1000)
    except OSError:
        break
    open(sys.argv[2] + "/terminal.out", "ab").write(data)
os.waitpid(pid, 0)
PYTHON
until [ -s "$place/terminal.pid" ] && grep -qs ready "$place/terminal.out"; do sleep 0.05; done
record terminal "$(cat "$place/terminal.pid")"
wait
rm -rf "$place"
