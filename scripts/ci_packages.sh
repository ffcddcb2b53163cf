#!/usr/bin/env bash
# What the tests need beside Python, where it is not there: PostgreSQL 15, which they start themselves.
set -euo pipefail

compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null && exit 0
command -v initdb >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "ci: PostgreSQL is missing, and only root can install it: apt-get install postgresql-15" >&2
    exit 1
fi
echo "ci: installing PostgreSQL"
export DEBIAN_FRONTEND=noninteractive
# The tests make a cluster of their own; the one that Debian would start is not wanted.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
apt-get -qq update
apt-get -qq install -y --no-install-recommends postgresql-15 >/dev/null
