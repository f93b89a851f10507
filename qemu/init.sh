#!/bin/busybox sh
# The machine's first process: mount what programs expect, run /run.sh, tell the host, wait.
# Without /run.sh: a shell on the serial line; the machine goes off when it ends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
/bin/busybox mkdir -p /proc /sys /dev /tmp /root /var/tmp
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
chmod 1777 /tmp /var/tmp /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
hostname qemu
ip link set lo up
for module in /modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module"
done
# What the command line gave: TERM, size of the terminal, PYTHONHASHSEED ...
. /environment.sh
cd /project || cd /

if [ ! -e /run.sh ]; then
    stty rows "${LINES:-24}" cols "${COLUMNS:-80}" 2>/dev/null
    unset LINES COLUMNS
    setsid cttyhack sh -l
    poweroff -f
fi

# The port hf.err is the last: when its name is there, the host's side of the others is open.
until grep -qsx hf.err /sys/class/virtio-ports/*/name; do
    sleep 0.01
done
for port in /sys/class/virtio-ports/*; do
    ln -s "/dev/${port##*/}" "/run/$(cat "$port/name")"
done
# Pipes between the command and the ports, which only one process can open, and only once.
mkfifo /run/out /run/err
if [ -e /run/hf.in ]; then
    mkfifo /run/in
    cat /run/hf.in >/run/in 2>/dev/null &
else
    ln -s /dev/null /run/in
fi
cat /run/out >/run/hf.out &
cat /run/err >/run/hf.err &
exec 8>/run/out 9>/run/err
setsid sh /run.sh </run/in >&8 2>&9 8>&- 9>&-
status=$?
# The mark ends each stream; the host stops the machine when it has both.
printf '%s%s\n' "$MARK" "$status" >&8
printf '%s' "$MARK" >&9
while :; do sleep 3600; done
