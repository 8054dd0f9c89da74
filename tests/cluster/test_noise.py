"""``mrrag noise --ray`` reports what ``mrrag noise`` reports, to the last digit."""

from __future__ import annotations

import json

import pytest

from tests.cluster.test_ingest import run

pytestmark = pytest.mark.slow

STUDY = (
    *("noise", "--count", 12, "--documents", 2, "--policies", "off,ifa", "--scores", "true"),
    "--json",
)


def study(out, *options):
    code, text, err = run(*STUDY, "--out", out, *options)
    assert code == 0, err
    return text.replace(str(out), "OUT")


@pytest.mark.ray
@pytest.mark.usefixtures("ray", "one_thread")
def test_the_report_is_the_same_and_what_was_asked_is_not_asked_again(tmp_path):
    plain = study(tmp_path / "plain")
    by_ray = ("--ray", "--workers", "2", "--batch-size", "64")
    assert study(tmp_path / "spread", *by_ray) == plain
    logs = sorted((tmp_path / "spread" / "readings").glob("*.jsonl"))
    assert logs
    written = {path: path.read_text() for path in logs}
    by_ray = ("--ray", "--workers", "1", "--batch-size", "64")
    # Nobody can have been right in what is read back, if it is read back.
    for path, text in written.items():
        path.write_text(text.replace("[1.0, ", "[0.0, "))
    assert study(tmp_path / "spread", *by_ray) != plain
    for path, text in written.items():
        path.write_text(text)
    logs[0].write_text(written[logs[0]].splitlines(keepends=True)[0])
    assert study(tmp_path / "spread", *by_ray) == plain
    assert sorted(logs[0].read_text().splitlines()) == sorted(written[logs[0]].splitlines())
    assert json.loads(plain)
