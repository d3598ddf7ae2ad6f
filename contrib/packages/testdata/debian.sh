. /packages/check.sh
postfix_goes

# Installed, before Postfix. The unit is enabled, and started when systemd runs.
dpkg -i /packages/1/waxseal_*.deb
check_installed
[ -L /etc/systemd/system/multi-user.target.wants/waxseal.service ]
[ ! -e /etc/systemd/system/sockets.target.wants/waxseal.socket ]
! id -nG waxseal | grep -w postfix || false
[ ! -e /var/spool/postfix ]
is /usr/share/doc/waxseal/copyright root:root 644

# Postfix comes: its package has this file.
postfix_comes
dpkg-trigger --by-package=waxseal /usr/sbin/postfix
dpkg --triggers-only waxseal
id -nG waxseal | grep -w postfix
is /var/spool/postfix/waxseal waxseal:waxseal 755
check_signs

# An upgrade keeps the configuration, the keys, what root gave away, and a unit
# that is disabled.
echo '# by the administrator' >>/etc/waxseal/waxseal.toml
chown -R root:waxseal /var/lib/waxseal/keys
systemctl disable waxseal.service
keys=$(find /var/lib/waxseal -type f -exec sha256sum {} +)
dpkg -i /packages/2/waxseal_*.deb </dev/null
[ "$(dpkg-query -W -f '${Version}' waxseal)" = 2.0-1 ]
tail -n 1 /etc/waxseal/waxseal.toml | grep -x '# by the administrator'
[ ! -e /etc/waxseal/waxseal.toml.dpkg-new ]
[ "$(find /var/lib/waxseal -type f -exec sha256sum {} +)" = "$keys" ]
is /var/lib/waxseal/keys root:waxseal 750
[ ! -e /etc/systemd/system/multi-user.target.wants/waxseal.service ]

# Removed: the program is gone, what is the administrator's stays.
dpkg -r waxseal
[ ! -e /usr/bin/waxseal ]
[ ! -e /usr/lib/systemd/system/waxseal.service ]
[ -e /etc/waxseal/waxseal.toml ]
[ "$(find /var/lib/waxseal -type f -exec sha256sum {} +)" = "$keys" ]

# Installed again, it goes on with them; purged, the keys stay.
dpkg -i /packages/2/waxseal_*.deb
systemctl enable waxseal.socket waxseal-keep.timer # by the administrator
dpkg -P waxseal
[ ! -e /etc/waxseal ]
[ ! -e /run/waxseal ]
[ ! -e /var/spool/postfix/waxseal ]
[ "$(find /var/lib/waxseal -type f -exec sha256sum {} +)" = "$keys" ]
getent passwd waxseal
! find /etc/systemd /var/lib/systemd -name 'waxseal*' | grep . || false

# Without keys nothing is left.
dpkg -i /packages/1/waxseal_*.deb
rm -r /var/lib/waxseal/keys/example.com
dpkg -P waxseal
[ ! -e /var/lib/waxseal ]
