#!/usr/bin/env bash
# Runs as root in the system that check-deb.sh has booted, and changes it: installs, migrates, upgrades, removes.
# /acceptance holds the packages (old.deb, new.deb, original.deb); mongod is /usr/bin/mongod.
set -euo pipefail
cd /acceptance
export LC_ALL=C HOME=/root DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
uri='mongodb://pbm:pass%40word@127.0.0.1:27017'
export PBM_MONGODB_URI=$uri
environment=/etc/default/pbm-agent
dropins=/etc/systemd/system/pbm-agent.service.d
samples=/usr/share/doc/pbmbox/examples

step() { echo "== $(date +%T) $*"; }
die() {
    echo "FAILED: $*"
    systemctl --no-pager --full status pbm-agent.service || true
    journalctl --no-pager -b -n 40 -u pbm-agent.service || true
    ! command -v pbm >/dev/null || pbm status || true
    systemctl --quiet is-active mongod.service || journalctl --no-pager -b -u mongod.service | grep '"s":"[EF]"' || true
    exit 1
}
trap 'die "line $LINENO: $BASH_COMMAND"' ERR

# until_true SECONDS COMMAND...: a bounded wait for a condition.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || die "did not become true in time: $*"
        sleep 0.2
    done
}

install_package() { apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$1" </dev/null >out 2>&1 || { cat out; die "apt-get install $1"; }; }
property() { systemctl show --value --property="$1" pbm-agent.service; }
same() { [ "$1" = "$2" ] || die "$3: '$1', not '$2'"; }
mongo() { python3 -c "from pymongo import MongoClient; c = MongoClient('$uri', directConnection=True); $1"; }
contents() { mongo "print(c.shop.command('dbHash')['md5'], c.shop.orders.count_documents({}), c.shop.blobs.count_documents({}))"; }
backup() { pbm backup --wait -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["name"])'; }
restore() { pbm restore "$1" --wait --yes >out 2>&1 || { cat out; die "pbm restore $1"; }; }
restart() { systemctl restart pbm-agent && until_true 20 agent_is_ready; }
# The agent has been started by systemd since the process $1 ended.
is_other() { [ "$(property MainPID)" != "$1" ] && agent_is_ready; }
pinged_since() { [ "$(property WatchdogTimestampMonotonic)" != "$1" ]; }
agent_lines() { journalctl --no-pager -b -o cat -u pbm-agent --since="@$1" SYSLOG_IDENTIFIER=pbm-agent; }
has_agent_lines() { agent_lines "$1" | grep backup; } >/dev/null
backup_is_running() { pbm status -s running -o json | grep '"type"'; } >/dev/null
agent_is_ready() { [ "$(property ActiveState)" = active ] && pbm status -s cluster | grep '127.0.0.1:27017.*pbm-agent .* ok$'; } >/dev/null

step "a mongod of this system, with access control"
useradd --system --user-group --home-dir /var/lib/mongodb mongodb
install -d -o mongodb -g mongodb -m 0755 /var/lib/mongodb
head -c 512 /dev/urandom | base64 -w0 >/etc/mongod.key
chown mongodb: /etc/mongod.key && chmod 0400 /etc/mongod.key
cat >/etc/systemd/system/mongod.service <<'UNIT'
[Service]
User=mongodb
ExecStart=/usr/bin/mongod --dbpath /var/lib/mongodb --replSet rs0 --bind_ip 127.0.0.1 --keyFile /etc/mongod.key --wiredTigerCacheSizeGB 0.25
UNIT
systemctl daemon-reload
systemctl start mongod
python3 - <<'PY'
import time
from pymongo import MongoClient
client = MongoClient("mongodb://127.0.0.1:27017", directConnection=True, serverSelectionTimeoutMS=15000)
member = {"_id": 0, "host": "127.0.0.1:27017"}
client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
end = time.time() + 30
while not client.admin.command("hello")["isWritablePrimary"]:
    assert time.time() < end, "no primary within 30 s"
    time.sleep(0.1)
# The first user can be made without one; the rights are those of the README.
client.admin.command("createUser", "root", pwd="root", roles=["root"])
client = MongoClient("mongodb://root:root@127.0.0.1:27017", directConnection=True)
anything = [{"resource": {"anyResource": True}, "actions": ["anyAction"]}]
client.admin.command("createRole", "pbmAnyAction", privileges=anything, roles=[])
roles = [{"role": role, "db": "admin"} for role in ("readWrite", "backup", "restore", "clusterMonitor", "pbmAnyAction")]
client.admin.command("createUser", "pbm", pwd="pass@word", roles=roles)
PY
mongo "import os; c.shop.orders.insert_many([{'_id': i, 'n': i % 7} for i in range(5000)]); c.shop.orders.create_index('n'); \
c.shop.blobs.insert_many([{'_id': i, 'b': os.urandom(100000)} for i in range(80)])"

step "a first installation neither enables nor starts the agent, and tells what to do"
install_package ./old.deb
grep -q 'systemctl enable --now pbm-agent' out || die "no hint: $(cat out)"
same "$(systemctl is-enabled pbm-agent || true)" disabled "is-enabled"
same "$(property ActiveState)" inactive "ActiveState"
same "$(stat -c '%U %a' $environment)" "root 600" "$environment"
getent passwd pbm >/dev/null || die "there is no user pbm"
same "$(pbm version --short)" "$(pbmbox pbm version --short)" "pbm"
for link in pbm-agent pbm-speed-test pbmctl; do $link --help >/dev/null || die "$link"; done
systemd-analyze verify --man=no pbm-agent.service 2>&1 | { ! grep pbm-agent; } || die "the unit is not clean"
dpkg --verify pbmbox | { ! grep .; } || die "dpkg --verify pbmbox"

step "without a connection string it fails, once"
! systemctl start pbm-agent 2>/dev/null || die "it started"
# A service that is going to be started again would be activating.
same "$(property ActiveState) $(property Result) $(property ExecMainStatus)" "failed exit-code 78" "state, result, exit code"

step "as the unit says: user, sandbox, readiness"
echo "PBM_MONGODB_URI='$uri'" >>$environment
install -d -o pbm -g pbm /srv/backups
sed -i 's,^\( *path:\).*,\1 /srv/backups,' /etc/pbm-storage.conf
pbm config --file /etc/pbm-storage.conf >/dev/null
systemctl enable --quiet --now pbm-agent
until_true 20 agent_is_ready
pid=$(property MainPID)
same "$(stat -c %U "/proc/$pid")" pbm "user"
same "$(awk '/^(NoNewPrivs|Seccomp|CapBnd):/ {print $2}' "/proc/$pid/status" | xargs)" "0000000000000000 1 2" "capabilities, no_new_privs, seccomp"

step "back up, drop, restore"
before=$(contents)
first=$(backup)
mongo "c.drop_database('shop')"
restore "$first"
same "$(contents)" "$before" "contents after the restore"
# Its lines carry their levels into the journal.
for level in debug info; do journalctl --no-pager -q -b -u pbm-agent --priority="$level..$level" SYSLOG_IDENTIFIER=pbm-agent | grep . >/dev/null; done

step "a storage in /tmp is refused: it would be another /tmp than everybody else's, or gone after a reboot"
sed 's,/srv/backups,/tmp/backups,' /etc/pbm-storage.conf >temporary.conf
pbm config --file temporary.conf --wait >out 2>&1 || true
! pbm backup --wait >out 2>&1 || die "a backup was made in /tmp"
grep -q 'Read-only file system' out || die "no reason is given: $(cat out)"
pbm config --file /etc/pbm-storage.conf --wait >/dev/null
until_true 20 agent_is_ready

step "a crash is followed by a new agent"
pid=$(property MainPID)
kill -KILL "$pid"
until_true 30 is_other "$pid"

step "an agent that hangs is replaced, one with nothing to do is not"
mkdir -p /run/systemd/system/pbm-agent.service.d
printf '[Service]\nWatchdogSec=5\n' >/run/systemd/system/pbm-agent.service.d/watchdog.conf
systemctl daemon-reload
restart
pid=$(property MainPID)
pinged=$(property WatchdogTimestampMonotonic)
# Three pings, each of which the deadline of 5 s needs.
for _ in 1 2 3; do
    until_true 10 pinged_since "$pinged"
    pinged=$(property WatchdogTimestampMonotonic)
done
same "$(property MainPID)" "$pid" "the agent that is well"
kill -STOP "$pid"
until_true 30 is_other "$pid"
rm /run/systemd/system/pbm-agent.service.d/watchdog.conf
systemctl daemon-reload

step "a log file, rotated"
echo "LOG_PATH=/var/log/pbm/pbm-agent.log" >>$environment
restart
grep -q 'serving 127.0.0.1:27017' /var/log/pbm/pbm-agent.log || die "the log file has no line of the start"
logrotate --force /etc/logrotate.d/pbmbox
backup >/dev/null
until_true 10 grep -q backup /var/log/pbm/pbm-agent.log
! grep -q 'serving 127.0.0.1:27017' /var/log/pbm/pbm-agent.log || die "the log file was not rotated"
sed -i /LOG_PATH/d $environment

step "a settings file, reloaded"
sed -e "s,^mongodb-uri:.*,mongodb-uri: $uri," -e 's,^  level:.*,  level: E,' $samples/pbm-agent.yml | install -o pbm -m 0400 /dev/stdin /etc/pbm-agent.yml
sed -i "s,^PBM_MONGODB_URI=.*,PBM_AGENT_OPTIONS='--config /etc/pbm-agent.yml'," $environment
restart
since=$(date +%s)
backup >/dev/null
same "$(agent_lines "$since" | wc -l)" 0 "lines at level E"
sed -i 's,^  level:.*,  level: D,' /etc/pbm-agent.yml
systemctl reload pbm-agent
backup >/dev/null
until_true 10 has_agent_lines "$since"

step "the connection string as a credential, by the recipe's own words"
sed -i /^PBM_AGENT_OPTIONS/d $environment
install -d -m 0700 /etc/pbm
printf %s "$uri" | install -m 0600 /dev/stdin /etc/pbm/uri
install -D -m 0644 $samples/pbm-agent.service.d/credentials.conf $dropins/credentials.conf
systemctl daemon-reload
restart
! tr '\0' '\n' <"/proc/$(property MainPID)/environ" | grep -q pass%40word || die "the password is in the environment"
printf %s "$uri" | systemd-creds encrypt --name=pbm-mongodb-uri - /etc/pbm/uri.cred 2>out || die "systemd-creds: $(cat out)"
rm /etc/pbm/uri
sed -i -e 's,^LoadCredential=,#&,' -e 's,^#LoadCredentialEncrypted=,LoadCredentialEncrypted=,' $dropins/credentials.conf
systemctl daemon-reload
restart

step "an upgrade while a backup runs disturbs neither the backup nor the settings"
pid=$(property MainPID)
pbm backup --wait --limit-upload 1MiB -o json >running &
client=$!
until_true 20 backup_is_running
install_package ./new.deb
same "$(property MainPID)" "$pid" "the agent's process"
grep -q 'systemctl restart pbm-agent' out || die "no hint: $(cat out)"
grep -q 'path: /srv/backups' /etc/pbm-storage.conf || die "the upgrade changed /etc/pbm-storage.conf"
wait $client || die "the backup during the upgrade failed: $(cat running)"
restart
same "$(readlink "/proc/$(property MainPID)/exe")" /usr/bin/pbmbox "the executable after the restart"
mongo "c.drop_database('shop')"
restore "$(python3 -c 'import json; print(json.load(open("running"))["name"])')"
same "$(contents)" "$before" "contents after the upgrade"
last=$(backup)

step "removal stops the agent and keeps settings, purge keeps backups and data"
apt-get remove -y -qq pbmbox </dev/null >out 2>&1 || { cat out; die "apt-get remove"; }
! grep -qx pbm-agent /proc/[0-9]*/comm || die "the agent still runs"
[ ! -e /usr/bin/pbm ] || die "/usr/bin/pbm is still there"
[ -e $environment ] && [ -e /etc/pbm-storage.conf ] || die "settings are gone"
[ ! -e /etc/systemd/system/multi-user.target.wants/pbm-agent.service ] || die "the unit is still enabled"
apt-get purge -y -qq pbmbox </dev/null >out 2>&1 || { cat out; die "apt-get purge"; }
for file in $environment /etc/pbm-storage.conf /etc/logrotate.d/pbmbox /etc/needrestart/conf.d/pbm-agent.conf /var/log/pbm /var/lib/pbm; do
    [ ! -e "$file" ] || die "purge left $file"
done
for name in "$first" "$last"; do [ -s "/srv/backups/$name.pbm.json" ] || die "the backup $name is gone"; done
same "$(contents)" "$before" "contents after the purge"
getent passwd pbm >/dev/null || die "the user is gone, and files may belong to it"

step "in the place of the original's package, its settings are taken over without a question"
rm -r $dropins /etc/pbm
install_package ./original.deb
printf "PBM_MONGODB_URI='%s'\n" "$uri" >$environment
echo '# edited' >>/etc/pbm-storage.conf
# apt would remove the original first; dpkg unpacks into its place.
dpkg -i ./old.deb </dev/null >out 2>&1 || { cat out; die "dpkg -i"; }
dpkg --verify pbmbox | { ! grep -v ' c '; } || die "dpkg --verify pbmbox"
! dpkg-query -W -f '${db:Status-Abbrev}' percona-backup-mongodb | grep -q ^ii || die "both are installed"
apt-get purge -y -qq percona-backup-mongodb </dev/null >out 2>&1 || { cat out; die "apt-get purge percona-backup-mongodb"; }
same "$(cat $environment)" "PBM_MONGODB_URI='$uri'" "$environment"
same "$(stat -c %a $environment)" 600 "mode of $environment"
same "$(tail -n 1 /etc/pbm-storage.conf)" '# edited' "/etc/pbm-storage.conf"
systemctl cat pbm-agent | grep ^Type=notify >/dev/null || die "the unit is not ours"
systemctl enable --quiet --now pbm-agent
until_true 20 agent_is_ready

step "as mongod's user, by the drop-in"
install -D -m 0644 $samples/pbm-agent.service.d/user-of-mongod.conf $dropins/user-of-mongod.conf
sed -i 's/=mongod$/=mongodb/' $dropins/user-of-mongod.conf
chown -R mongodb: /srv/backups
systemctl daemon-reload
restart
same "$(stat -c %U "/proc/$(property MainPID)")" mongodb "user"
mongo "c.drop_database('shop')"
restore "$last"
same "$(contents)" "$before" "contents"
backup >/dev/null
step "done"
