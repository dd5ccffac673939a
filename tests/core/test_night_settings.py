import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core.errors import ConfigError
from twintape.core.night_settings import NightlySettings, parse_nightly_settings

TOML = """
store = "s3://bucket/prefix"
jobs = 4
collectors = ["tokyo", "frankfurt"]
scratch = "/var/tmp/twintape"
prune = false
execute = true
grace = "96h"
gapped_grace = "30d"
"""


def test_a_night_is_described_by_its_file():
    assert parse_nightly_settings(TOML) == NightlySettings(
        store="s3://bucket/prefix",
        jobs=4,
        collectors=("tokyo", "frankfurt"),
        scratch="/var/tmp/twintape",
        prune=False,
        execute=True,
        grace="96h",
        gapped_grace="30d",
    )


def test_nothing_is_deleted_unless_the_file_says_so():
    assert parse_nightly_settings("") == NightlySettings()
    assert parse_nightly_settings("").execute is False


def test_the_command_line_wins_over_the_file():
    settings = parse_nightly_settings(TOML, overrides={"jobs": 2})
    assert (settings.jobs, settings.store) == (2, "s3://bucket/prefix")


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        parse_nightly_settings("").jobs = 2
    assert msgspec.structs.asdict(parse_nightly_settings("jobs = 3"))["jobs"] == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jobs = ", "is not TOML"),
        ("jobs = 1\njobs = 2", "is not TOML"),
        ("job = 1", "job"),
        ('jobs = "4"', r"\$.jobs"),
        ("jobs = 1.5", r"\$.jobs"),
        ("jobs = true", r"\$.jobs"),
        ('collectors = "tokyo"', r"\$.collectors"),
        ("execute = 1", r"\$.execute"),
        ("jobs = 0", "jobs is 0, must be between 1 and 1024"),
        ("jobs = 1025", "jobs is 1025, must be between 1 and 1024"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text, says):
    with pytest.raises(ConfigError, match=says):
        parse_nightly_settings(text)


@pytest.mark.parametrize("jobs", [1, 1024])
def test_the_bounds_of_jobs_belong_to_it(jobs):
    assert parse_nightly_settings(f"jobs = {jobs}").jobs == jobs


def test_a_wrong_override_is_refused_like_a_wrong_file():
    with pytest.raises(ConfigError, match="between 1 and 1024"):
        parse_nightly_settings("jobs = 4", overrides={"jobs": 0})


@given(st.text())
def test_any_text_gives_settings_or_a_configuration_error(text):
    try:
        settings = parse_nightly_settings(text)
    except ConfigError:
        return
    assert settings == NightlySettings()  # nobody draws a valid key by chance
