#!/bin/sh
# The service's life under Wine: installed, started, asked, installed again, removed. Takes the program that
# `cargo xtask dist` built. Needs wine, wine64 and gcc-mingw-w64-x86-64-win32.
set -eu
here=$(dirname "$0")
program=${1:-$here/../../../target/dist/x64-programs/shutdownmon.exe}
export WINEPREFIX="$(mktemp -d)" WINEDEBUG=-all WINEDLLOVERRIDES='mscoree=;mshtml=;winemenubuilder.exe='
trap 'wineserver -k 2>/dev/null || true; sleep 1; rm -rf "$WINEPREFIX"' EXIT
timeout 180 wineboot -i >/dev/null 2>&1
wineserver -w
drive=$WINEPREFIX/drive_c
x86_64-w64-mingw32-gcc -shared -O1 -o "$drive/windows/system32/bcryptprimitives.dll" "$here/bcryptprimitives.c" -ladvapi32
cp "$program" "$drive/shutdownmon.exe"
# One script, because Wine ends services when the last program of a user ends.
cat >"$drive/life.bat" <<'BAT'
@echo off
c:\shutdownmon.exe status
echo before %errorlevel%
c:\shutdownmon.exe install
echo installed %errorlevel%
c:\shutdownmon.exe status
echo running %errorlevel%
c:\shutdownmon.exe install
echo again %errorlevel%
c:\shutdownmon.exe uninstall
echo removed %errorlevel%
c:\shutdownmon.exe uninstall
echo twice %errorlevel%
c:\shutdownmon.exe service
echo alone %errorlevel%
BAT
timeout 300 wine cmd /c 'c:\life.bat' 2>&1 | tr -d '\r' | tee "$drive/life.txt"
# 3: the service does not run; 4: it runs, and there is no xenpci.
for line in 'before 3' 'installed 0' 'running 4' 'again 0' 'removed 0' 'twice 0' 'alone 1' 'service: Running'; do
    grep -qx "$line" "$drive/life.txt" || { echo "missing: $line"; exit 1; }
done
echo "the service's life under Wine: ok"
