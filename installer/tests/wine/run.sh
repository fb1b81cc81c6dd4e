#!/bin/sh
# The installer's life under Wine: refused, installed, damaged, installed again, taken away. Takes the installer that
# `cargo xtask dist` made, and the bcdedit of tests/bcd-model for Windows. Needs wine, wine64 and gcc-mingw-w64-x86-64-win32.
# Wine has no driver store of its own: newdev.c stands in. What is checked is files, registry, services, the boot store and
# exit codes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$here/../../..
installer=${1:-$(ls "$top"/target/dist/release/xen-pv-*-setup.exe)}
bcdedit=${2:-$top/target/dist/x64-programs/bcdedit.exe}
export WINEPREFIX="$(mktemp -d)" WINEDEBUG=-all
export WINEDLLOVERRIDES='mscoree=;mshtml=;winemenubuilder.exe=;newdev=n'
trap 'wineserver -k 2>/dev/null || true; sleep 1; rm -rf "$WINEPREFIX"' EXIT
timeout 300 wineboot -i >/dev/null 2>&1
wineserver -w
drive=$WINEPREFIX/drive_c
system=$drive/windows/system32
x86_64-w64-mingw32-gcc -shared -O1 -o "$system/bcryptprimitives.dll" \
    "$here/../../../shutdownmon/tests/wine/bcryptprimitives.c" -ladvapi32
x86_64-w64-mingw32-gcc -Wall -shared -O1 -o "$system/newdev.dll" "$here/newdev.c" -ladvapi32
x86_64-w64-mingw32-gcc -Wall -municode -O1 -o "$drive/run.exe" "$here/run.c"
cp "$bcdedit" "$system/bcdedit.exe"
cp "$installer" "$drive/installer.exe"
root="$drive/Program Files/Xen PV"

fail() {
    echo "FAILED: $1"
    exit 1
}

# One program to its end, and its exit code; as run.c says how.
run() {
    timeout 300 wine 'C:\run.exe' "$@" >"$drive/one.txt" 2>&1 || true
    [ -e "$drive/held" ] || wineserver -w
    tr -d '\r' <"$drive/one.txt" | sed -n 's/^code //p'
}

# COMMAND CODE [HOW]
expect() {
    found=$(run ${3:+"$3"} "$1")
    [ "$found" = "$2" ] || { cat "$drive/one.txt" "$drive/setup.log" 2>/dev/null; fail "$1: exit code $found, not $2"; }
    printf '%s: %s\n' "$1" "$found"
}

# That the log says why, from here on.
says() {
    grep -q "$1" "$drive/setup.log" || { cat "$drive/setup.log"; fail "it does not say: $1"; }
    rm "$drive/setup.log"
}

# Somebody holds a file, or another setup runs, until `release`.
hold() {
    timeout 300 wine 'C:\run.exe' "$@" >"$drive/hold.txt" 2>&1 &
    for _ in $(seq 300); do
        [ -e "$drive/held" ] && return
        sleep 0.1
    done
    fail "not held: $2"
}

release() {
    rm "$drive/held"
    wineserver -w
}

# Files, the registry without the times of its keys, and the boot store. What Wine and this test write themselves is left
# out: logs, what a console looks like, the empty keys that Wine makes where a store of certificates is opened, and what goes with
# the next start: the uninstaller's copy of itself, which is in the folder of temporary files.
snapshot() {
    (cd "$drive" && find . -mindepth 1 \( -path ./users -o -path ./windows/temp -o -name '*.log' -o -name 'one.*' \
        -o -name 'hold.txt' -o -name 'setup.log' \) -prune -o -print | sort)
    for hive in system user; do
        sed -e '/^\[Console\]/,/^$/d' -e 's/^\(\[.*\]\) [0-9]*$/\1/' -e '/^#time=/d' "$WINEPREFIX/$hive.reg" | grep -v \
            -e '"DriverDateData"' -e '^"PendingFileRenameOperations"=.*Temp' -e 'SystemCertificates\]$' \
            -e 'SystemCertificates.*\\\(Certificates\|CRLs\|CTLs\)\]$' \
            -e '^$' || true
    done
    [ ! -f "$system/bcd.json" ] || grep -v '"copies"' "$system/bcd.json"
}

has() { [ -e "$root/$1" ] || fail "$1 is not there"; }
registry() { grep -qi "$1" "$WINEPREFIX/system.reg" || fail "the registry has no $1"; }
log='/LOG=C:\setup.log'
all='/COMPONENTS=disk,stub,boot,service'

