# The first minute, from the sources' program alone, and from the package.
. /packages/check.sh
postfix_goes
dpkg -i /packages/1/waxseal_*.deb

# As the package leaves it, the daemon starts, and says what is missing.
(timeout --preserve-status -s TERM 2 setpriv --reuid waxseal --regid waxseal --init-groups waxseal serve 2>&1 || true) | tee log
grep 'level=WARN.*no domain yet.*waxseal key new example.com' log

# With nothing there, the three commands that it names work.
rm -r /var/lib/waxseal /etc/waxseal
if waxseal serve 2>log; then false; fi
cat log
sed -n 's/^waxseal: hint:   //p' log >commands
[ "$(wc -l <commands)" = 3 ]
bash -ec "$(sed -n 1p commands)"
(timeout --preserve-status -s TERM 2 bash -c "exec $(sed -n 2p commands)" 2>&1 || true) | grep msg=stopped
command=$(sed -n 3p commands)
status=0
bash -c "$command" || status=$?
[ "$status" != 2 ] && [ "$status" != 127 ]
