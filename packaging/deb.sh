#!/usr/bin/env bash
# Makes the Debian package of an executable that is built already. The same executable gives the same bytes.
#
#   packaging/deb.sh EXECUTABLE OUTPUT_DIR      prints nothing; see stage.sh for what the environment may say
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/stage.sh"
command -v dpkg-deb >/dev/null 2>&1 || die "dpkg-deb is needed; it is in the package dpkg"
arguments "$@"
case $(machine) in
62) arch=amd64 ;;
183) arch=arm64 ;;
*) die "$executable is for a machine that no package is made for; x86_64 and aarch64 are known" ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tree=$scratch/tree
umask 022
stage "$tree" /etc/default/pbm-agent /lib/systemd/system /usr/share/zsh/vendor-completions
# For postinst, which says why.
install -D -m 644 "$packaging/systemd/pbm-agent.service" "$tree/usr/share/pbmbox/pbm-agent.service"
install -D -m 644 "$packaging/systemd/needrestart.conf" "$tree/etc/needrestart/conf.d/pbm-agent.conf"
install -D -m 644 "$packaging/deb/copyright" "$tree/usr/share/doc/pbmbox/copyright"
mkdir "$scratch/doc"
{
    printf 'pbmbox (%s) stable; urgency=medium\n\n  * Made from the release %s.\n\n' "$version" "$version"
    printf ' -- The pbmbox project <pbmbox@localhost>  %s\n' "$(LC_ALL=C date -uRd "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$scratch/doc/changelog.gz"
install -m 644 "$scratch/doc/changelog.gz" "$tree/usr/share/doc/pbmbox/changelog.gz"

mkdir "$tree/DEBIAN"
for script in preinst postinst prerm postrm; do install -m 755 "$packaging/deb/$script" "$tree/DEBIAN/$script"; done
for file in /etc/default/pbm-agent /etc/pbm-storage.conf /etc/pbm-conf-reference.yml; do
    [ ! -e "$tree$file" ] || printf "take_over %s <<'END OF FILE'\n%s\nEND OF FILE\n" "$file" "$(cat "$tree$file")" >>"$tree/DEBIAN/preinst"
done
(cd "$tree" && find etc -type f | LC_ALL=C sort | sed 's,^,/,') >"$tree/DEBIAN/conffiles"
(cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | grep -v '^etc/' | LC_ALL=C sort | xargs -d '\n' md5sum) >"$tree/DEBIAN/md5sums"
# As policy has it: KiB, each file for itself. What the file system takes for it differs from machine to machine.
size=$(cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
compatible=$(sed -n 's/.*PBM_VERSION: &str = "\(.*\)".*/\1/p' "$packaging/../src/model/names.rs")
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@COMPATIBLE@/$compatible/" \
    -e "s/@SIZE@/$size/" "$packaging/deb/control" >"$tree/DEBIAN/control"
chmod 644 "$tree"/DEBIAN/{control,conffiles,md5sums}
settle "$tree"

level=6
[ -z "${PBMBOX_QUICK:-}" ] || level=0
# One thread: the number of threads changes the bytes.
package=pbmbox_${version}_$arch.deb
DPKG_DEB_THREADS_MAX=1 dpkg-deb --root-owner-group -Zxz -z"$level" --build "$tree" "$scratch/$package" >"$scratch/log" 2>&1 ||
    die "dpkg-deb did not make the package: $(tail -n 1 "$scratch/log")"
mv "$scratch/$package" "$output/$package"
