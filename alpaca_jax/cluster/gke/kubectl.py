"""kubectl: everything that asks a cluster goes through here. ALPACA_JAX_KUBECTL names another program."""

import json
from collections.abc import Mapping
from typing import Any

from alpaca_jax.cluster import command as commands
from alpaca_jax.errors import UserError

VARIABLE = "ALPACA_JAX_KUBECTL"
SECONDS = 300.0  # a deletion waits while pods save


def command(options: Mapping[str, Any], *arguments: str) -> list[str]:
    """Returns a command line of kubectl with the context and namespace from a job's options."""
    program = commands.program("kubectl", VARIABLE, "install kubectl, give it your cluster's credentials")
    context = [f"--context={options['context']}"] if options.get("context") else []
    return [program, *context, f"--namespace={options.get('namespace') or 'default'}", *arguments]


def ask(options: Mapping[str, Any], *arguments: str, value: Any = None) -> str:
    """Returns what kubectl prints; `value` is its standard input, as JSON. A UserError says what it complains of."""
    line = command(options, *arguments)
    text = "" if value is None else json.dumps(value)
    try:
        return commands.ask(line, f"kubectl {' '.join(arguments[:2])}", SECONDS, text=text)
    except UserError as error:
        if "no matches for kind" in str(error) or "doesn't have a resource type" in str(error):
            raise UserError(f"{error} (install JobSet on the cluster first: kubectl apply of its release's manifests.yaml)") from error
        raise


def get(options: Mapping[str, Any], kind: str, name: str) -> dict[str, Any] | None:
    """Returns an object of the cluster, None if there is none of this name."""
    text = ask(options, "get", kind, name, "--ignore-not-found", "--output=json")
    return json.loads(text) if text.strip() else None


def pods(options: Mapping[str, Any], jobset: str) -> list[dict[str, Any]]:
    """Returns the pods of a JobSet."""
    text = ask(options, "get", "pods", f"--selector=jobset.sigs.k8s.io/jobset-name={jobset}", "--output=json")
    return json.loads(text)["items"]
