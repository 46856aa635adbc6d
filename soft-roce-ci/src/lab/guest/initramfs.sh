#!/bin/busybox sh
# First program of a guest: makes the host's root, read-only over 9p beneath a tmpfs overlay, the guest's root.
# Settings come from /settings.sh, which the harness writes into the same archive.

die() {
    echo "GUEST-FAILED: $*"
    exec /bin/busybox reboot -f
}

/bin/busybox mkdir -p /proc /sys /dev /bin /host /layer /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
PATH=/bin
/bin/busybox ln -s busybox /bin/mount
. /settings.sh

if [ "$PROBE" = 1 ]; then
    echo "GUEST-PROBED"
    exec /bin/busybox reboot -f
fi

for module in $(/bin/busybox cat /modules.order); do
    /bin/busybox insmod "/modules/$module" || die "cannot load $module"
done

mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /host || die "no host root over 9p"
mount -t tmpfs -o mode=0755 layer /layer || die "no tmpfs"
/bin/busybox mkdir /layer/upper /layer/work
mount -t overlay -o "lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work" root /root || die "no overlay"

cd /root || die "no new root"
/bin/busybox mkdir -p proc sys dev run lib/modules || die "root is not writable"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs dev dev
mount -t tmpfs -o mode=0755 run run
/bin/busybox mkdir -p "lib/modules/$KERNEL_RELEASE"
mount -o bind "/host$KERNEL_MODULES" "lib/modules/$KERNEL_RELEASE" || die "no kernel modules"
/bin/busybox cp /settings.sh /guest.sh run/ || die "cannot copy the settings"
exec /bin/busybox switch_root /root /bin/sh /run/guest.sh
