#!/usr/bin/env bash
# Makes the rpm of an executable that is built already, on any system with rpmbuild (Debian: package rpm). The same
# executable and rpmbuild give the same bytes.
#
#   packaging/rpm.sh EXECUTABLE OUTPUT_DIR      prints nothing; see stage.sh for what the environment may say
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/stage.sh"
if ! command -v rpmbuild >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rpm; } >/dev/null 2>&1 || true
fi
command -v rpmbuild >/dev/null 2>&1 || die "rpmbuild is needed; it is in the package rpm (Debian) or rpm-build (Fedora and the like)"
arguments "$@"
case $(machine) in
62) arch=x86_64 ;;
183) arch=aarch64 ;;
*) die "$executable is for a machine that no package is made for; x86_64 and aarch64 are known" ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
umask 022
stage "$scratch/tree" /etc/sysconfig/pbm-agent /usr/lib/systemd/system /usr/share/zsh/site-functions
settle "$scratch/tree"

level=6
[ -z "${PBMBOX_QUICK:-}" ] || level=0
# rpmbuild takes the tree for its build root, and whatever is not listed in the spec is an error. Nothing of the machine
# gets in: neither its name, nor the time, nor a database of packages, nor what its own macros do to executables.
rpmbuild -bb --quiet --target "$arch-linux" --buildroot "$scratch/tree" \
    --define "_topdir $scratch/top" --define "_rpmdir $scratch/rpms" --define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    --define "version_of_package $version" \
    --define "compatible $(sed -n 's/.*PBM_VERSION: &str = "\(.*\)".*/\1/p' "$packaging/../src/model/names.rs")" \
    --define "_binary_payload w$level.xzdio" --define "_buildhost localhost" --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
    "$packaging/rpm/pbmbox.spec" >"$scratch/log" 2>&1 || die "rpmbuild did not make the package: $(tail -n 3 "$scratch/log")"
mv "$scratch"/rpms/pbmbox-*.rpm "$output/"
