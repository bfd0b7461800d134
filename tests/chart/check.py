"""Checks the Helm chart: what it makes of many values, against the schemas of Kubernetes.

usage: python tests/chart/check.py HELM PROMTOOL PLAYHOUSE     (`make chart` does it)

* `helm lint --strict`;
* the chart is rendered with each file of `values/` and with each value of the chart flipped once;
  every manifest has to satisfy the strict schemas of Kubernetes, all versions from OLDEST on for the
  files, the last for the flips;
* each name in `values.yaml` is misspelt once, and each file of `invalid/` tried: that has to fail,
  the latter with the words of its first line;
* the files of `values/` give what is in `golden/`, the plain manifests what is in `deploy/kubernetes`
  (REWRITE=1 writes them);
* `playhouse check` takes every configuration that the chart makes;
* alert rules are checked and tested by promtool.

Custom resources are checked against the definitions in the folder CRDS, ../shared/crds unless given;
without that folder they are left out, and the last line says so.
"""

import concurrent.futures
import copy
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate.utils
import yaml

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
CHART = ROOT / "deploy/helm/playhouse"
PLAIN = ROOT / "deploy/kubernetes/playhouse.yaml"
CRDS = pathlib.Path(os.environ.get("CRDS", ROOT.parent / "shared/crds"))
REWRITE = os.environ.get("REWRITE") == "1"
OLDEST = 29
HELM, PROMTOOL, PLAYHOUSE = sys.argv[1:4]

# What a text is flipped to, where any other text would be wrong.
FLIPS = {
    "auth.existingSecret.name": "tenants",
    "metrics.serviceMonitor.interval": "1m",
    "image.digest": "sha256:" + "0" * 64,
    "image.pullPolicy": "Always",
    "proxy.admin.existingSecret": "operators",
    "redis.existingSecret.name": "redis",
    "redis.url": "rediss://redis.example.com:6380",
    "redis.workers.url": "redis://worker@redis.example.com:6379",
    "scaling.source": "prometheus",
    "service.externalTrafficPolicy": "Local",
    "service.type": "LoadBalancer",
    "workerDefaults.browser": "firefox",
    "workerDefaults.image.digest": "sha256:" + "0" * 64,
    "workerDefaults.seccompProfile.type": "Unconfined",
    "workerDefaults.seat": "own",
    "workerDefaults.shmSize": "1Gi",
    "workerDefaults.version": "1.64.0",
    "workers.chromium.browser": "webkit",
    "workers.chromium.version": "1.64.0",
}
# A value that is off without another one.
WITH = {
    "redis.trial.enabled": {"redis": {"url": "redis://redis.example.com:6379"}},
    "gateway.enabled": {"gateway": {"parentRefs": [{"name": "public"}]}},
    "service.externalTrafficPolicy": {"service": {"type": "LoadBalancer"}},
    "service.loadBalancerSourceRanges": {"service": {"type": "LoadBalancer"}},
    "workerDefaults.spares": {"workerDefaults": {"seat": "own"}},
    "ingress.enabled": {"ingress": {"hosts": ["grid.example.com"]}},
    "ingress.className": {"ingress": {"enabled": True, "hosts": ["grid.example.com"]}},
}
LISTS = {
    "extraEnv": [{"name": "LOG_LEVEL", "value": "debug"}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "tmp", "mountPath": "/more"}],
    "tolerations": [{"key": "browsers", "operator": "Exists", "effect": "NoSchedule"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "pullSecrets": [{"name": "registry"}],
    "parentRefs": [{"name": "public", "namespace": "gateways"}],
    "hostnames": ["grid.example.com"],
    "hosts": ["grid.example.com"],
    "tls": [{"secretName": "grid-tls", "hosts": ["grid.example.com"]}],
    "adminFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
    "workerEgressExcept": ["169.254.0.0/16", "10.0.0.0/8"],
    "workerEgressExceptV6": ["fc00::/7"],
    "loadBalancerSourceRanges": ["192.0.2.0/24"],
    "workerEgressExtra": [{"ports": [{"protocol": "TCP", "port": 6379}]}],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}}],
}
MAPS = {
    "affinity": {"podAntiAffinity": {}},
    "config": {"limits": {"max_lifetime_sessions": 7}},
    "extraPodSpec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["site.example.com"]}]},
}

SCHEMA = jsonschema.Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
# Its names are the user's.
FREE = {"metrics.grafanaDashboard.labels"}

