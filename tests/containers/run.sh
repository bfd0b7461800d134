#!/bin/sh
# Runs the tutorial of docs/containers.md from `up -d` to `down` and looks at what comes of it, on
# stand-ins for the base images (see stand-ins.sh). Not part of `make test`: it needs root, takes
# port 8080, and compiles a release in a container, which takes many minutes the first time.
#
# Needs Debian's docker.io, docker-compose and debootstrap. Starts a dockerd of its own when none
# runs, and ends it again.
set -eu

cd "$(dirname "$0")/../.."
# Debian's docker before any other: one without the plugin buildx cannot use the daemon's BuildKit.
export PATH="/usr/bin:$PATH" DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1

. scripts/versions.env
scripts/setup.sh test

for tool in dockerd docker debootstrap; do
    command -v "$tool" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin" command -v "$tool" >/dev/null || {
        echo "$tool is missing: apt-get install docker.io docker-compose debootstrap" >&2
        exit 1
    }
done
export PATH="$PATH:/usr/sbin"

if docker compose version >/dev/null 2>&1; then
    compose="docker compose"
else
    compose=docker-compose
fi
compose="$compose --project-name playhouse-test"

own=
clean_up() {
    status=$?
    # Sessions are not waited for here: this is the way out of a failure as well.
    $compose down --timeout 1 >/dev/null 2>&1 || true
    if [ -n "$own" ]; then
        kill "$own" && wait "$own" || true
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if ! docker info >/dev/null 2>&1; then
    # What is built stays there for the next run; `rm -rf` of the folder forgets it.
    dockerd --data-root "${DOCKER_DATA:-/var/tmp/playhouse-docker}" >.tools/dockerd.log 2>&1 &
    own=$!
    tries=0
    until docker info >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 60 ] || ! kill -0 "$own" 2>/dev/null; then
            tail -n 20 .tools/dockerd.log >&2
            exit 1
        fi
        sleep 1
    done
fi

tests/containers/stand-ins.sh build
$compose build >.tools/containers-build.log 2>&1 || {
    tail -n 40 .tools/containers-build.log >&2
    exit 1
}
# shellcheck disable=SC2086 # a command with its arguments
PYTHONPATH=.tools/playwright-$PLAYWRIGHT_VERSION .tools/python/bin/python tests/containers/tutorial.py $compose
