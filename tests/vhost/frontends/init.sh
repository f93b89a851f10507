#!/bin/busybox sh
# The guest's only process of its own. A line at the serial port is a token and a shell line; its
# output is followed by a line with the token and its exit status.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
dmesg -n 1 # a panic is still seen
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -icanon -opost
for module in /modules/*; do
    insmod "$module" || echo "not loaded: $module"
done
echo UP
while read -r token line; do
    eval "$line" </dev/null
    printf '\n%s %s\n' "$token" $?
done
