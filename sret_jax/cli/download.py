"""Fetches the files of a benchmark from where their authors publish them, into the layout that its reader expects.

    sret download NAME DIR          says how much it is, and from where
    sret download NAME DIR --yes    fetches it; run again after an interruption, it continues

An archive that lies in DIR already, or in --archives=DIR, is taken instead of fetched, and kept; where all do, no
network is needed. `DIR/DOWNLOADED.json` lists what is done, with its md5 and, of photographs, the version.
"""

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from sret_jax.config.paths import expanded
from sret_jax.datasets.sources import SOURCES
from sret_jax.errors import UserError


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "sret download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("folder", type=lambda path: Path(expanded(path)))
    parser.add_argument(
        "--archives", default="", type=expanded, metavar="DIR", help="where archives lie that you have already"
    )
    parser.add_argument("--yes", action="store_true", help="fetch it")
    options = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.archives and not Path(options.archives).is_dir():
        raise UserError(f"--archives={options.archives}: no such folder; give that of the archives you have")
    from sret_jax.datasets.downloads import by_hand, done_urls, download, sizes

    done = done_urls(options.folder)
    left = [source for source in SOURCES[options.name] if source.url not in done]
    own = {source.url: by_hand(source, options.folder, options.archives) for source in left}
    sources = [source for source in left if own[source.url] is None]
    found = sizes(sources)
    unknown = f", and {found.count(0)} whose size is not known" if 0 in found else ""
    print(f"{options.name}: {len(sources)} files, {sum(found) / 1e9:.1f} GB{unknown}, to {options.folder}")
    for host in sorted({source.url.rsplit("/", 1)[0] for source in sources}):
        print(f"  from {host}/")
    there = [path for path in own.values() if path]
    if there:
        print(f"  {len(there)} more lie there already and are not fetched, the first {there[0]}")
    if not options.yes:
        print("Photographs take about as much again while an archive is unpacked. Give --yes to fetch them.")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(options.folder).free
    wanted = sum(found) + max(found, default=0) + sum(path.stat().st_size for path in there)
    if wanted > free:
        raise UserError(f"{options.folder}: {free / 1e9:.1f} GB are free, {wanted / 1e9:.1f} GB are needed")
    download(left, options.folder, options.archives)
