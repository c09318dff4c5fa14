"""What a teacher sends back, as bytes."""

import json

from scripted_teacher import answer

from alpaca_jax.teacher.protocol import Reply


def received(text, finish_reason="stop", model="m", usage=(20, 10), seconds=0.5, endpoint="chat"):
    """A reply with this text; usage as (prompt tokens, completion tokens), None, or the object itself."""
    body = {"model": model, **({"messages": []} if endpoint == "chat" else {})}
    made = answer(text, body, finish_reason, usage if isinstance(usage, tuple) else None)
    if isinstance(usage, dict):
        made["usage"] = usage
    return Reply(body=json.dumps(made).encode(), model="asked", seconds=seconds)
