# Two images from one build:
#
#   proxy    the load balancer: the binary and what it links to, no shell
#   worker   one worker on Playwright's own image, with the browsers that image brings
#
# The version of Playwright is pinned in scripts/versions.env; docker-compose.yaml passes it on.
# docs/containers.md says how the images are run.
ARG PLAYWRIGHT_VERSION

FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# The benches are not built, but Cargo.toml names them.
COPY benches benches
COPY src src
# What cargo downloads and builds stays in caches of the builder. The symbols stay in the binary,
# for the backtrace of a panic.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin playhouse \
    && strip --strip-debug -o /playhouse target/release/playhouse

# Of the same Debian as the build, for its C library.
FROM gcr.io/distroless/cc-debian12:nonroot AS proxy
COPY --from=build /playhouse /usr/local/bin/playhouse
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["playhouse", "healthcheck"]
ENTRYPOINT ["playhouse"]
CMD ["proxy"]

FROM mcr.microsoft.com/playwright:v${PLAYWRIGHT_VERSION}-noble AS worker
ARG PLAYWRIGHT_VERSION
# The image has the browsers of this version, and no Playwright to drive them.
RUN --mount=type=cache,target=/tmp/npm \
    npm install --cache /tmp/npm --global --prefix /usr/local --no-audit --no-fund --ignore-scripts \
        playwright-core@${PLAYWRIGHT_VERSION}
COPY --from=build /playhouse /usr/local/bin/playhouse
# Works with deploy/chromium-seccomp.json alone: Docker's own profile has no user namespaces.
ENV PLAYHOUSE_WORKER_SANDBOX=true
# The image's pwuser, as a number: then an orchestrator sees that it is not root.
USER 1001:1001
# The root may be read-only; what is written is below /tmp.
ENV HOME=/tmp
EXPOSE 3131
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["playhouse", "healthcheck"]
# The worker is process 1 of its container and buries what its browsers leave behind.
ENTRYPOINT ["playhouse"]
CMD ["worker"]
