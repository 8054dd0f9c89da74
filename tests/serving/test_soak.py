"""The soak in its short form: some seconds of every kind of client at a real server."""

from __future__ import annotations

import pytest

from tests.serving.server_process import serving
from tests.serving.soak_clients import reference
from tests.serving.soak_run import make_cases, require_different, soak


@pytest.mark.slow
def test_clients_of_every_kind_get_their_own_and_leave_nothing(tmp_path):
    store, cases = make_cases(tmp_path, 4, 0)
    options = ["--store", str(store), "--model", "phantom", "--device", "cpu"]
    with serving(tmp_path, *options, "--max-new-tokens", "8") as served:
        cases = reference(served.port, cases)
        require_different(cases)
        found = soak(served, cases, clients=8, seconds=8, seed=0)
        log = served.log.read_text()
    assert not found.ledger.crossings
    assert not found.ledger.errors
    assert not any(found.left.values())
    done = set(found.ledger.jobs)
    assert done >= {"ask", "chat", "stream", "cut_off_stream", "bad_file", "never_read"}
    assert found.metrics['mrrag_answers_total{end="failed"}'] == 0
    # Requests that clients took back left the model's queue.
    assert found.metrics['mrrag_answers_total{end="cancelled"}'] > 0
    assert found.files[1] < found.files[0] + 20
    assert not any(case.question in log for case in cases)
