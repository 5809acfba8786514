# Runs with mounts and processes of its own: they end with it.
set -eu
system=$1 scratch=$2 packages=$3 downloads=$4
export MAJOR=$5 PORT=$6 VERSION=$7

# Changes go into the scratch folder, so the clean system stays clean.
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
mount -t overlay overlay -o "lowerdir=$system,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$downloads" "$root/var/cache/apt/archives"
mkdir "$root/packages"
mount --bind -o ro "$packages" "$root/packages"
cp /etc/resolv.conf "$root/etc/resolv.conf"

# Downloads are kept for the next time.
echo 'APT::Keep-Downloaded-Packages "true"; APT::Sandbox::User "root";' >"$root/etc/apt/apt.conf.d/keep"

exec chroot "$root" bash -euxo pipefail <<'INSIDE'
apt-get update
(cd /packages && sha256sum --check SHA256SUMS)
apt-get install -y --no-install-recommends /packages/*.deb
# systemd only to read the unit.
apt-get install -y --no-install-recommends systemd

: The cluster that the package postgresql has created
echo "shared_preload_libraries = 'pg_workflow'" >"/etc/postgresql/$MAJOR/main/conf.d/pg_workflow.conf"
pg_ctlcluster "$MAJOR" main restart
export PGPORT=$(pg_lsclusters --no-header | awk '{ print $3 }')
export DATABASE_URL="host=/var/run/postgresql port=$PGPORT user=postgres dbname=workflow"
as_postgres() { runuser -u postgres -- "$@"; }
query() { as_postgres psql --no-psqlrc --set=ON_ERROR_STOP=1 --quiet --tuples-only --no-align "$@"; }
query --command='CREATE DATABASE workflow'

: A DAG, a run, a transition
query --dbname=workflow <<'SQL' | tee /tmp/answers
CREATE EXTENSION pg_workflow;
SELECT workflow.create_dag('etl') AS dag \gset
SELECT workflow.create_dag_run(:'dag') AS run \gset
SELECT id AS task FROM workflow.create_task_instances(:'run', ARRAY['extract']) \gset
SELECT 'moved to version', workflow.transition_task_instance(:'task', 'queued', 'running');
SELECT 'preloaded', workflow.is_preloaded();
SELECT 'installed', extversion FROM pg_extension WHERE extname = 'pg_workflow';
SELECT 'disagreements', count(*) FROM workflow.verify();
SQL
diff /tmp/answers - <<ANSWERS
moved to version|2
preloaded|t
installed|$VERSION
disagreements|0
ANSWERS

: The server
test "$(workflow-server --version)" = "workflow-server $VERSION"
as_postgres workflow-server verify
as_postgres workflow-server list dags --json | grep '"name":"etl"'
bash -n /usr/share/bash-completion/completions/workflow-server
# Not by runuser, which would take the signal for itself.
setpriv --reuid=postgres --regid=postgres --init-groups workflow-server serve --no-relay --listen "127.0.0.1:$PORT" &
server=$!
until workflow-server health --listen "127.0.0.1:$PORT"; do
    kill -0 $server
    sleep 0.1
done
kill $server
wait $server

: The documents
for package in "postgresql-$MAJOR-pg-workflow" pg-workflow-server; do
    (cd "/usr/share/doc/$package" && grep -o '](docs/[^)#]*' README.md | cut --characters=3- | xargs ls)
done
test -f "$(sed -n 's|^Documentation=file:||p' /usr/lib/systemd/system/workflow-server.service)"

: The service
systemd-analyze verify --man=no workflow-server.service
systemd-analyze security --no-pager --offline=true --threshold=20 workflow-server.service | tail -1
test "$(stat --format='%a %U' /etc/default/workflow-server)" = '600 root'
dpkg --verify "postgresql-$MAJOR-pg-workflow" pg-workflow-server

: Removal
apt-get remove -y "postgresql-$MAJOR-pg-workflow" pg-workflow-server
test ! -e /usr/bin/workflow-server -a ! -e "/usr/lib/postgresql/$MAJOR/lib/pg_workflow.so"
test -z "$(find "/usr/share/postgresql/$MAJOR/extension" -name 'pg_workflow*')"
test -e /etc/default/workflow-server
apt-get purge -y pg-workflow-server
test ! -e /etc/default/workflow-server
pg_ctlcluster "$MAJOR" main stop
INSIDE
