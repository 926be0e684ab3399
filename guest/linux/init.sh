#!/bin/busybox sh
# The guest's first process: makes the machine ready to be crashed, says so, becomes a shell.
#
# It is told what to do by kernel parameters:
#
#   nb.ip=198.18.0.2/24     the address of the first NIC; without it the NIC stays down
#   nb.promisc=1            the NIC hears every frame
#   nb.modules=a,b          modules to load besides those of /etc/modules, and of /etc/nics for the
#                           NICs that there are, in this order
#   nb.netconsole=ARG       netconsole with this argument
#                           (6665@198.18.0.2/eth0,6666@198.18.0.1/02:00:5e:00:10:01)
#   nb.load=198.18.0.1      traffic with this peer until the end: pings, each sent when the last is
#                           answered, and a thousand UDP datagrams a second to its port 9
#   nb.hostname=NAME
#
# It says one of
#
#   netdump-bench guest: ready release=RELEASE nic=eth0 mac=MAC
#   netdump-bench guest: FAILED: WHAT
#
# through the kernel's log, because only there a line stays whole, whatever else is printed. After
# either of them comes a shell. Its terminal echoes nothing, so that what follows a command is what
# the command printed, and then the prompt. When the shell ends, so does the first process, and the
# kernel panics: "exit" is one more way to crash it.

PROMPT='netdump-bench# '
SETTINGS='
    kernel.panic=0
    kernel.panic_on_oops=1
    kernel.unknown_nmi_panic=1
    kernel.panic_on_unrecovered_nmi=1
    kernel.panic_on_io_nmi=1
    kernel.sysrq=1
    net.ipv6.conf.all.disable_ipv6=1
    net.ipv6.conf.default.disable_ipv6=1
'
LOAD_BYTES=1400
LOAD_PAUSE_NS=1000000

failed=
say() { echo "netdump-bench guest: $*" >/dev/kmsg; }
fail() { failed=1; say "FAILED: $*"; }

# within SECONDS COMMAND...: run a quick command until it succeeds; fails if it has not by then.
within() {
    tries=$(($1 * 20))
    shift
    until "$@"; do
        [ $tries -gt 0 ] || return 1
        tries=$((tries - 1))
        usleep 50000
    done
}

# load_module NAME [ARG...]
load_module() {
    why=$(modprobe "$@" 2>&1) || fail "module $1: ${why:-modprobe exited $?}"
}

# The modules of the NICs that there are. A line of /etc/nics: VENDOR DEVICE MODULE...
nic_modules() {
    for path in /sys/bus/pci/devices/*; do
        [ -e "$path/vendor" ] || continue
        read -r vendor <"$path/vendor"
        read -r device <"$path/device"
        while read -r its_vendor its_device names; do
            [ "$its_vendor $its_device" != "$vendor $device" ] || echo "$names"
        done </etc/nics
    done
}

find_nic() {
    for path in /sys/class/net/*/device; do
        [ -e "$path" ] || continue
        nic=${path%/device}
        nic=${nic##*/}
        break
    done
}

# e1000's driver looks for its link when it is set up, and again 2 s later, not before; negotiation
# began when the module was loaded, and takes QEMU's NIC 0.5 s. So it is worth waiting for.
await_negotiation() {
    case $(readlink "/sys/class/net/$nic/device/driver") in
        */e1000) usleep 600000 ;;
    esac
}

has_carrier() { [ "$(cat /sys/class/net/$nic/carrier 2>/dev/null)" = 1 ]; }

bring_up() {
    [ -n "$nic" ] || { fail "nb.ip=$ip: there is no NIC that a loaded module drives"; return; }
    why=$(ip address add "$ip" dev "$nic" 2>&1) || { fail "nb.ip=$ip: $why"; return; }
    await_negotiation
    [ -z "$promisc" ] || ip link set "$nic" promisc on || fail "nb.promisc: $nic refuses"
    why=$(ip link set "$nic" up 2>&1) || { fail "$nic up: $why"; return; }
    within 10 has_carrier || fail "$nic has no link after 10 s"
}

start_load() {
    ping -q -c 1 -W 5 "$load" >/dev/null 2>&1 || {
        fail "nb.load=$load: does not answer ping"
        return
    }
    peer_mac=$(awk -v ip="$load" '$1 == ip { print $4 }' /proc/net/arp)
    ping -q -A -s $LOAD_BYTES "$load" >/dev/null 2>&1 &
    renice -n 19 -p $! || fail "nb.load: ping ended"  # the shell comes first
    load_module pktgen
    control=/proc/net/pktgen
    for command in "rem_device_all" "add_device $nic"; do
        echo "$command" >$control/kpktgend_0 || fail "nb.load: pktgen: $command"
    done
    for command in "count 0" "pkt_size $LOAD_BYTES" "delay $LOAD_PAUSE_NS" "dst $load" \
        "dst_mac $peer_mac" "udp_dst_min 9" "udp_dst_max 9"; do
        echo "$command" >"$control/$nic" || fail "nb.load: pktgen: $command"
    done
    echo start >$control/pgctrl &  # returns when it is stopped
}

busybox=/bin/busybox
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
$busybox mount -t devtmpfs dev /dev
$busybox --install -s /bin
export PATH=/bin HOME=/ TERM=dumb PS1="$PROMPT"
dmesg -n 8

ip= promisc= modules= netconsole= load= hostname=netdump-guest nic=
for word in $(cat /proc/cmdline); do
    value=${word#*=}
    case $word in
        nb.ip=*) ip=$value ;;
        nb.promisc=1) promisc=1 ;;
        nb.modules=*) modules=$value ;;
        nb.netconsole=*) netconsole=$value ;;
        nb.load=*) load=$value ;;
        nb.hostname=*) hostname=$value ;;
        nb.*) fail "unknown kernel parameter $word" ;;
    esac
done

hostname "$hostname"
for setting in $SETTINGS; do
    sysctl -q -w "$setting" || fail "sysctl $setting"
done
for module in $(cat /etc/modules) $(nic_modules) $(echo "$modules" | tr , ' '); do
    load_module "$module"
done
find_nic
ip link set lo up
[ -z "$ip" ] || bring_up
[ -z "$netconsole" ] || load_module netconsole netconsole="$netconsole"
[ -z "$load" ] || start_load

[ -n "$failed" ] ||
    say "ready release=$(uname -r) nic=${nic:-none} mac=$(cat /sys/class/net/$nic/address 2>/dev/null || echo none)"
stty -echo
exec setsid cttyhack sh
