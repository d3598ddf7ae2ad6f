# Run in a mount name space of its own: private-root.sh PACKAGES SCRIPT. It runs
# the script in a root that looks like the machine's, and whose changes are
# nobody else's. With PACKAGES "true" it only sees whether that can be.
set -eu
mount --make-rprivate /
base=$(mktemp -d)
trap 'umount -l "$base" 2>/dev/null; rmdir "$base"' EXIT
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$base/root"
root=$base/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
[ "$1" != true ] || exit 0
mkdir "$root/packages"
cp -r "$1/." "$root/packages"
cp "$(dirname "$2")/check.sh" "$root/packages/check.sh"
cp "$2" "$root/packages/script.sh"

# A machine that has never seen waxseal.
chroot "$root" sh -c 'userdel waxseal; groupdel waxseal; rm -rf /etc/waxseal /var/lib/waxseal /var/spool/postfix/waxseal' >/dev/null 2>&1 || true
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
	chroot "$root" bash -eux /packages/script.sh
