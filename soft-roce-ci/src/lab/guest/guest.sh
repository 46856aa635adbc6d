# Second program of a guest, its process 1: devices, network, Soft-RoCE, NVDIMM; then the harness's agent.
# The host's /etc is used as it is, so nothing of the host's own set-up may run: modprobe reads no configuration.

. /run/settings.sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C TERM=linux

die() {
    echo "GUEST-FAILED: $*"
    reboot_now
}

# The host's reboot may be systemd's; the kernel's own door is always there.
reboot_now() {
    echo 1 > /proc/sys/kernel/sysrq
    echo b > /proc/sysrq-trigger
    sleep 5
}

step() {
    read -r up _ < /proc/uptime
    echo "GUEST-STEP $up $*"
}

step mounts
mkdir -p /run/lock /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o mode=0620,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
echo "$GUEST_NAME" > /proc/sys/kernel/hostname
ulimit -l unlimited
ulimit -n 65536

step modules
modprobe -C /dev/null -a $MODULES || die "modprobe $MODULES"

step network
# One call, because starting a program takes an emulated processor a fifth of a second.
ip -batch - <<END || die "cannot set up the network"
link set lo up
link set eth0 mtu $MTU_BYTES up
address add $ADDRESS/24 dev eth0
link set eth1 up
address add 10.0.2.15/24 dev eth1
END

if [ "$SOFT_ROCE" = 1 ]; then
    step soft-roce
    rdma link add rxe0 type rxe netdev eth0 || die "no Soft-RoCE device"
fi

if [ -n "$NVDIMM_MODE" ]; then
    step nvdimm
    case $NVDIMM_MODE in
    devdax) device=/dev/dax0.0 ;;
    fsdax) device=/dev/pmem0 ;;
    esac
    # A namespace made in an earlier boot is found by the kernel itself. A new NVDIMM is /dev/pmem0, but raw.
    read -r mode < /sys/bus/nd/devices/namespace0.0/mode
    if [ "$mode" = raw ]; then
        ndctl create-namespace -f -e namespace0.0 -m "$NVDIMM_MODE" > /run/ndctl.log 2>&1 ||
            die "ndctl: $(cat /run/ndctl.log)"
    fi
    [ -e "$device" ] || die "$device did not appear"
fi

# The kernel booted on one processor (maxcpus=1): each change that it makes to its own code stops all of them, which
# made two emulated ones burn a third more of the host's time for a boot.
step processors
for processor in /sys/devices/system/cpu/cpu[1-9]*/online; do
    [ -e "$processor" ] || continue
    echo 1 > "$processor" || die "$processor does not start"
done

step agent
"$AGENT" agent
die "the agent ended with $?"
