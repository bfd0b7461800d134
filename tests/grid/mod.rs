//! The grid as its users meet it.
//!
//! * [`tutorial`]: the examples, in Python and Node: sessions at once, in a row, a picture.
//! * [`staircase`]: the lifetime limit: workers are replaced one after another.
//! * [`capacity`]: one worker is recycled again and again, and its seats are there all the while.
//! * [`recycles`]: many recycles in a row, and nothing of them is left.
//! * [`rolling`]: every worker and every proxy is restarted, under load.
//! * [`many_proxies`]: three proxies and one Redis, and all that can befall them.
//! * [`launch`]: launch options of clients, and what of them is refused.
//! * [`agents`]: Playwright's command line for agents, and its MCP server.
//! * [`demand`]: what an autoscaler is told, from no worker at all to full.
//! * [`seal`]: sessions that try to leave their browser.
//! * [`queue`]: more clients than seats.
//! * [`kills`]: browsers, servers, workers and the grid itself die by SIGKILL.
//! * [`stages`]: the same at each stage of a recycle.
//! * [`confined`]: a grid that may do nothing, as in a container.
//! * [`gateway`]: a worker's one port, and what is told there.
//! * [`broken`]: browsers that are stopped, or have ceased to start pages.
//! * [`goodbyes`]: every end that is ours, as its user reads it.
//! * [`silence`]: sessions that say nothing, through what cuts silent connections.
//! * [`answers`]: what the data port says to each kind of request.
//! * [`blame`]: whose fault it is: the client's, ours or the worker's, and who pays.
//! * [`away`]: workers that come back in a moment.
//! * [`unreachable`]: workers that a proxy does not reach, and how it says so.
//! * [`missing`]: machines and settings that lack something.
//! * [`chaos`]: clients that hang up at any point, and the counts after them.
//! * [`hostile`]: clients that die, stall, or never were clients.
//! * [`front_door`]: what both ports bear from strangers.
//! * [`in_front`]: balancers and proxies in front of the data port.
//! * [`logs`]: what the log says, never says, and a log that nobody reads.
//! * [`versions`]: Playwright versions and browsers that do not match.
//! * [`names`]: workers whose names stand for other addresses than before.
//! * [`suite`]: Playwright's own test runner, with everything on.
//! * [`dashboard`]: the operator's page, in a browser of the grid itself.
//! * [`live`]: what operators see of a session, and who may not.
//! * [`operations`]: reloads, upgrades, tenants, TLS, and all that is wrong on purpose.
//! * [`words`]: the language of error texts, which our checks do not touch.
//! * [`kubernetes`]: what a cluster is told of the pods that workers run in.
//! * [`scale_in`]: which pods a cluster takes away, and what becomes of their sessions.
//! * [`scaling`]: the demand of a pool, asked as KEDA asks.
//! * [`metrics`]: what curl and Prometheus are told.
//! * [`health`]: what `playhouse healthcheck` says.

mod agents;
mod answers;
mod away;
mod blame;
mod broken;
mod capacity;
mod cdp;
mod chaos;
mod confined;
mod dashboard;
mod demand;
mod front_door;
mod gateway;
mod goodbyes;
mod health;
mod hostile;
mod in_front;
mod kills;
mod kubernetes;
mod launch;
mod live;
mod logs;
mod many_proxies;
mod metrics;
mod missing;
mod names;
mod operations;
mod own;
mod queue;
mod recycles;
mod rolling;
mod scale_in;
mod scaling;
mod seal;
mod silence;
mod stages;
mod staircase;
mod suite;
mod tutorial;
mod unreachable;
mod versions;
mod words;
