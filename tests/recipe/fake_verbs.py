"""A fake `python -m alpaca_jax`: `fake_verbs.py VERB key=value ... [--cfg]` writes a file to dir/VERB and follows its keys.

Keys: dir, exit (an exit code), sleep (seconds), hang (seconds, at its first start), restarts (first exit with 200 this many times),
spawn (start a child that sleeps), megabytes (to allocate), wrong (a key that no verb has).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

OUTPUTS = {"generate": "records", "train": "train", "evaluate": "evaluate", "convert": "hf"}


def main(verb: str, *arguments: str) -> int:
    keys = dict(argument.split("=", 1) for argument in arguments if argument != "--cfg")
    if "wrong" in keys:
        print("wrong: there is no such key", file=sys.stderr)
        return 2
    if "--cfg" in arguments:
        print("\n".join(f"{key}: {value}" for key, value in keys.items()) or "{}")
        return 0
    folder = Path(keys["dir"]) / OUTPUTS[verb]
    folder.mkdir(parents=True, exist_ok=True)
    with open(Path(keys["dir"]) / "log", "a") as log:
        log.write(f"{verb} {os.getpid()}\n")
    starts = folder / "starts"
    number = int(starts.read_text()) + 1 if starts.exists() else 1
    starts.write_text(str(number))
    held = bytearray(int(keys.get("megabytes", 0)) * 1_000_000)
    if "spawn" in keys:
        child = subprocess.Popen(["sleep", "60"])
        (folder / "child").write_text(str(child.pid))
    time.sleep(float(keys.get("sleep", 0)) + (float(keys.get("hang", 0)) if number == 1 else 0))
    if number <= int(keys.get("restarts", 0)):
        return 200
    return int(keys.get("exit", 0)) if held is not None else 1


if __name__ == "__main__":
    try:
        code = main(*sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
