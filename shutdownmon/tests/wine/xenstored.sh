#!/bin/sh
# The service under Wine and Debian's own xenstored: what the toolstack writes into the store is obeyed, and acknowledged there.
# Takes the program that `cargo xtask dist` built. Needs wine, wine64, gcc-mingw-w64-x86-64-win32, gcc, xen-utils-4.17 and
# socat.
#
# The program is the one that is shipped, and Wine's service manager runs it. Three things are not Windows':
# - Wine 8.0 cannot list device interfaces by cfgmgr32.dll: cfgmgr32.c does, from what Wine's setupapi knows.
# - There is no xenpci: bridge.c registers its interface and carries each handle to xenstored, by TCP (Wine has no AF_UNIX).
# - Wine says on stderr that InitiateSystemShutdownExW was called, and with what, and does nothing.
# xenstored takes its clients for dom0, whose directory is the service's here; fakexen.c stands for the Xen that it asks.
set -eu
here=$(dirname "$0")
program=${1:-$here/../../../target/dist/x64-programs/shutdownmon.exe}
xenstored=/usr/lib/xen-4.17/bin/xenstored
work=$(mktemp -d)
export WINEPREFIX="$work/prefix" WINEDEBUG=-all WINEDLLOVERRIDES='mscoree=;mshtml=;winemenubuilder.exe='
export XENSTORED_RUNDIR="$work/run" XENSTORED_ROOTDIR="$work/run"
store='' relay=''
end() {
    code=$?
    [ $code = 0 ] || { echo "FAILED; Wine and the bridge say:"; cat "$work/log" 2>/dev/null || true; }
    # The shell tells of each that is ended.
    exec 2>/dev/null
    wineserver -k || true
    for process in $relay $store; do kill "$process" || true; done
    sleep 1
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

# within WHAT COMMAND...: it succeeds in 30 seconds.
within() {
    what=$1 tries=150
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "not within 30 seconds: $what"; exit 1; }
        sleep 0.2
    done
}
has() { [ "$(timeout 5 xenstore-read "$1" 2>&1)" = "$2" ]; }
put() { timeout 5 xenstore-write "$@"; }
offered() { has control/feature-poweroff "$1" && has control/feature-reboot "$1"; }
# wants CODE ARGUMENT: what the program says, and its exit code.
wants() {
    code=0
    timeout 60 wine 'c:\service\shutdownmon.exe' "$2" >"$work/said" 2>&1 || code=$?
    [ $code = "$1" ] || { cat "$work/said"; echo "shutdownmon $2: $code, not $1"; exit 1; }
}
# calls LINE...: those are the calls of InitiateSystemShutdownExW, all of them (seconds, force, restart, reason).
calls() {
    sed -n 's/.*:InitiateSystemShutdownExW (null) L"[^"]*" //p' "$work/log" | tr -d '\r' >"$work/calls"
    printf '%s\n' "$@" | cmp -s - "$work/calls"
}

begin_store() {
    LD_PRELOAD=$work/fakexen.so "$xenstored" -N -I </dev/null >/dev/null 2>&1 &
    store=$!
    within 'xenstored answers' put name Domain-0
    # As libxl makes them for every domain. The last one is watched by a service that came first: it offers once more.
    put control/feature-poweroff '' control/feature-reboot '' control/shutdown ''
}

mkdir "$XENSTORED_RUNDIR"
cc -shared -fPIC -o "$work/fakexen.so" "$here/../../core/tests/fakexen.c" -ldl
begin_store
socat -d -d TCP-LISTEN:0,bind=127.0.0.1,fork "UNIX-CONNECT:$XENSTORED_RUNDIR/socket" 2>"$work/socat" &
relay=$!
within 'socat listens' grep -q 'listening on' "$work/socat"
port=$(sed -n 's/.*listening on AF=2 127\.0\.0\.1:\([0-9]*\)$/\1/p' "$work/socat")

timeout 180 wineboot -i >/dev/null 2>&1
wineserver -w
drive=$WINEPREFIX/drive_c
mkdir "$drive/service"
compile() { x86_64-w64-mingw32-gcc -O1 -Wall -Wextra -Werror "$@"; }
compile -shared -o "$drive/windows/system32/bcryptprimitives.dll" "$here/bcryptprimitives.c" -ladvapi32
compile -shared -o "$drive/service/cfgmgr32.dll" "$here/cfgmgr32.c" -lsetupapi
compile -municode -o "$drive/bridge.exe" "$here/bridge.c" -lsetupapi -lws2_32 -lntdll
cp "$program" "$drive/service/shutdownmon.exe"

# Services write to the stderr of the program that has Wine start; they go on as long as it does.
export WINEDLLOVERRIDES="$WINEDLLOVERRIDES;cfgmgr32=n,b" WINEDEBUG=-all,fixme+advapi,fixme+service
timeout 240 wine 'c:\bridge.exe' "$port" >"$work/log" 2>&1 &
within 'the bridge is ready' grep -q '^ready' "$work/log"

wants 0 install
within 'what the service does is offered' offered 1
wants 0 status
grep -q '^xenstore: connected; the domain is Domain-0' "$work/said" || { cat "$work/said"; exit 1; }
# Wine keeps no recovery settings, and cannot be asked for them; that it was given some is all that can be seen.
grep -q 'SERVICE_CONFIG_FAILURE_ACTIONS not implemented: period 86400 ' "$work/log" ||
    { echo 'no recovery settings'; exit 1; }

put control/shutdown s3
within 's3 is acknowledged' has control/shutdown ''
put control/shutdown reboot
within 'reboot is acknowledged' has control/shutdown ''
within 'Windows is asked to restart, and nothing else' calls '5 1 1 0x80000000'
put control/shutdown poweroff
within 'poweroff is acknowledged' has control/shutdown ''
within 'Windows is asked to shut down' calls '5 1 1 0x80000000' '5 1 0 0x80000000'
echo "s3, reboot and poweroff: ok"

# The connection is lost, and made again.
kill "$store"
wait "$store" 2>/dev/null || true
rm -f "$XENSTORED_RUNDIR/socket"
begin_store
within 'what the service does is offered again' offered 1
put control/shutdown halt
within 'halt is acknowledged' has control/shutdown ''
within 'Windows is asked once more' calls '5 1 1 0x80000000' '5 1 0 0x80000000' '5 1 0 0x80000000'
echo "another xenstored: ok"

wants 0 uninstall
offered 0 || { echo "a service that is gone is offered:"; timeout 5 xenstore-ls control; exit 1; }
if grep '^bridge: ' "$work/log"; then exit 1; fi
echo "the service under Wine and xenstored: ok"
