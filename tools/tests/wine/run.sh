#!/bin/sh
# The programs under Wine: network settings over its registry, a hive loaded and repaired, a report made. Takes the folder of
# programs that `cargo xtask dist` built. Needs wine, wine64, unzip and gcc-mingw-w64-x86-64-win32.
set -eu
here=$(dirname "$0")
programs=${1:-$here/../../../target/dist/x64-programs}
export WINEPREFIX="$(mktemp -d)" WINEDEBUG=-all WINEDLLOVERRIDES='mscoree=;mshtml=;winemenubuilder.exe='
trap 'wineserver -k 2>/dev/null || true; sleep 1; rm -rf "$WINEPREFIX"' EXIT
timeout 180 wineboot -i >/dev/null 2>&1
wineserver -w
drive=$WINEPREFIX/drive_c
system=$drive/windows/system32
compile() { x86_64-w64-mingw32-gcc -O1 "$@"; }
compile -shared -o "$system/bcryptprimitives.dll" "$here/../../../shutdownmon/tests/wine/bcryptprimitives.c" -ladvapi32
mkdir -p "$system/WindowsPowerShell/v1.0"
compile -o "$system/WindowsPowerShell/v1.0/powershell.exe" "$here/powershell.c"
cp "$programs/xentool.exe" "$programs/shutdownmon.exe" "$drive"
# As `reg export` writes it: in a file of single bytes the lists would be ones of single bytes.
sed 's/ControlSet001/CurrentControlSet/' "$here/../data/network.reg" | iconv -t UTF-16 >"$drive/network.reg"
# Wine keeps a hive as text.
{
    printf 'WINE REGISTRY Version 2\n;; All keys relative to \\\\Machine\\\\System\n\n#arch=win64\n\n'
    sed -n 's/\\/\\\\/g; s/^\[HKEY_LOCAL_MACHINE\\\\SYSTEM\\\\\(.*\)\]$/[\1] 0/; /^\[.* 0$/p; /^"[A-Za-z0]*"=dword/p; /^$/p' \
        "$here/../data/unbootable.reg"
} >"$drive/SYSTEM"
emulated='"PnPDeviceID":"PCI\\VEN_10EC&DEV_8139\\3&1","InterfaceIndex":4,"Name":"Ethernet"'
paravirtual='"PnPDeviceID":"XENPV\\VIF&REV_01\\5&0&0","InterfaceIndex":11,"Name":"Ethernet 3"'
address='{"InterfaceIndex":4,"IPAddress":"2001:db8::10","PrefixLength":64,"SkipAsSource":false}'
answer() {
    printf '{"adapters":[{"InterfaceGuid":"{1B2C3D4E-000%s-4A5B-8C6D-7E8F9A0B1C2D}","PermanentAddress":"00163E010203",%s}],' \
        "$1" "$2"
    printf '"addresses":[%s],"routes":[],"interfaces":[],"present":["%s"]}' "$3" \
        "$(printf %s "$2" | sed 's/^"PnPDeviceID":"\([^"]*\)".*/\1/')"
}
answer 1 "$emulated" "$address" >"$drive/emulated.json"
answer 2 "$paravirtual" '' >"$drive/paravirtual.json"
cat >"$drive/life.bat" <<'BAT'
@echo off
cd /d c:\
regedit /s c:\network.reg
copy /y emulated.json answer.json >nul
xentool network remember --log c:\log.txt
echo remembered %errorlevel%
copy /y paravirtual.json answer.json >nul
xentool network copy --to paravirtual --dry-run
echo dry %errorlevel%
reg query HKLM\SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces\{1b2c3d4e-0002-4a5b-8c6d-7e8f9a0b1c2d}
xentool network copy --to paravirtual --log c:\log.txt
echo copied %errorlevel%
reg query HKLM\SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces\{1b2c3d4e-0002-4a5b-8c6d-7e8f9a0b1c2d}
xentool network undo
echo undone %errorlevel%
reg query HKLM\SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces\{1b2c3d4e-0002-4a5b-8c6d-7e8f9a0b1c2d}
xentool network carry --log c:\log.txt
echo carried %errorlevel%
xentool network carry
echo carried again %errorlevel%
xentool repair c:\SYSTEM
echo repaired %errorlevel%
xentool repair c:\log.txt
echo refused %errorlevel%
shutdownmon collect c:\report.zip
echo collected %errorlevel%
shutdownmon collect c:\report.zip
echo again %errorlevel%
BAT
# The installer's logs, of SYSTEM and of another administrator.
for folder in windows/temp users/bob/AppData/Local/Temp; do
    mkdir -p "$drive/$folder"
    echo "by $folder" >"$drive/$folder/xen-pv-setup.log"
done
timeout 300 wine cmd /c 'c:\life.bat' 2>&1 | tr -d '\r' | tee "$drive/life.txt"
has() { grep -qxF -- "$1" "$2" || { echo "missing in $2: $1"; exit 1; }; }
for line in 'remembered 0' 'dry 0' 'copied 0' 'undone 0' 'carried 0' 'carried again 0' 'repaired 0' 'refused 1' 'collected 0' 'again 1' \
    'changed ControlSet001\Services\xenhide\Parameters\Disks: 1 -> 0 (nothing is unplugged)' \
    'changed ControlSet001\Services\storahci\StartOverride\0: 3 -> 0 (loaded at boot)' \
    'changed ControlSet002\Services\xenpci\Start: 0 -> 4 (not loaded)'; do
    has "$line" "$drive/life.txt"
done
# Before, after and when it is taken back.
test "$(grep -c 'IPAddress *REG_MULTI_SZ *192.0.2.10.0192.0.2.11' "$drive/life.txt")" = 1
test "$(grep -c 'EnableDHCP *REG_DWORD *0x1' "$drive/life.txt")" = 2
grep -q 'New-NetIPAddress -InterfaceIndex 11 -IPAddress 2001:db8::10 -PrefixLength 64' "$drive/told.txt"
grep -q 'Remove-NetIPAddress -InterfaceIndex 11 -IPAddress 2001:db8::10' "$drive/told.txt"
# Carried by itself, the card is started anew; and the second time there is nothing to do.
test "$(grep -c 'Restart-NetAdapter' "$drive/told.txt")" = 1
has 'remembered 00:16:3e:01:02:03: Ethernet {1B2C3D4E-0001-4A5B-8C6D-7E8F9A0B1C2D}' "$drive/log.txt"
unzip -p "$drive/report.zip" registry.txt | grep -qF '[CurrentControlSet\Enum\XENPV\VIF&REV_01\5&1f2a3b4c&0&0]'
unzip -p "$drive/report.zip" missing.txt | grep -q '^boot-entries.txt: '
for line in 'by windows/temp' 'by users/bob/AppData/Local/Temp' '== C:\users\(left out)\AppData\Local\Temp\xen-pv-setup.log'; do
    unzip -p "$drive/report.zip" setup.txt | grep -qiF "$line" || { echo "missing in setup.txt: $line"; exit 1; }
done
echo "xentool and the report under Wine: ok"
