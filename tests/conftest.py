"""What all tests share: the profile of Hypothesis, the recordings, short names of long parameters."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
PARAMETER_NAME_MAX = 60

# Examples are the same in every run unless one asks for others: pytest --hypothesis-profile=explore
settings.register_profile("twintape", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "explore", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "twintape"))


def _has_corpus() -> bool:
    return (CORPUS / "expected.json").is_file()


def pytest_collection_modifyitems(items):
    """Skip what needs the recordings where they are not."""
    if _has_corpus():
        return
    skip = pytest.mark.skip(reason=f"the recordings are not in {CORPUS}")
    for item in items:
        if item.get_closest_marker("corpus"):
            item.add_marker(skip)


def pytest_make_parametrize_id(val):
    """Name a long text or frame by its beginning and its length."""
    if isinstance(val, str | bytes) and len(val) > PARAMETER_NAME_MAX:
        text = val if isinstance(val, str) else val.decode("latin-1")
        return f"{text[:PARAMETER_NAME_MAX]}…{len(val)}".encode("unicode_escape").decode()
    return None


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Return the directory of the recordings; skip the test if it is not there."""
    if not _has_corpus():
        pytest.skip(f"the recordings are not in {CORPUS}")
    return CORPUS
