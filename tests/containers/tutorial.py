"""The tutorial of docs/containers.md, done and looked at: a grid of containers from `up -d` to `down`.

usage: tests/containers/run.sh, which prepares what this needs: the images, Playwright, dockerd.

Prints every command and what came of it, and fails at the first thing that is not as promised.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request

from playwright.async_api import async_playwright

COMPOSE = sys.argv[1:]
GRID = "ws://localhost:8080"
PAGE = "data:text/html,<title>Hello</title><h1>Hello, grid</h1>"
PATIENCE = 90


def say(text):
    print(text, flush=True)


def run(command, quiet=False):
    result = subprocess.run(command, text=True, capture_output=True, timeout=600)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    if not quiet:
        say(result.stdout.rstrip())
    return result.stdout


def compose(*arguments, quiet=False):
    if not quiet:
        say("$ docker compose " + " ".join(arguments))
    return run([*COMPOSE, *arguments], quiet)


def containers(service):
    ids = compose("ps", "-q", service, quiet=True).split()
    return [json.loads(run(["docker", "inspect", one], quiet=True))[0] for one in ids]


def active_in_redis():
    lines = compose(
        "exec", "-T", "redis", "redis-cli", "HGETALL", "cluster:active_connections", quiet=True
    ).split()
    return dict(zip(lines[::2], map(int, lines[1::2])))


def active_at_proxy():
    with urllib.request.urlopen("http://localhost:8080/metrics", timeout=10) as answer:
        return json.load(answer)["activeConnections"]


def status():
    return json.loads(
        compose("exec", "-T", "proxy", "playhouse", "status", "--json", quiet=True)
    )


def serving():
    workers = status()["workers"]
    return [it for it in workers if it["status"] == "available" and it["healthy"]]


async def eventually(what, probe):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if found := await asyncio.to_thread(probe):
                return found
            problem = "not yet"
        except (OSError, SystemExit) as error:
            problem = error
        if time.monotonic() > deadline:
            raise SystemExit(f"this did not come to pass: {what}: {problem}")
        await asyncio.sleep(0.3)


def check(claim, holds):
    if not holds:
        raise SystemExit(f"NOT SO: {claim}")
    say(f"  ok: {claim}")


class Session:
    """One client that works until it is told to stop."""

    def __init__(self):
        self.lost = False
        self.rounds = 0

    async def open(self, playwright):
        self.browser = await playwright.chromium.connect(GRID)
        self.browser.on("disconnected", lambda _: setattr(self, "lost", True))
        self.page = await self.browser.new_page()
        await self.page.goto(PAGE)
        assert await self.page.title() == "Hello"

    async def work(self, until):
        while not until.is_set():
            assert await self.page.evaluate("() => 6 * 7") == 42
            self.rounds += 1
            await asyncio.sleep(0.2)

    async def close(self):
        was_lost = self.lost
        await self.browser.close()
        self.lost = was_lost


async def fifteen_at_once(playwright):
    sessions = [Session() for _ in range(15)]
    await asyncio.gather(*(session.open(playwright) for session in sessions))
    return sessions


def walls_are_up():
    """What a container is not allowed, seen from outside and from within."""
    for service in ["proxy", "worker"]:
        container = containers(service)[0]
        check(f"{service} is not root", container["Config"]["User"] not in ("", "root", "0"))
    published = run(["docker", "ps", "--format", "{{.Ports}}"], quiet=True)
    published = [port for line in published.split("\n") for port in line.split(", ") if "->" in port]
    check(f"only 8080 is published, on loopback: {published}", published == ["127.0.0.1:8080->8080/tcp"])
    worker = containers("worker")[0]
    processes = run(["docker", "top", worker["Id"], "-eo", "pid,args"], quiet=True)
    check("Chromium runs with its sandbox", "--no-sandbox" not in processes and "--type=zygote" in processes)
    profiles = [it for it in worker["HostConfig"]["SecurityOpt"] if it.startswith("seccomp")]
    check("the worker has the seccomp profile of this repository", "unshare" in str(profiles))
    seals = {it["seal"] for it in serving()}
    check(f"browsers are sealed: {seals}", seals == {"full"})
    for service in ["redis", "proxy", "worker"]:
        limits = containers(service)[0]["HostConfig"]
        check(f"the root of {service} is read-only", limits["ReadonlyRootfs"])
        check(f"{service} has a limit of memory and of processes", limits["Memory"] > 0 and limits["PidsLimit"] > 0)
        check(f"{service} has no capabilities", limits["CapDrop"] == ["ALL"] and not limits["CapAdd"])


def sizes():
    """What the images and the idle containers take. The bases are stand-ins."""
    say(run(["docker", "images", "--format", "{{.Repository}} {{.Size}}", "--filter", "reference=playhouse-*"], quiet=True).rstrip())
    say(run(["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"], quiet=True).rstrip())


async def one_machine():
    """The grid in one container."""
    alone = COMPOSE[:-2] + ["-f", "deploy/one-machine.yaml", "--project-directory", "."] + COMPOSE[-2:]
    say("# one container, without Redis")
    run([*alone, "up", "-d"], quiet=True)

    def workers():
        told = run([*alone, "exec", "-T", "grid", "playhouse", "status", "--json"], quiet=True)
        return [it for it in json.loads(told)["workers"] if it["status"] == "available"]

    await eventually("two workers serve", lambda: len(workers()) == 2)
    async with async_playwright() as playwright:
        sessions = [Session() for _ in range(10)]
        await asyncio.gather(*(session.open(playwright) for session in sessions))
        check("ten sessions at once", active_at_proxy() == 10)
        for session in sessions:
            await session.close()
    run([*alone, "down"], quiet=True)


def inside(container, script):
    return run(["docker", "exec", container["Id"], "sh", "-c", script], quiet=True)


ZOMBIES = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true"
# Every Chromium process. The brackets keep the pattern from finding the shell that looks for it.
KILL_BROWSER = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/usr/lib/chromium/\\|headless[_]shell' && kill -9 ${p#/proc/}; done; true"


async def buries_its_dead():
    worker = containers("worker")[0]
    before = {it["id"] for it in serving()}
    inside(worker, KILL_BROWSER)
    await eventually(
        "a killed browser is replaced",
        lambda: len(serving()) == 3 and {it["id"] for it in serving()} != before,
    )
    await eventually("no zombies", lambda: int(inside(worker, ZOMBIES)) == 0)
    check("a killed browser is replaced and process 1 buried it", True)


async def main():
    services = compose("--profile", "browsers", "config", "--services", quiet=True).split()
    check("a profile has the other browsers", {"firefox", "webkit"} <= set(services))
    started = time.monotonic()
    compose("up", "-d")
    await eventually("one worker serves", lambda: len(serving()) == 1)
    async with async_playwright() as playwright:
        first = Session()
        await first.open(playwright)
        say(f"  the first session has its page {time.monotonic() - started:.1f} s after `up -d`")
        await first.close()
    sizes()
    compose("up", "-d", "--scale", "worker=3")
    await eventually("three workers serve", lambda: len(serving()) == 3)
    endpoints = {it["endpoint"] for it in serving()}
    check(f"each worker advertises an address of its own: {sorted(endpoints)}", len(endpoints) == 3)
    await eventually(
        "every container is healthy",
        lambda: all(
            it["State"]["Health"]["Status"] == "healthy"
            for service in ["redis", "proxy", "worker"]
            for it in containers(service)
        ),
    )
    check("redis, proxy and three workers are healthy", len(containers("worker")) == 3)
    walls_are_up()
    await buries_its_dead()

    async with async_playwright() as playwright:
        say("# 15 sessions at once from Python, outside of the containers")
        sessions = await fifteen_at_once(playwright)
        say("$ docker compose exec redis redis-cli HGETALL cluster:active_connections")
        say(json.dumps(active_in_redis(), indent=2))
        counts = sorted(count for count in active_in_redis().values() if count)
        check("every worker is full", counts == [5, 5, 5])
        say("$ curl localhost:8080/metrics")
        say(json.dumps({"activeConnections": active_at_proxy()}))
        check("the proxy counts the same", active_at_proxy() == 15)
        for session in sessions:
            await session.close()
        await eventually("all seats are free", lambda: active_at_proxy() == 0)

        say("# scale down to one worker, under load")
        sessions = await fifteen_at_once(playwright)
        over = asyncio.Event()
        works = [asyncio.create_task(session.work(over)) for session in sessions]
        scaling = asyncio.create_task(
            asyncio.to_thread(compose, "up", "-d", "--scale", "worker=1", quiet=True)
        )
        draining = await eventually(
            "two workers drain",
            lambda: [it for it in status()["workers"] if it["status"] == "draining"][1:]
            and status()["workers"],
        )
        for worker in draining:
            say(f"  {worker['id']} {worker['status']} {worker['activeSessions']} sessions")
        rounds = [session.rounds for session in sessions]
        await asyncio.sleep(12)  # longer than Docker's own patience with a container, 10 s
        check("15 sessions go on while two workers drain", active_at_proxy() == 15)
        check(
            "every one of them works",
            all(session.rounds > before for session, before in zip(sessions, rounds)),
        )
        over.set()
        await asyncio.gather(*works)
        check("none was cut", not any(session.lost for session in sessions))
        for session in sessions:
            await session.close()
        await scaling
        say("$ docker compose up -d --scale worker=1")
        check("one worker is left", len(containers("worker")) == 1)
        await eventually("one worker serves", lambda: len(status()["workers"]) == 1)
        last = Session()
        await last.open(playwright)
        await last.close()
        check("it serves", True)
        await eventually("all seats are free", lambda: active_at_proxy() == 0)

    lines = compose("logs", "--no-color", "proxy", quiet=True).split("\n")
    starts = [line for line in lines if "session started" in line]
    say("$ docker compose logs -f proxy")
    say("\n".join(lines[:2] + starts[:3]))
    check(f"the log names a worker for each of {len(starts)} sessions", len(starts) == 32)
    compose("down")
    await one_machine()
    left = run(["docker", "ps", "--quiet"], quiet=True)
    check("nothing is left", left == "")


asyncio.run(main())
