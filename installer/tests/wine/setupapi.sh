#!/bin/sh
# Wine's setupapi and wintrust as judges of the driver packages: they were written by others, and share no line with what writes
# the packages. Takes the folder of signed packages that `cargo xtask dist` made. Needs wine, wine64 and
# gcc-mingw-w64-x86-64-win32.
# What Wine 8 cannot do: no build number in a decoration, so it is taken out of the copy that it gets; a signature is no reason
# for its setupapi to refuse a package; a catalog holds for its wintrust and crypt32 also with a byte changed, so it is not asked (osslsigncode
# and signify are); the drivers are not started, as it lacks what they call first (ExAllocatePool2).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
drivers=${1:-$here/../../../target/dist/release/drivers}
export WINEPREFIX="$(mktemp -d)" WINEDEBUG=-all WINEDLLOVERRIDES='mscoree=;mshtml=;winemenubuilder.exe='
trap 'wineserver -k 2>/dev/null || true; sleep 1; rm -rf "$WINEPREFIX"' EXIT
timeout 180 wineboot -i >/dev/null 2>&1
wineserver -w
drive=$WINEPREFIX/drive_c
x86_64-w64-mingw32-gcc -Wall -municode -O1 -o "$drive/judge.exe" "$here/setupapi.c" -lsetupapi -lnewdev -lwintrust

fail() {
    echo "FAILED: $1"
    exit 1
}

judge() {
    status=0
    timeout 120 wine 'C:\judge.exe' "$@" >"$drive/said.txt" 2>/dev/null || status=$?
    tr -d '\r' <"$drive/said.txt"
    return "$status"
}

# What an INF gives its service, as `name number` in hexadecimal.
numbers() {
    tr -d '\r' <"$1" | sed -n \
        -e 's/;.*//; s/[ \t]*$//' \
        -e 's/^ServiceType *= *\([0-9]*\)$/Type \1/p' -e 's/^StartType *= *\([0-9]*\)$/Start \1/p' \
        -e 's/^ErrorControl *= *\([0-9]*\)$/ErrorControl \1/p' \
        -e 's/^HKR,Parameters,\([A-Za-z]*\),0x0001000[13],\([0-9]*\)$/\1 \2/p' | while read -r name number; do
        printf '%s 0x%x\n' "$name" "$number"
    done
}

# Its first hardware id.
hardware() { tr -d '\r' <"$1" | sed -n 's/^%[^%]*% *= *[A-Za-z_]*, *\([^ ;]*\\[^ ;]*\).*/\1/p' | head -n 1; }

checked=0
for package in "$drivers"/*; do
    name=$(basename "$package")
    mkdir "$drive/$name" "$drive/broken-$name"
    cp "$package"/* "$drive/$name"
    sed -i 's/NTamd64\.10\.0\.\.\.19041/NTamd64/' "$drive/$name/$name.inf"
    id=$(hardware "$drive/$name/$name.inf")
    said=$(judge install "${id:--}" "C:\\$name\\$name.inf") || fail "$name is not installed: $said"
    timeout 120 wine reg query "HKLM\\SYSTEM\\CurrentControlSet\\Services\\$name" /s 2>/dev/null | tr -d '\r' >"$drive/made.txt"
    numbers "$drive/$name/$name.inf" >"$drive/wanted.txt"
    [ -s "$drive/wanted.txt" ] || fail "$name.inf gives its service nothing"
    while read -r value number; do
        grep -qxE " *$value +REG_DWORD +$number" "$drive/made.txt" || fail "$name: $value is not $number: $(cat "$drive/made.txt")"
        checked=$((checked + 1))
    done <"$drive/wanted.txt"
    grep -qE "ImagePath +REG_(EXPAND_)?SZ +.*$name\.sys" "$drive/made.txt" || fail "$name: the service has no image"
    # The image lies somewhere below Windows' folder: this Wine has no directory 13. It stages an INF under its own name.
    found=$(find "$drive/windows" -iname "$name.sys" -exec cmp -s {} "$package/$name.sys" \; -print)
    [ -n "$found" ] || fail "$name.sys was not copied"
    cmp -s "$drive/windows/inf/$name.inf" "$drive/$name/$name.inf" || fail "$name.inf was not staged"
    # A broken INF is taken by nobody.
    cp "$package"/* "$drive/broken-$name"
    sed -i 's/^\[Version\]/Version]/' "$drive/broken-$name/$name.inf"
    ! judge install "${id:--}" "C:\\broken-$name\\$name.inf" >/dev/null || fail "$name: a broken INF was installed"
    echo "$name (${id:-no device}): installed"
done
[ "$checked" -ge 15 ] || fail "only $checked values were checked"

# Every signature holds, and none after a byte was changed (TRUST_E_BAD_DIGEST). This Wine asks nobody whether the signer is
# trusted; osslsigncode and signify do.
signatures=0
for package in "$drivers"/*; do
    name=$(basename "$package")
    file=$drive/$name.sys
    cp "$package/$name.sys" "$file"
    said=$(judge verify "C:\\$name.sys")
    [ "$said" = 00000000 ] || fail "$name.sys: WinVerifyTrust says $said"
    at=$(($(stat -c %s "$file") / 3))
    byte=$(od -An -tu1 -j "$at" -N 1 "$file" | tr -d ' ')
    printf "\\$(printf %o $((byte ^ 255)))" | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
    said=$(judge verify "C:\\$name.sys")
    [ "$said" = 80096010 ] || fail "$name.sys with a byte changed: WinVerifyTrust says $said"
    signatures=$((signatures + 1))
done
echo "Wine's setupapi: $checked values as the INFs say; its wintrust: $signatures signatures hold, and none with a byte changed"
