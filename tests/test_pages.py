"""What the pages outside the documentation point to is there; those in `docs/` are checked where the site is built."""

import re

import pytest

from tests.support.commands import REPOSITORY

PAGES = sorted(REPOSITORY.glob("*.md"))
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#]+)")
TEST = re.compile(r"`(tests/[\w/.]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_tests_lead_somewhere(page):
    text = page.read_text()
    missing = [name for name in LINK.findall(text) + TEST.findall(text) if not (REPOSITORY / name).exists()]
    assert not missing


def test_a_person_finds_what_is_promised():
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"} <= {page.name for page in PAGES}
