from types import SimpleNamespace

import pytest

from twintape.io.night_metrics import night_metrics, write_night_metrics


def day(date, status="complete", error=None):
    return SimpleNamespace(date=date, status=status, error=error)


def test_a_night_s_days_are_counted_by_what_they_are_and_the_newest_proven_one_is_dated():
    days = [day("2026-11-20"), day("2026-11-21", "gapped"), day("2026-11-22", None, "unreadable")]
    lines = night_metrics(days, began_ns=10**9, finished_ns=61 * 10**9).decode().splitlines()
    assert "twintape_night_finished_timestamp_seconds 61.0" in lines
    assert "twintape_night_seconds 60.0" in lines
    assert "twintape_night_newest_day_timestamp_seconds 1.7953056e+09" in lines  # 2026-11-22T00:00Z
    found = {line for line in lines if line.startswith("twintape_night_outcomes{")}
    counted = {"complete": 1, "partial": 0, "gapped": 1, "conflicted": 0, "failed": 1}
    assert found == {f'twintape_night_outcomes{{status="{status}"}} {count}.0' for status, count in counted.items()}


def test_a_night_without_a_proven_day_says_no_date():
    text = night_metrics([day("2026-11-22", None, "unreadable")], began_ns=0, finished_ns=1)
    assert b"newest_day" not in text


def test_the_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "twintape.prom"
    write_night_metrics(path, b"old 1\n")
    write_night_metrics(path, b"new 2\n")
    assert path.read_bytes() == b"new 2\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["twintape.prom"]


def test_a_place_that_cannot_be_written_is_an_error_and_keeps_what_was_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_night_metrics(tmp_path / "missing" / "twintape.prom", b"")
    taken = tmp_path / "taken.prom"
    taken.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_night_metrics(taken, b"new 2\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.prom"]
