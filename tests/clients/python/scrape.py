"""Reads metrics as Prometheus does: asks for them with its Accept header, and parses the answer
with its own client library, strictly.

usage: scrape.py URL [ACCEPT]

Prints one JSON object: {"contentType": ..., "families": {NAME: {"type": ..., "samples":
[{"name": ..., "labels": {...}, "value": ...}]}}}.
"""

import json
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

# What Prometheus 3 sends.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)

url, accept = (sys.argv[1:] + [ACCEPT])[:2]
request = urllib.request.Request(url, headers={"Accept": accept})
with urllib.request.urlopen(request) as answer:
    content_type = answer.headers["Content-Type"]
    body = answer.read().decode()

parse = openmetrics if content_type.startswith("application/openmetrics-text") else text
families = {
    family.name: {
        "type": family.type,
        "samples": [
            {"name": sample.name, "labels": sample.labels, "value": sample.value}
            for sample in family.samples
        ],
    }
    for family in parse(body)
}
json.dump({"contentType": content_type, "families": families}, sys.stdout)
