# Every example of every command's help, as it is written, in a place prepared
# for it, on a machine with the package installed and without a network.
. /packages/check.sh
set +x
postfix_comes
dpkg -i /packages/1/waxseal_*.deb >/dev/null
echo 'nameserver 127.0.0.1' >/etc/resolv.conf # where nobody listens

rm -rf /etc/rspamd /etc/dkimpy-milter /etc/amavis /etc/amavisd # whatever the machine has

# What the examples take for granted: keys of example.com, of which 2025b has been
# replaced by 2026a, the keys of OpenDKIM, and some files.
mkdir -p /etc/opendkim/keys /example/keys
cp /packages/rsa.pem /etc/opendkim/keys/mail.private
chmod 600 /etc/opendkim/keys/mail.private
printf 'Domain example.com\nSelector mail\nKeyFile /etc/opendkim/keys/mail.private\nPeerList refile:/etc/opendkim/TrustedHosts\nInternalHosts refile:/etc/opendkim/TrustedHosts\n' >/etc/opendkim.conf
printf '127.0.0.1\n::1\nlocalhost\n192.0.2.0/24\n' >/etc/opendkim/TrustedHosts
cd /example
printf 'From: Ann <ann@example.com>\nTo: bob@example.net\nSubject: hello\n\nIt works.\n' >message.eml
printf 'example.org\nexample.net\n' >domains.txt
mkdir -p /etc/mail
printf 'V10/Debian\nO InputMailFilters=waxseal\nXwaxseal, S=local:/run/waxseal/milter.sock, F=T, T=S:30s;R:30s;E:5m\n' >/etc/mail/sendmail.cf
packaged=$(cat /etc/waxseal/waxseal.toml)
waxseal key import example.com 2025b /packages/rsa.pem
waxseal key activate example.com 2025b --force --reason tested
waxseal key import example.com 2026a /packages/ed25519.pem
cp -a /var/lib/waxseal/keys /pending
waxseal key activate example.com 2026a --force --reason tested
cp -a /var/lib/waxseal/keys /active
waxseal sign <message.eml >signed.eml

prepare() {
	printf '%s\n' "$packaged" >/etc/waxseal/waxseal.toml
	echo '# empty' >waxseal.toml
	rm -rf /var/lib/waxseal/keys/* keys waxseal-dev
	cp -a /active keys
	case $1 in
	*'waxseal import'*) ;; # into an empty keystore
	*'key activate'* | *'dns publish'*) cp -a /pending/. /var/lib/waxseal/keys ;;
	*) cp -a /active/. /var/lib/waxseal/keys ;;
	esac
	case $1 in
	*--slots*) printf '[keeper]\nslot_zone = "dkim.example.net"\n' >/etc/waxseal/waxseal.toml ;;
	*'key revoke'* | *'key remove'*) # no mail needs the key
		printf '[keeper]\ngrace = "1s"\n' >/etc/waxseal/waxseal.toml
		waxseal key retire example.com 2025b --force --reason tested
		sleep 1.1
		;;
	esac
	case $1 in
	*'key remove'*)
		waxseal key revoke example.com 2025b
		sleep 1.1
		;;
	esac
} >/tmp/prepared 2>&1 </dev/null

failed=
says() { # says SECONDS STATUS WORDS LINE: it ends so, in time, and says that
	status=0
	timeout "$1" bash -c "$4" >out 2>&1 </dev/null || status=$?
	if [ "$status" != "$2" ] || [ -n "$3" ] && ! grep -qE -- "$3" out; then
		failed=1
		printf '\n%s\nexit status %s, want %s, and %s:\n' "$4" "$status" "$2" "$3"
		cat out
	fi
}

seen=0
for page in $(cd /usr/share/man/man1 && ls waxseal*.1.gz); do
	command=$(echo "${page%.1.gz}" | tr - ' ')
	while IFS= read -r line; do
		seen=$((seen + 1))
		prepare "$line" || { echo "preparing for: $line"; cat /tmp/prepared; exit 1; }
		case $line in
		# These wait for DNS, which does not answer.
		*'dns check'*--watch* | *'rotate'*--now* | *'rotate'*--emergency*) says 3 124 '' "$line" ;;
		# These say that it does not.
		*'dns check'* | *'key activate example.com 2026a' | *' verify < '*) says 20 1 '127\.0\.0\.1' "$line" ;;
		# Nothing says how to publish.
		*'dns publish'*) says 20 1 'publish' "$line" ;;
		# These have something to find.
		*'waxseal doctor'*) says 20 1 '^(error|warning): ' "$line" ;;
		*explain*--client*) says 20 1 '^not signed' "$line" ;;
		# What these take over is in the tests of the imports.
		*'import rspamd'* | *'import dkimpy'* | *'import amavis'* | *'import directory'*) says 20 1 'no such file|has a file|is no directory' "$line" ;;
		# The daemon stays until it is stopped.
		*'waxseal serve'*) says 20 0 'msg=stopped' "timeout --preserve-status -s TERM 2 $line" ;;
		*) says 20 0 '' "$line" ;;
		esac
	done < <($command --help | sed -n '/^Examples:/,/^$/s/^  //p')
done
echo "$seen examples"
[ "$seen" -ge 40 ]
[ -z "$failed" ]
