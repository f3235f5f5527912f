#!/bin/sh
# The first program of the guest: makes two pods, each with a network card of its own, and does what the kernel's command
# line says (`tencrypt.mode=`). Whoever started the machine reads the serial line, and sees every frame between the cards.

export PATH=/bin HOME=/root
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
exec >/dev/ttyS0 2>&1 </dev/null
modprobe -a virtio_pci virtio_net tun veth bridge nf_tables vmgenid 2>/dev/null
ip link set lo up
mkdir -p /run/pods
mode=$(sed -n 's/.*tencrypt\.mode=\([a-z]*\).*/\1/p' /proc/cmdline)

# say NAME VALUE..: a line for whoever started the machine.
say() { printf '@%s\n' "$*"; }

# within SECONDS COMMAND..: repeats it until it succeeds.
within() {
    limit=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$limit" ] || return 1
        sleep 1
    done
}

# in_pod NAME COMMAND..
in_pod() {
    pod=$(cat "/run/pods/$1")
    shift
    nsenter -t "$pod" -n "$@"
}

# pod NAME NUMBER CARD: a namespace with this card as eth0.
pod() {
    unshare -n sleep 1000000 &
    echo $! >"/run/pods/$1"
    within 30 test "$(readlink /proc/self/ns/net)" != "$(readlink "/proc/$!/ns/net")"
    ip link set "$3" down
    ip link set "$3" netns $!
    in_pod "$1" ip link set "$3" name eth0
    in_pod "$1" ip link set lo up
    in_pod "$1" ip link set eth0 up
    in_pod "$1" ip addr add "10.244.0.$2/24" dev eth0
    in_pod "$1" ip -6 addr add "fd00:244::$2/64" dev eth0 nodad 2>/dev/null || in_pod "$1" ip -6 addr add "fd00:244::$2/64" dev eth0
}

pods() {
    pod a 1 eth0
    pod b 2 eth1
    within 30 in_pod a ping -c 1 -W 1 10.244.0.2 >/dev/null || say error "the pods do not reach each other in plain"
    within 30 in_pod a ping6 -c 1 -W 1 fd00:244::2 >/dev/null || say error "nor by IPv6"
    tencrypt genkey /run/tenant.key >/dev/null
}

# up LANES: protects both pods.
up() {
    cat >/run/pod.toml <<END
[tenant]
project = "shop"
cluster_domain = "cluster.local"
key_file = "tenant.key"
[network]
protected = ["10.244.0.0/16", "fd00:244::/64"]
lanes = $1
[dns]
capture = false
END
    for name in a b; do
        tencrypt up --netns "$(cat /run/pods/$name)" --config /run/pod.toml >"/run/$name.out" 2>"/run/$name.log" &
        echo $! >"/run/$name.up"
    done
    within 120 grep -q ready /run/a.out && within 120 grep -q ready /run/b.out
}

# status NAME: in one line.
status() { say "status-$1" "$(tencrypt status --netns "$(cat "/run/pods/$1")" --json)"; }

# result NAME COMMAND..
result() {
    subject=$1
    shift
    if "$@" >/dev/null; then say result "$subject" pass; else say result "$subject" FAIL; fi
}

# Twelve connections at a time, so that the lanes share them.
fetch_twelve() {
    mkdir -p /run/web
    dd if=/dev/urandom of=/run/web/file bs=1024 count=64 2>/dev/null
    in_pod b httpd -p 80 -h /run/web
    in_pod b httpd -p '[::]:81' -h /run/web
    for number in 1 2 3 4 5 6; do
        in_pod a timeout 100 wget -q -O "/run/fetched.$number" http://10.244.0.2/file &
        last="$last $!"
        in_pod a timeout 100 wget -q -O "/run/fetched.6.$number" 'http://[fd00:244::2]:81/file' &
        last="$last $!"
    done
    wait $last
    for file in /run/fetched.*; do cmp -s "$file" /run/web/file || return 1; done
    [ "$(ls /run/fetched.* | wc -l)" = 12 ]
}

matrix() {
    say demo-begins
    tencrypt demo --json
    say demo-ends $?
    pods
    say plain-ends
    result ready up 2
    result ping within 30 in_pod a ping -c 3 -W 2 10.244.0.2
    result ping6 within 30 in_pod a ping6 -c 3 -W 2 fd00:244::2
    result fetch fetch_twelve
    status a
    status b
    kill "$(cat /run/a.up)" "$(cat /run/b.up)"
    sed 's/^/@log-a /' /run/a.log
    sed 's/^/@log-b /' /run/b.log
}

# Runs until the machine is ended: traffic both ways, a connection that has to live on, and what both pods say.
clone() {
    pods
    up 1 || say error "a pod is not ready"
    within 30 in_pod a ping -c 1 -W 2 10.244.0.2 >/dev/null || say error "no answer"
    # The kernel's log on the wire: its word of the copy has its place among the pods' frames.
    ip link set eth2 up
    ip addr add 192.0.2.1/24 dev eth2
    arp -s 192.0.2.2 02:00:00:00:00:01
    syslogd -R 192.0.2.2 -O /dev/null
    klogd
    in_pod a ping -i 0.05 10.244.0.2 >/dev/null &
    in_pod b ping -i 0.05 10.244.0.1 >/dev/null &
    in_pod b nc -ll -p 7 -e cat &
    sleep 1
    while :; do
        echo tick
        sleep 0.2
    done | in_pod a nc 10.244.0.2 7 >/run/echoed &
    while :; do
        status a
        status b
        say echoed "$(wc -l </run/echoed)"
        say log "$(dmesg | grep -c 'crng reseeded due to virtual machine fork')"
        sleep 2
    done
}

say kernel "$(uname -r)"
say driver "$(ls -d /sys/bus/*/drivers/vmgenid/*:* 2>/dev/null | wc -l)"
case $mode in
matrix) matrix ;;
clone) clone ;;
*) say error "unknown mode $mode" ;;
esac
say end
poweroff -f
