#!/bin/bash
# Builds the dom0 of the lab out of Debian packages: OUT/{xen,vmlinux,initrd.cpio,dom0.ext4}, and what a Linux guest to
# compare with needs: OUT/vmlinuz and OUT/linux-modules/.
# Usage: build.sh OUT. Runs as root. The mirror is the one that this machine's apt uses.
set -euo pipefail
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
here=$(cd "$(dirname "$0")" && pwd)
out=$1
root=$out/root
suite=bookworm

step() { echo "== $*"; }

targets=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | sort -u)
mirror=$(awk -v s="$suite" '$2 == s && $3 == "main" { print $1; exit }' <<<"$targets")
[ -n "$mirror" ] || { echo "apt on this machine knows no $suite/main; run apt-get update"; exit 1; }

step "debootstrap $suite"
mkdir -p "$out"
if mountpoint -q "$root/proc" 2>/dev/null; then umount "$root/proc"; fi
rm -rf "$root"
debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$out/debootstrap.log"

step "packages"
awk -v s="$suite" '$2 ~ "^" s && $3 == "main" { print "deb", $1, $2, $3 }' <<<"$targets" >"$root/etc/apt/sources.list"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT
chroot "$root" apt-get -q update >"$out/apt.log"
chroot "$root" apt-get -q -y --no-install-recommends install \
  $(grep -v '^#' "$here/packages") >>"$out/apt.log" 2>&1
umount "$root/proc"
trap - EXIT

step "kernel and hypervisor"
kernel=$(basename "$root"/boot/vmlinuz-*)
version=${kernel#vmlinuz-}
gunzip -c "$root"/boot/xen-4*-amd64.gz >"$out/xen"
# A bzImage says where its compressed payload lies (Documentation/x86/boot.rst): setup_sects at 0x1f1, payload_offset and
# payload_length at 0x248 and 0x24c, counted from the protected-mode part. Unpacked here, Xen need not do it under emulation.
field() { od -A n -t u"$2" -j "$1" -N "$2" "$root/boot/$kernel" | tr -d ' '; }
start=$((($(field 0x1f1 1) + 1) * 512 + $(field 0x248 4)))
# (Behind the xz stream stand four bytes with its unpacked size, which xz takes for garbage.)
dd status=none if="$root/boot/$kernel" iflag=skip_bytes,count_bytes skip=$start count="$(field 0x24c 4)" of="$out/payload" bs=1M
xz -dc <"$out/payload" >"$out/vmlinux" 2>/dev/null || true
rm "$out/payload"
[ -s "$out/vmlinux" ] || { echo "the payload of $kernel is not xz"; exit 1; }

cp "$root/boot/$kernel" "$out/vmlinuz"
# The modules of its disk and of its network, PV and emulated, with those that they need; `NAME.deps` has NAME's load order.
rm -rf "$out/linux-modules"
mkdir -p "$out/linux-modules"
for driver in xen-blkfront xen-netfront e1000 8139cp; do
  chroot "$root" modprobe -S "$version" --show-depends "$driver" | awk '$1 == "insmod" { print $2 }' |
    while read -r module; do
      cp "$root$module" "$out/linux-modules/"
      basename "$module" >>"$out/linux-modules/$driver.deps"
    done
  [ -s "$out/linux-modules/$driver.deps" ] || { echo "$version has no module $driver"; exit 1; }
done

step "initrd"
ramdisk=$out/initrd
rm -rf "$ramdisk"
mkdir -p "$ramdisk"/{bin,dev,proc,sys,mnt,lib/modules}
cp "$root/bin/busybox" "$ramdisk/bin/busybox"
cp "$here/init" "$ramdisk/init"
chmod +x "$ramdisk/init"
# The modules that the root disk needs, in load order.
for module in $(chroot "$root" sh -c "modprobe --set-version $version --show-depends -a virtio_blk ext4 2>/dev/null; \
    modprobe -S $version --show-depends virtio_pci; modprobe -S $version --show-depends virtio_blk; modprobe -S $version --show-depends ext4" |
  awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
  cp "$root$module" "$ramdisk/lib/modules/"
  basename "$module" >>"$ramdisk/lib/modules/order"
done
(cd "$ramdisk" && find . | sort | cpio --quiet -o -H newc) >"$out/initrd.cpio"

step "root file system"
# QEMU's own fw_cfg DMA multiboot ROM hangs under Xen, which has no fw_cfg DMA: the PIO one takes its place.
cp "$root/usr/share/qemu/multiboot.bin" "$root/usr/share/qemu/multiboot_dma.bin"
install -m 755 "$here/labinit" "$root/sbin/labinit"
install -m 755 "$here/block-fast" "$here/vif-fast" "$root/etc/xen/scripts/"
keep='xen|loop|virtio|ext4|jbd2|mbcache|crc|bridge|stp|llc|tun|8021q|mrp|garp|libcrc32c|nbd'
find "$root/lib/modules" -name '*.ko' | grep -Ev "/($keep)[^/]*\.ko|/(xen|bridge)/" | xargs -r rm -f
chroot "$root" depmod "$version"
rm -rf "$root"/usr/share/{doc,man,locale,i18n,info} "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
  "$root"/boot/{vmlinuz,initrd.img,System.map,xen}* "$root"/usr/lib/x86_64-linux-gnu/{perl,gconv} "$root"/lib/firmware
rm -f "$out/dom0.ext4"
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$out/dom0.ext4" 700M
rm -rf "$root" "$ramdisk"
echo "$version" >"$out/kernel-version"
step "done"
