#!/bin/sh
# The first program in a machine: loads the modules, puts the agent's own root and the image in place, and becomes
# the agent. Whatever fails ends the machine, with the reason on the console.
export PATH=/bin
fail() {
    echo "runnerd-init: $1" >/dev/console
    end
}
# Firecracker ends when its machine reboots, QEMU when it powers off.
end() {
    if [ -n "$vsock" ]; then reboot -f; else poweroff -f; fi
    sleep 60
}
# The value of a word of the kernel's command line.
word() {
    for each in $(cat /proc/cmdline); do
        case "$each" in "$1="*) echo "${each#*=}" ;; esac
    done
}
mount -t devtmpfs dev /dev || fail "no device file system"
mount -t proc proc /proc || fail "no process file system"
vsock="$(word runnerd.vsock)" # now: /proc moves away with the others below
mount -t sysfs sys /sys || fail "no system file system"
# A job that wants more memory than there is has to be killed. Without this the kernel would drop the programs that
# run and read them back for ever instead, and the job would hang until its time is over. The agent has a better means
# (guest/memory.py) and takes this one back where the kernel has what it needs.
if [ -e /sys/kernel/mm/lru_gen/min_ttl_ms ]; then
    echo y >/sys/kernel/mm/lru_gen/enabled
    echo 1000 >/sys/kernel/mm/lru_gen/min_ttl_ms
fi
# A host asks with this word whether its accelerator can run a machine at all.
case " $(cat /proc/cmdline) " in *" runnerd.probe "*)
    echo "runnerd-probe: alive" >/dev/console
    poweroff -f
    sleep 60
    ;;
esac
for module in /modules/*.ko; do
    insmod "$module" || fail "cannot load $module"
done

# Disks are told by their serial number: /dev has no links without udev. Where the host cannot give them any, it says
# the order in which it made them.
disk() {
    letters="a b c d e f g h"
    for name in $(word runnerd.disks | tr ',' ' '); do
        letter="${letters%% *}"
        letters="${letters#* }"
        [ "$name" = "$1" ] && [ -b "/dev/vd$letter" ] && echo "/dev/vd$letter" && return
    done
    for block in /sys/block/vd*; do
        [ -e "$block/serial" ] && [ "$(cat "$block/serial")" = "$1" ] && echo "/dev/${block##*/}" && return
    done
}
tries=0
while [ -z "$(disk agent)" ] || [ -z "$(disk image)" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 500 ] || fail "the disks did not appear"
    sleep 0.02
done
mount -t squashfs -o ro "$(disk agent)" /newroot || fail "cannot mount the agent's root"
mount -t squashfs -o ro "$(disk image)" /newroot/lower || fail "cannot mount the image"
mount -t tmpfs -o mode=755 run /newroot/run || fail "no memory file system"
cp /agent.pyz /newroot/run/agent.pyz || fail "cannot copy the agent"

for system in dev proc sys; do
    mount --move "/$system" "/newroot/$system" || fail "cannot move /$system"
done
if [ -n "$vsock" ]; then set -- --vsock "$vsock"; else set -- --port runnerd.agent; fi
exec switch_root /newroot /usr/bin/python3 -I -S -B /run/agent.pyz "$@" --init
fail "cannot start the agent"