failures = []
checked = set()
left_out = set()


def helm(*arguments):
    return subprocess.run([HELM, *map(str, arguments)], capture_output=True, text=True)


def render(values, version=None):
    """The manifests, or the text of the error."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        version = ["--kube-version", f"1.{version}.0"] if version else []
        # Else the token is another one each time.
        token = ["--set", "proxy.admin.token=sesame"]
        made = helm("template", "grid", CHART, "--namespace", "browsers", "--values", file.name, *token, *version)
    if made.returncode:
        return None, made.stderr
    return made.stdout, None


def strict(schema):
    """A definition's schema that refuses what it does not name, as the API server drops it."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if isinstance(schema.get("properties"), dict) and not free:
            schema["additionalProperties"] = False
        return schema
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    return schema


def definitions():
    found = {}
    for file in sorted(CRDS.glob("*.yaml")) if CRDS.is_dir() else []:
        crd = yaml.safe_load(file.read_text())
        for version in crd["spec"]["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
            found[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = schema
    return found


CUSTOM = definitions()
NEWEST = max(int(version.split(".")[1]) for version in kubernetes_validate.utils.all_versions())


def validate(manifests, versions, what):
    for manifest in manifests:
        key = manifest["apiVersion"], manifest["kind"]
        group = key[0].split("/")[0] if "/" in key[0] else ""
        text = json.dumps(manifest, sort_keys=True).encode()
        print_ = hashlib.sha256(text).hexdigest()
        name = f"{what}: {key[1]} {manifest['metadata']['name']}"
        if "." in group and not group.endswith(".k8s.io") or group == "gateway.networking.k8s.io":
            if key not in CUSTOM:
                left_out.add(key[1])
            elif print_ not in checked:
                checked.add(print_)
                for error in jsonschema.Draft7Validator(CUSTOM[key]).iter_errors(manifest):
                    failures.append(f"{name}: {error.json_path}: {error.message}")
            continue
        for version in versions:
            if (print_, version) in checked:
                continue
            checked.add((print_, version))
            try:
                kubernetes_validate.validate(manifest, f"1.{version}", strict=True)
            except Exception as error:  # whatever it is, the manifest is not what it should be
                failures.append(f"{name} in 1.{version}: {str(error).splitlines()[0]}")


def manifests_of(text):
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def invariants(manifests, what):
    """What holds for any values."""
    for manifest in manifests:
        if manifest["kind"] != "Deployment":
            continue
        pod = manifest["spec"]["template"]["spec"]
        component = manifest["metadata"]["labels"].get("app.kubernetes.io/component")
        if component != "proxy" and pod["automountServiceAccountToken"]:
            failures.append(f"{what}: {component} has a token of the cluster")
        for container in pod["containers"]:
            context = container["securityContext"]
            if not context["readOnlyRootFilesystem"] or context["capabilities"] != {"drop": ["ALL"]}:
                failures.append(f"{what}: {component} may more than it has to")
        if not pod["securityContext"]["runAsUser"] or not pod["securityContext"]["runAsNonRoot"]:
            failures.append(f"{what}: {component} has no numeric user")


def check_configuration(manifests, what):
    for manifest in manifests:
        if manifest["kind"] != "ConfigMap":
            continue
        for name, text in manifest.get("data", {}).items():
            if not name.endswith(".yaml"):
                continue
            # Its files are in the cluster.
            configuration = {key: value for key, value in yaml.safe_load(text).items() if key != "tls"}
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(configuration, file)
                file.flush()
                ran = subprocess.run([PLAYHOUSE, "check", "--config", file.name], capture_output=True, text=True)
            if ran.returncode:
                failures.append(f"{what}: {ran.stderr.strip()}")


def leaves(values, path=()):
    for key, value in values.items():
        here = (*path, key)
        name = ".".join(here)
        if isinstance(value, dict) and value and name != "config":
            yield from leaves(value, here)
        else:
            yield here, value


def flipped(path, value):
    name, last = ".".join(path), path[-1]
    if name in FLIPS:
        return FLIPS[name]
    if last in LISTS:
        return LISTS[last]
    if last in MAPS:
        return MAPS[last]
    if isinstance(value, bool):
        return not value
    if value is None:
        return 7200
    if isinstance(value, (int, float)):
        return value / 2 if isinstance(value, float) else value + 1
    if isinstance(value, dict):
        return {"example.com/flipped": "yes"}
    if isinstance(value, str):
        return "flipped"
    raise AssertionError(f"{name}: how is it flipped?")


def put(values, path, value):
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value


def merged(a, b):
    out = copy.deepcopy(a)
    for key, value in b.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def flip(leaf):
    path, value = leaf
    name = ".".join(path)
    values = {}
    put(values, path, flipped(path, value))
    values = merged(WITH.get(name, {}), values)
    # What only shows when something is on.
    for on in ("autoscaling", "gateway", "ingress"):
        if on in path and path[-1] not in ("enabled",):
            put(values, (*path[: path.index(on) + 1], "enabled"), True)
    if path[0] == "gateway":
        values = merged({"gateway": {"parentRefs": [{"name": "public"}]}}, values)
    if path[0] == "ingress":
        values = merged({"ingress": {"hosts": ["grid.example.com"]}}, values)
    if path[0] == "metrics" and path[-1] != "enabled":
        put(values, (*path[:2], "enabled"), True)
    if path[0] == "scaling":
        put(values, ("workerDefaults", "autoscaling", "enabled"), True)
    return name, *render(values, NEWEST)


def is_taken(path, value):
    """Whether the schema takes a name that is misspelt."""
    values = {}
    put(values, (*path[:-1], path[-1] + "x"), value)
    return SCHEMA.is_valid(values)


def compare(text, golden, what):
    if REWRITE:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    elif not golden.exists() or golden.read_text() != text:
        failures.append(f"{what} is not what {golden.relative_to(ROOT)} says: REWRITE=1 make chart, and look at the difference")


def main():
    default = yaml.safe_load((CHART / "values.yaml").read_text())
    linted = helm("lint", "--strict", CHART)
    if linted.returncode:
        failures.append(linted.stdout + linted.stderr)
    scenarios = sorted((HERE / "values").glob("*.yaml"))
    wrong = sorted((HERE / "invalid").glob("*.yaml"))
    assert scenarios and wrong, "the folders are not empty"
    for file in scenarios:
        values = yaml.safe_load(file.read_text()) or {}
        for version in range(OLDEST, NEWEST + 1):
            text, error = render(values, version)
            if error:
                failures.append(f"{file.name}: {error}")
                break
            manifests = manifests_of(text)
            validate(manifests, [version], file.name)
            invariants(manifests, file.name)
        else:
            check_configuration(manifests, file.name)
            compare(text, HERE / "golden" / file.name, file.name)
    plain, error = render({"proxy": {"admin": {"existingSecret": "playhouse-admin"}}, "fullnameOverride": "playhouse"}, NEWEST)
    if error:
        failures.append(error)
    else:
        head = (
            "# Made from the chart: `REWRITE=1 make chart`. docs/kubernetes.md tells how to use it.\n"
            "# It expects the namespace `browsers` and in it the Secret `playhouse-admin`.\n"
        )
        compare(head + plain, PLAIN, "the plain manifests")
    for file in wrong:
        text = file.read_text()
        expected = text.splitlines()[0].removeprefix("# ")
        made, error = render(yaml.safe_load(text))
        if made is not None:
            failures.append(f"invalid/{file.name} is taken")
        elif expected not in error:
            failures.append(f"invalid/{file.name}: {expected!r} is not in {error}")
    every = list(leaves(default))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for name, text, error in pool.map(flip, every):
            if error:
                failures.append(f"{name} flipped: {error}")
                continue
            manifests = manifests_of(text)
            validate(manifests, [NEWEST], f"{name} flipped")
            invariants(manifests, f"{name} flipped")
    for path, value in every:
        if ".".join(path[:-1]) not in FREE and is_taken(path, value):
            failures.append(f"{'.'.join(path)}x is taken for a name")
    for arguments in (["check", "rules", CHART / "files/alerts.yaml"], ["test", "rules", HERE / "alerts_test.yaml"]):
        ran = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True)
        if ran.returncode:
            failures.append(f"promtool {arguments[0]} rules: {ran.stdout}{ran.stderr}")
    for failure in failures:
        print(failure)
    print(
        f"chart: {len(scenarios)} files of values, {len(every)} values flipped and misspelt, "
        f"{len(wrong)} refused, Kubernetes 1.{OLDEST} to 1.{NEWEST}"
    )
    if left_out:
        print(f"chart: not checked, their definitions are not here: {', '.join(sorted(left_out))}")
    sys.exit(bool(failures))


main()
