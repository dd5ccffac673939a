import io
import json
import threading

from twintape.io import journal as journal_module
from twintape.io.journal import BackgroundStream, json_journal


def test_log_lines_are_json_objects_with_a_fixed_event_name_level_and_time():
    target = io.StringIO()
    stream = BackgroundStream(target)
    journal = json_journal(stream)
    journal.info("connected", market="spot", streams=3)
    journal.error("queue_full", symbol="币安人生USDT")
    stream.flush()
    stream.close()
    first, second = [json.loads(line) for line in target.getvalue().splitlines()]
    assert first | {"timestamp": ""} == {"event": "connected", "level": "info", "market": "spot", "streams": 3, "timestamp": ""}
    assert (second["level"], second["symbol"]) == ("error", "币安人生USDT")
    assert first["timestamp"].endswith("Z")


class Stuck(io.StringIO):
    """A reader that takes nothing until it is let go."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def write(self, text):
        self.go.wait(10)
        return super().write(text)


def test_a_reader_that_takes_nothing_costs_lines_and_never_time(monkeypatch):
    monkeypatch.setattr(journal_module, "LINES_MAX", 5)
    target = Stuck()
    stream = BackgroundStream(target)
    for number in range(20):
        stream.write(f"{number}\n")
    assert stream.dropped >= 14
    stream.close(wait_s=0.05)  # still stuck: not waited for
    target.go.set()
    stream.close()
    assert target.getvalue().startswith("0\n1\n")


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_reader_that_is_gone_is_no_reason_to_stop():
    stream = BackgroundStream(Gone())
    stream.write("a\n")
    stream.write("b\n")
    stream.close()
    assert stream.dropped == 2
