"""The version stands in one place, and the changelog tells of it."""

import re
from datetime import date
from pathlib import Path

import lowmem as lm

ROOT = Path(__file__).resolve().parent.parent


def test_the_version_is_that_of_the_package_alone() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", lm.__version__)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in text
    assert lm.__version__ not in text


def test_the_changelog_tells_of_this_version_and_of_later_ones_first() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (\[Unreleased\]|\[\S+\] - \S+)$", text, re.MULTILINE)
    assert len(releases) == text.count("\n## ")
    assert releases[0] == "[Unreleased]"
    versions = [release.split(" - ") for release in releases[1:]]
    assert versions[0][0] == f"[{lm.__version__}]"
    dates = [date.fromisoformat(day) for _, day in versions]
    assert dates == sorted(dates, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
