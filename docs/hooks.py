"""Shows `benchmarks/results/` and the cards of shipped weights in the site without a copy of them in `docs/`.

`reference/fields.md` is written here, of the rules and comments in `sret_jax/config/`.

The pages link to these files by paths that are right on GitHub, such as `../../benchmarks/results/ablation.md`, and
that lead out of `docs/`. Here the files become part of the site, as `benchmarks/results/...`, and one `../` is taken
off such a link.
"""

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
RESULTS, CARDS = "benchmarks/results", "sret_jax/models/weights/shipped"
LINK = re.compile(rf"(\]\()((?:\.\./)+(?:{RESULTS}|{CARDS})/[^)\s]+)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    sys.path.insert(0, str(ROOT))  # the config imports nothing but Python's own
    from sret_jax.config.reference import markdown

    files.append(File.generated(config, "reference/fields.md", content=markdown()))
    for path in [*sorted((ROOT / RESULTS).rglob("*")), *sorted((ROOT / CARDS).glob("*.md"))]:
        if path.is_file():
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri.startswith(f"{RESULTS}/"):
        page.meta["search"] = {"exclude": True}  # pages of numbers would hide the text that explains them
        return markdown

    def into_site(found: re.Match[str]) -> str:
        here = posixpath.dirname(page.file.src_uri)
        target = posixpath.normpath(posixpath.join("docs", here, found[2]))
        return found[1] + posixpath.relpath(target, here or ".")

    return LINK.sub(into_site, markdown)
