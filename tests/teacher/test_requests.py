"""Requests as a log holds them."""

import json
from dataclasses import replace

from answer_logs import REPLY, REQUEST, first_shard, opened


def test_a_request_is_written_as_before_where_it_wants_nothing_new(tmp_path):
    opened(tmp_path).keep(0, 0, REQUEST, REPLY)
    opened(tmp_path).keep(1, 0, replace(REQUEST, top_logprobs=20), REPLY)
    lines = [json.loads(line) for line in first_shard(tmp_path).read_text().splitlines()[1:]]
    assert "top_logprobs" not in lines[0]["request"] and lines[1]["request"]["top_logprobs"] == 20
    log = opened(tmp_path)
    assert [request for _, request, _ in log.first_requests()] == [REQUEST, replace(REQUEST, top_logprobs=20)]
    lines[1]["request"]["top_logprobs"] = "many"
    with open(first_shard(tmp_path), "a") as file:
        file.write(json.dumps({**lines[1], "index": 2}) + "\n")
    assert "a number of top_logprobs is due" in opened(tmp_path).damaged[0]


def test_first_requests_are_read_where_lines_are_damaged_or_doubled(tmp_path):
    log = opened(tmp_path)
    for index in range(3):
        for step in range(2):
            log.keep(index, step, replace(REQUEST, prompt=f"{index}", seed=step), REPLY)
    content = first_shard(tmp_path).read_text().splitlines()
    content[3] = content[3][:20]  # index 1, step 0
    first_shard(tmp_path).write_text("\n".join([*content, content[1]]) + "\n")  # index 0, step 0 twice
    found = {index: (request.prompt, request.seed) for index, request, _ in opened(tmp_path).first_requests()}
    assert found == {0: ("0", 0), 1: ("1", 1), 2: ("2", 0)}
