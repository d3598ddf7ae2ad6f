# What the scripts of both packages check.

# is PATH OWNER:GROUP MODE
is() { [ "$(stat -c '%U:%G %a' "$1")" = "$2 $3" ]; }

# With a Postfix as far as waxseal cares, and without.
postfix_comes() {
	getent group postfix >/dev/null || groupadd --system postfix
	mkdir -p /var/spool/postfix
}
postfix_goes() {
	sed -i '/^postfix:/d' /etc/group
	rm -rf /var/spool/postfix
}

# What is there after an installation, in both.
check_installed() {
	is /usr/bin/waxseal root:root 755
	waxseal --version | grep -w '1\.0' # that of the package
	is /etc/waxseal/waxseal.toml root:root 644
	is /run/waxseal waxseal:waxseal 755
	is /var/lib/waxseal waxseal:waxseal 755
	is /var/lib/waxseal/keys waxseal:waxseal 750
	[ "$(getent passwd waxseal | cut -d: -f6,7)" = /var/lib/waxseal:/usr/sbin/nologin ]
	# All commented: it changes nothing, and it is that of this version.
	! grep -q '^[a-z]' /etc/waxseal/waxseal.toml || false
	waxseal config example | cmp - /etc/waxseal/waxseal.toml
	# The README leads to them.
	for path in $(grep -o '(contrib/\(postfix\|sendmail\|exim\|grafana\|systemd\|fleet\|sql\|redis\|vault\|ldap\)[^)]*)' /usr/share/doc/waxseal/README.md | tr -d '()'); do
		[ -e "/usr/share/doc/waxseal/$path" ]
	done
	is /usr/share/doc/waxseal/contrib/postfix/main.cf root:root 644
	for page in man1/waxseal.1 man1/waxseal-key-new.1 man5/waxseal.toml.5; do
		is /usr/share/man/$page.gz root:root 644
	done
	systemd-analyze verify --man=no /usr/lib/systemd/system/waxseal.service /usr/lib/systemd/system/waxseal.socket \
		/usr/lib/systemd/system/waxseal-keep.timer 2>&1 | grep -v 'ignoring: notify-reload$' | grep waxseal && false
	bash -n /usr/share/bash-completion/completions/waxseal
	zsh -n /usr/share/zsh/*/_waxseal
	fish -n /usr/share/fish/vendor_completions.d/waxseal.fish
}

# It works as its unit starts it, and Postfix can connect.
check_signs() {
	waxseal key new example.com >/dev/null
	is /var/lib/waxseal/keys/example.com waxseal:waxseal 750
	is /var/lib/waxseal/keys/example.com/*.pem waxseal:waxseal 600
	waxseal key activate example.com "$(basename /var/lib/waxseal/keys/example.com/*.pem .pem)" --force --reason tested
	waxseal check
	setpriv --reuid waxseal --regid waxseal --init-groups waxseal serve 2>/tmp/log &
	for _ in $(seq 100); do [ ! -S /run/waxseal/milter.sock ] || break; sleep 0.1; done
	is /run/waxseal/milter.sock waxseal:postfix 660 || { cat /tmp/log; false; }
	kill %1
	wait %1
	printf 'From: ann@example.com\n\nhello\n' | setpriv --reuid waxseal --regid waxseal --init-groups waxseal sign | grep -q '^DKIM-Signature:'
}
