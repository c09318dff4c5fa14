"""Kubernetes' command line: everything that asks a cluster something goes through here. ALPACA_JAX_KUBECTL names another program."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from alpaca_jax.errors import UserError

VARIABLE = "ALPACA_JAX_KUBECTL"
SECONDS = 300.0  # a deletion waits for pods to save


def command(options: Mapping[str, Any], *arguments: str) -> list[str]:
    """Returns the command line of kubectl with the context and namespace of a job's options."""
    program = os.environ.get(VARIABLE, "kubectl")
    if shutil.which(program) is None:
        raise UserError(f"there is no {program} on the PATH: install kubectl, give it your cluster's credentials, or set {VARIABLE}")
    context = [f"--context={options['context']}"] if options.get("context") else []
    return [program, *context, f"--namespace={options.get('namespace') or 'default'}", *arguments]


def ask(options: Mapping[str, Any], *arguments: str, value: Any = None) -> str:
    """Returns what kubectl prints; `value` goes to its standard input as JSON. A UserError with what it complains of."""
    line = command(options, *arguments)
    text = "" if value is None else json.dumps(value)
    try:
        found = subprocess.run(line, input=text, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"kubectl {' '.join(arguments[:2])} gave no answer in {SECONDS:.0f} s; see to the connection") from error
    if found.returncode != 0:
        complaint = " ".join((found.stderr or found.stdout).split())[-600:]
        if "no matches for kind" in complaint or "doesn't have a resource type" in complaint:
            complaint += " (install JobSet on the cluster first: kubectl apply of its release's manifests.yaml)"
        raise UserError(f"kubectl {' '.join(arguments[:2])}: {complaint or f'exit code {found.returncode}'}")
    return found.stdout


def get(options: Mapping[str, Any], kind: str, name: str) -> dict[str, Any] | None:
    """Returns an object of the cluster, None where there is none of this name."""
    text = ask(options, "get", kind, name, "--ignore-not-found", "--output=json")
    return json.loads(text) if text.strip() else None


def pods(options: Mapping[str, Any], jobset: str) -> list[dict[str, Any]]:
    """Returns the pods of a JobSet."""
    found = ask(options, "get", "pods", f"--selector=jobset.sigs.k8s.io/jobset-name={jobset}", "--output=json")
    return json.loads(found)["items"]