# Wine is an old Windows until it is told otherwise.
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 3
says 'Windows 10 version 2004'
version='"HKLM\Software\Microsoft\Windows NT\CurrentVersion"'
wine winecfg -v win10
expect "reg add $version /v CurrentBuildNumber /d 19045 /f" 0
# No screen; windows are there all the same.
expect 'reg add HKCU\Software\Wine\Drivers /v Graphics /d null /f' 0
# The boot store is made before the first look.
expect '"C:\windows\system32\bcdedit.exe" /enum all /v' 0
# Nothing is changed by what is refused: a test-signed package where Windows is not in its test mode, a wrong word.
snapshot >"$WINEPREFIX/before"
expect "C:\\installer.exe /S $all $log" 5
says 'signed for tests, and Windows is not in its test mode'
expect "C:\\installer.exe /S /TESTSIGNING /COMPONENTS=disk,floppy $log" 2
for word in /CHEK /TESTSIGNINGS /CHECK=1 check -S /COMP; do
    rm -f "$drive/setup.log"
    expect "C:\\installer.exe /S /TESTSIGNING $word $log" 2
    says "^error: .*$word"
done
# Half of it came.
head -c 1000000 "$installer" >"$drive/half.exe"
expect 'C:\half.exe /S' 2
rm "$drive/half.exe"
# What refuses a test-signed package, whatever is asked for.
control='HKLM\System\CurrentControlSet\Control'
integrity="$control\\DeviceGuard\\Scenarios\\HypervisorEnforcedCodeIntegrity"
for one in "$control\\SecureBoot\\State UEFISecureBootEnabled Secure Boot is on" "$integrity Enabled memory integrity is on"; do
    key=${one%% *}
    rest=${one#* }
    expect "reg add $key /v ${rest%% *} /t REG_DWORD /d 1 /f" 0
    expect "C:\\installer.exe /S /TESTSIGNING $all $log" 5
    says "${rest#* }"
    # The keys above it too, which are Windows' own.
    expect "reg delete $key /f" 0
done
for key in 'DeviceGuard\Scenarios' DeviceGuard SecureBoot; do expect "reg delete $control\\$key /f" 0; done
# BitLocker: Windows' own program says that it protects the drive.
echo 'int main(void) { return 0; }' | x86_64-w64-mingw32-gcc -x c -o "$system/manage-bde.exe" -
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 11
says 'BitLocker'
rm "$system/manage-bde.exe"
# Another setup runs.
hold busy 'Global\Xen PV drivers setup'
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 14
says 'another setup runs'
release
# Another suite.
expect 'reg add HKLM\System\CurrentControlSet\Services\xenbus /v ImagePath /d system32\drivers\xenbus.sys /f' 0
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 6
says 'found: service xenbus (system32.drivers.xenbus.sys)'
expect 'reg delete HKLM\System\CurrentControlSet\Services\xenbus /f' 0
expect "C:\\installer.exe /S /TESTSIGNING /CHECK $all $log" 0
# The user presses "Cancel".
expect "C:\\installer.exe /TESTSIGNING $all $log" 1 cancel
grep -q '^cancelled' "$drive/one.txt" || fail 'nobody could cancel'
# Too little space: what is on the drive stands in a small file system of a namespace that is this run's own.
alone='unshare -m'
[ "$(id -u)" = 0 ] || alone='unshare -rm'
if $alone true 2>/dev/null; then
    mkdir "$WINEPREFIX/small"
    $alone sh -euc '
        mount -t tmpfs -o size=16m small "$1"
        for one in "$2"/*; do
            if [ -d "$one" ]; then mkdir "$1/${one##*/}"; else touch "$1/${one##*/}"; fi
            mount --bind "$one" "$1/${one##*/}"
        done
        mount --rbind "$1" "$2"
        timeout 300 wine "C:\run.exe" "$3" || true
        wineserver -w' - "$WINEPREFIX/small" "$drive" \
        "C:\\installer.exe /S /TESTSIGNING $all /LOG=C:\\windows\\space.log" >"$WINEPREFIX/one.txt" 2>&1
    grep -q '^code 13' "$WINEPREFIX/one.txt" || { cat "$WINEPREFIX/one.txt"; fail 'too little space: not refused'; }
    grep -q 'MiB are needed on the system drive, and 1[0-9] MiB are free' "$drive/windows/space.log" || fail 'it does not say why'
    rmdir "$WINEPREFIX/small"
else
    echo 'SKIPPED: exit code 13: no mount namespaces here'
fi
snapshot >"$WINEPREFIX/refused"
diff "$WINEPREFIX/before" "$WINEPREFIX/refused" || fail 'what was refused changed something'

expect "C:\\installer.exe /S /TESTSIGNING $all $log" 3010
for file in setup.exe shutdownmon.exe uninstall.exe manifest.json package.json drivers/xenpci/xenpci.inf; do has "$file"; done
registry 'Uninstall\\\\Xen PV drivers\]'
registry '"QuietUninstallString"'
for service in xenpci xenvbd xenstub xenhide shutdownmon; do registry "Services\\\\\\\\$service\\]"; done
grep -q xennet "$drive/newdev.log" && fail 'a component was installed that was not chosen'
grep -q '"complete": true' "$root/manifest.json" || fail 'the manifest is not complete'
registry '"Paravirtual"="{'
grep -q 'NOGPLPV' "$system/bcd.json" || fail 'the default entry has no NOGPLPV'
grep -q '"GPLPV"' "$system/bcd.json" || fail 'there is no entry with GPLPV'
grep -q '^/copy {.*} /d Windows 10 (Xen PV drivers)$' "$system/bcd.log" || fail 'bcdedit was not asked for a copy'
expect '"C:\Program Files\Xen PV\setup.exe" status' 0

# A program that somebody has open: named, and the same installer goes on when it is closed.
printf x >>"$root/xentool.exe"
hold hold 'C:\Program Files\Xen PV\xentool.exe'
rm -f "$drive/setup.log"
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 10
says 'xentool.exe'
release
expect '"C:\Program Files\Xen PV\setup.exe" status' 9
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 3010
expect '"C:\Program Files\Xen PV\setup.exe" status' 0

# Half of it is lost; the same installer makes it whole, with the records of the first.
rm "$root/shutdownmon.exe" "$root/setup.exe" "$root/drivers/xenpci/xenpci.sys"
sed -i 's/"complete": true/"complete": false/' "$root/manifest.json"
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 3010
for file in setup.exe shutdownmon.exe drivers/xenpci/xenpci.sys; do has "$file"; done
[ "$(grep -c Loader "$system/bcd.json")" = 2 ] || fail 'there are not two entries'

# A package that is damaged: nothing is changed, and what is there goes on.
cp -r "$root" "$drive/damaged"
rm "$drive/damaged/manifest.json"
printf x >>"$drive/damaged/drivers/xenvbd/xenvbd.sys"
expect 'C:\damaged\setup.exe install --test-signing' 7
# Not elevated: the same package when it is whole.
cp "$root/drivers/xenvbd/xenvbd.sys" "$drive/damaged/drivers/xenvbd/xenvbd.sys"
rm -f "$drive/setup.log"
expect 'C:\damaged\setup.exe install --test-signing --log C:\setup.log' 4 limited
says 'only an administrator can install drivers'
# A newer version is there.
cp "$root/manifest.json" "$drive/one.json"
sed -i 's/^  "version": "[0-9.]*"/  "version": "99.0.0"/' "$root/manifest.json"
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 8
says 'version 99.0.0 is installed, and'
rm -r "$drive/damaged"
# The record of changes is damaged: nobody guesses.
printf '{' >"$root/manifest.json"
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 12
expect "C:\\installer.exe /S /UNINSTALL $log" 12
cp "$drive/one.json" "$root/manifest.json"
cp "$root/setup.exe" "$drive/one.exe"

expect "C:\\installer.exe /S /UNINSTALL $log" 3010
snapshot >"$WINEPREFIX/after"
diff "$WINEPREFIX/before" "$WINEPREFIX/after" || fail 'uninstalling left something'
expect "C:\\installer.exe /S /UNINSTALL $log" 0
for command in status repair; do expect "C:\\one.exe $command" 9; done

# By the uninstaller that Windows lists. It goes on as a copy of itself, so its own exit code says nothing.
expect "C:\\installer.exe /S /TESTSIGNING $all $log" 3010
rm "$drive/setup.log"
expect "\"C:\\Program Files\\Xen PV\\uninstall.exe\" /S /CHECK $log" 0
says '^exit code 2'
has setup.exe
expect "\"C:\\Program Files\\Xen PV\\uninstall.exe\" /S $log" 0
says '^exit code 3010'
snapshot >"$WINEPREFIX/after"
diff "$WINEPREFIX/before" "$WINEPREFIX/after" || fail 'the uninstaller left something'
echo "the installer's life under Wine: ok"
