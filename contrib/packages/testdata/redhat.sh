. /packages/check.sh
postfix_comes

# The dependencies have names of Red Hat's, which this machine does not know.
rpm --initdb
rpm -i --nodeps /packages/1/waxseal-*.rpm
check_installed
id -nG waxseal | grep -w postfix
rpm -V --nodeps waxseal
[ "$(rpm -qc waxseal)" = /etc/waxseal/waxseal.toml ]
check_signs

# An upgrade keeps the configuration and the keys.
echo '# by the administrator' >>/etc/waxseal/waxseal.toml
keys=$(find /var/lib/waxseal -type f -exec sha256sum {} +)
rpm -U --nodeps /packages/2/waxseal-*.rpm
[ "$(rpm -q --qf '%{VERSION}' waxseal)" = 2.0 ]
tail -n 1 /etc/waxseal/waxseal.toml | grep -x '# by the administrator'
[ "$(find /var/lib/waxseal -type f -exec sha256sum {} +)" = "$keys" ]

# Erased: what is the administrator's stays.
rpm -e waxseal
[ ! -e /usr/bin/waxseal ]
tail -n 1 /etc/waxseal/waxseal.toml.rpmsave | grep -x '# by the administrator'
[ "$(find /var/lib/waxseal -type f -exec sha256sum {} +)" = "$keys" ]
getent passwd waxseal
! find /etc/systemd -name 'waxseal*' | grep . || false
