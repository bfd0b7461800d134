#!/bin/sh
# A TEST TOOL, not a way to run Playhouse. Builds stand-ins for the images that the Dockerfile and
# docker-compose.yaml start from, under the names they use, for a machine that reaches no registry
# of images. They are made of Debian's packages, this machine's Rust and the Node of `make setup`,
# and trust the certificates that this machine trusts. What they cannot show is what the real ones
# bring: Ubuntu, Playwright's own builds of the browsers.
#
# Images that are there already are kept. Remove all of them afterwards: they shadow the real ones.
#
# usage: tests/containers/stand-ins.sh build|remove
# Needs root, debootstrap, a running dockerd, and what `make setup` installs.
set -eu

cd "$(dirname "$0")/../.."
# shellcheck source=scripts/versions.env
. scripts/versions.env
export DOCKER_BUILDKIT=1

# Where this machine's own packages come from.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)}
debian=playhouse-stand-in/debian:bookworm
label=org.playhouse.stand-in
node=.tools/playwright-$PLAYWRIGHT_VERSION/playwright/driver

say() {
    printf 'stand-ins: %s\n' "$*" >&2
}

missing() {
    ! docker image inspect "$1" >/dev/null 2>&1
}

# build NAME CONTEXT: an image from the Dockerfile on standard input.
build() {
    say "building $1 ..."
    docker build --quiet --label "$label=yes" --tag "$1" --file - "$2" >/dev/null
}

remove() {
    docker image ls --quiet --filter "label=$label" | sort -u | xargs -r docker image rm --force >/dev/null
    say "removed"
}

base() {
    say "building $debian with debootstrap ..."
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "$mirror" >"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        exit 1
    }
    rm -f "$root.log"
    # Whoever sits between this machine and the package registries sits before a build as well.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    echo cafile=/etc/ssl/certs/ca-certificates.crt >"$root/etc/npmrc"
    if [ -f "${CARGO_HOME:-$HOME/.cargo}/config.toml" ]; then
        install -D -m 644 "${CARGO_HOME:-$HOME/.cargo}/config.toml" "$root/usr/local/cargo/config.toml"
    fi
    tar -C "$root" -c . | docker import --change "LABEL $label=yes" - "$debian" >/dev/null
    rm -rf "$root"
    trap - EXIT
}

# Rust's image: Debian with a C compiler, and the toolchain in the folders that cargo caches in.
rust() {
    build rust:1-bookworm "$(rustc --print sysroot)" <<EOF
FROM $debian
RUN apt-get update && apt-get install -y --no-install-recommends build-essential
COPY bin /usr/local/cargo/bin
COPY lib /usr/local/cargo/lib
ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EOF
}

# Distroless: a few packages' files, a user, no shell.
distroless() {
    build gcr.io/distroless/cc-debian12:nonroot tests/containers <<EOF
FROM $debian AS debian
# Where the files really are: /lib and its like are links into /usr.
RUN mkdir /distroless && cd / \
    && dpkg -L base-files libc6 libgcc-s1 | while read -r path; do \
           [ -f "\$path" ] && echo ".\$(readlink -f "\${path%/*}")/\${path##*/}"; \
       done | tar -c -T - | tar -x -C /distroless
RUN cd /distroless && for link in bin sbin lib lib64; do ln -s "usr/\$link" "\$link"; done \
    && mkdir -p etc/ssl/certs home/nonroot tmp && chmod 1777 tmp && chown 65532:65532 home/nonroot \
    && cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ \
    && echo 'root:x:0:0:root:/root:/sbin/nologin' >etc/passwd \
    && echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >>etc/passwd \
    && echo 'root:x:0:' >etc/group && echo 'nonroot:x:65532:' >>etc/group
FROM scratch
COPY --from=debian /distroless /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532
WORKDIR /home/nonroot
EOF
}

# Playwright's image: Node with npm, a browser, a user, and no playwright-core. Debian's browser
# is not where Playwright's is, but where the worker looks as well.
playwright() {
    build "mcr.microsoft.com/playwright:v$PLAYWRIGHT_VERSION-noble" "$node" <<EOF
FROM $debian
RUN apt-get update && apt-get install -y --no-install-recommends \
    npm libatomic1 chromium-headless-shell fonts-liberation
COPY node /usr/local/bin/node
RUN adduser --uid 1001 --disabled-password --gecos '' pwuser && mkdir -m 777 /ms-playwright
ENV LANG=C.UTF-8 LC_ALL=C.UTF-8 PLAYWRIGHT_BROWSERS_PATH=/ms-playwright
EOF
}

# Redis' image answers its network without a password; Debian's does so only when told.
redis() {
    build redis:7 tests/containers <<EOF
FROM $debian
RUN apt-get update && apt-get install -y --no-install-recommends redis-server redis-tools
RUN printf '#!/bin/sh\nexec "\$@" --protected-mode no\n' >/usr/local/bin/entry && chmod +x /usr/local/bin/entry
WORKDIR /data
ENTRYPOINT ["entry"]
CMD ["redis-server"]
EOF
}

case ${1:-} in
build)
    missing "$debian" && base
    missing rust:1-bookworm && rust
    missing gcr.io/distroless/cc-debian12:nonroot && distroless
    missing "mcr.microsoft.com/playwright:v$PLAYWRIGHT_VERSION-noble" && playwright
    missing redis:7 && redis
    say "ready"
    ;;
remove) remove ;;
*)
    echo "usage: tests/containers/stand-ins.sh build|remove" >&2
    exit 2
    ;;
esac
