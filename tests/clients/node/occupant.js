// A program in the place of Node and a browser: what a session would be that had taken them over
// wholly. Prints one JSON line for each attempt: what was tried, and what came of it.

const fs = require("node:fs");
const net = require("node:net");
const { execFileSync } = require("node:child_process");
const [secret, outside, abstract, worker] = process.argv.slice(2);
const home = require("node:os").userInfo().homedir;
const own = process.env.TMPDIR;

async function attempt(what, does) {
  let answer;
  try {
    answer = await does();
  } catch (error) {
    answer = "refused: " + error.code;
  }
  console.log(JSON.stringify({ by: "program in Node's place", attempt: what, answer }));
}

const connected = (path) =>
  new Promise((resolve, reject) => {
    const socket = net.connect(path, () => resolve("connected"));
    socket.once("error", reject);
  });

function read(path) {
  fs.readFileSync(path);
  return "read";
}

function written(path) {
  fs.writeFileSync(path, "#!/bin/sh\n", { mode: 0o755 });
  return "written";
}

// By the one way there is to a folder whose name nobody knows: the working directory of whoever
// lives in it.
async function otherBrowser() {
  let refused;
  for (const pid of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      return await connected(`/proc/${pid}/cwd/server.sock`);
    } catch (error) {
      // Whose folder can be looked into and has no socket is no browser.
      if (error.code === "EACCES") refused = error;
    }
  }
  if (refused) throw refused;
  return "nobody there";
}

async function main() {
  await attempt("open a TCP port", () =>
    new Promise((resolve, reject) => {
      const server = net.createServer().listen(0, "127.0.0.1", () => resolve("opened"));
      server.once("error", reject);
    }),
  );
  await attempt("read `/etc/hostname`", () => read("/etc/hostname"));
  await attempt("read a secret beside the configuration", () => read(secret));
  await attempt("read `environ` of the worker in `/proc`", () => read(`/proc/${worker}/environ`));
  await attempt("read `cmdline` of the worker in `/proc`", () => read(`/proc/${worker}/cmdline`));
  await attempt("list its user's home", () => (fs.readdirSync(home), "listed"));
  await attempt("write into its own folder", () => written(own + "/program"));
  await attempt("run a program that it wrote", () => (execFileSync(own + "/program"), "run"));
  await attempt("write elsewhere", () => written(outside));
  await attempt("write into `/dev/shm`", () => {
    const path = `/dev/shm/occupant-${process.pid}`;
    written(path);
    fs.unlinkSync(path);
    return "written";
  });
  await attempt("signal the worker", () => (process.kill(Number(worker), 0), "done"));
  await attempt("connect to an abstract socket", () => connected("\0" + abstract));
  await attempt("connect to another browser's server", otherBrowser);
  process.exit(0);
}

main();
