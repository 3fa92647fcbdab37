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


def test_benchmarks_start_from_a_clone_as_their_pages_say():
    """The folder above is not on the path of `python benchmarks/x.py`: it has to be put there before its imports."""
    pages = [*PAGES, *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("configs/*.py")]
    said = {file for page in pages for file in re.findall(r"python (benchmarks/[\w/]+\.py)", page.read_text())}
    assert len(said) > 25
    for file in sorted(said):
        text = (REPOSITORY / file).read_text()
        above = re.search(r"^from (benchmarks|tests)\b", text, re.MULTILINE)
        assert not above or "sys.path.append(" in text[: above.start()], file


def test_a_person_finds_what_is_promised():
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"} <= {page.name for page in PAGES}
