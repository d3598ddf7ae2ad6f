# The README's "Setting it up" and "Postfix" sections word for word, on a Debian
# machine with Postfix as its package leaves it: smtpd and cleanup in a chroot.
# Its code blocks are taken out of it, so that what is tested is what is read.
. /packages/check.sh
ip link set lo up

# block LANGUAGE SECTION NUMBER: a code block of a section of the README.
block() {
	awk -v language="$1" -v section="$2" -v number="$3" '
		/^ *```/ {
			fence = !fence
			wanted = fence && here && $1 == "```" language && ++seen == number
			found = found || wanted
			next
		}
		!fence && /^##+ / { here = ($0 ~ "^##+ " section "$") }
		wanted { sub(/^   /, ""); print }
		END { exit !found }' /packages/README.md
}

# Postfix as Debian's package configures an "Internet Site".
rm -rf /var/spool/postfix /var/mail/box
mkdir -p /var/spool/postfix /var/lib/postfix
cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf
cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf
grep -q '^smtp  *inet  *n  *-  *y ' /etc/postfix/master.cf
grep -q '^cleanup  *unix  *n  *-  *y ' /etc/postfix/master.cf
postconf -e myhostname=mx.example.com mydestination=example.net,localhost inet_interfaces=loopback-only mailbox_command= alias_maps= \
	local_recipient_maps= maillog_file=/var/log/postfix.log
useradd --no-create-home box
install -m 0600 -o box -g mail /dev/null /var/mail/box

dpkg -i /packages/1/waxseal_*.deb

# Setting it up: step 2, and the record seen by all the world.
eval "$(block sh 'Setting it up' 2)"
waxseal key list example.com
for key in /var/lib/waxseal/keys/example.com/*.pem; do
	waxseal key activate example.com "$(basename "$key" .pem)" --force --reason 'no DNS here'
done

# Postfix: the two files, and what makes them count.
block toml Postfix 1 >>/etc/waxseal/waxseal.toml
block '' Postfix 1 >>/etc/postfix/main.cf
waxseal check
setpriv --reuid waxseal --regid waxseal --init-groups waxseal serve 2>/tmp/log &
for _ in $(seq 100); do grep -q 'msg=ready\|msg=listening' /tmp/log && break; sleep 0.1; done
cat /tmp/log
grep 'confined by Landlock\|not confined' /tmp/log
is /var/spool/postfix/waxseal/milter.sock waxseal:postfix 660
postfix start
trap 'postfix stop' EXIT
waxseal doctor

# By SMTP, and by the sendmail command.
/usr/bin/python3 - <<'END'
import smtplib
smtplib.SMTP("127.0.0.1").sendmail("ann@example.com", "box@example.net", "From: Ann <ann@example.com>\r\nTo: box@example.net\r\nSubject: by SMTP\r\n\r\nIt works.\r\n")
END
printf 'From: Ann <ann@example.com>\nTo: box@example.net\nSubject: by hand\n\nIt works.\n' | sendmail -i -f ann@example.com box@example.net
for _ in $(seq 300); do [ "$(grep -c '^From ' /var/mail/box)" != 2 ] || break; sleep 0.1; done

waxseal dns show example.com --format tsv >/tmp/keys.tsv
/usr/bin/python3 - <<'END' || { cat /var/log/postfix.log /tmp/log /var/mail/box; false; }
import dkim, mailbox
records = dict(line.rstrip("\n").split("\t")[:2] for line in open("/tmp/keys.tsv"))
records = {name.rstrip("."): text.strip('"') for name, text in records.items()}
seen = set()
for m in mailbox.mbox("/var/mail/box"):
    raw = bytes(m)
    count = len(m.get_all("DKIM-Signature") or [])
    for i in range(count):
        v = dkim.DKIM(raw).verify(idx=i, dnsfunc=lambda name, timeout=5: records[name.decode().rstrip(".")].encode())
        assert v, (m["Subject"], i)
    seen.add((m["Subject"], count))
assert seen == {("by SMTP", 2), ("by hand", 2)}, seen
END
kill %1
wait %1
