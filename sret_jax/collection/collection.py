"""A folder of photographs that changes, and can be searched for an object that a person points at."""

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from sret_jax.collection.answers import Answer, Found, Status
from sret_jax.collection.local import NONE, LocalFinder, finder_of
from sret_jax.collection.marking import discovered_box
from sret_jax.collection.merging import finished_shards, merge_shards
from sret_jax.collection.place import folder_of, kept_folders, locked, place_of, read_about, write_about
from sret_jax.collection.query import Query
from sret_jax.collection.reading import pixels_of_answer, pixels_of_query
from sret_jax.collection.scan import find_changes
from sret_jax.collection.served_index import choose_engine
from sret_jax.collection.shard import NOTES, Shard
from sret_jax.collection.state import State, StoredPhoto
from sret_jax.collection.store import Store
from sret_jax.collection.store_index import StoreIndex, kept_about
from sret_jax.collection.update import Progress, Update, check_there, store_for_update, update_store
from sret_jax.collection.verification import VERIFIED, verified
from sret_jax.collection.view import View, check_known, has_photos
from sret_jax.data.opening import Photo, encoded
from sret_jax.data.regions import Box, Region
from sret_jax.data.sources import PhotoSource, source_of
from sret_jax.errors import UserError
from sret_jax.models.backbones import BACKBONES
from sret_jax.retriever import Retriever, load
from sret_jax.storage.files import Unreadable
from sret_jax.storage.refusals import plainly
from sret_jax.storage.workdir import COLLECTIONS


class Collection:
    """The photographs below a folder, described once each and searched where they lie.

        collection = sret_jax.Collection.open("photos/")
        collection.update()
        found = collection.search(Path("query.jpg"), region=(60, 40, 300, 220))

    `update` may be called as often as one likes: it reads what is new or changed. Photographs are never copied. Any
    number of processes may search while one updates. Methods may be called from several threads.

    Attributes:
      folder: where the collection is kept.
      name: of this folder.
      root: the folder of the photographs; of those elsewhere the address, of archives the pattern.
      shard: the part of them that it holds; None: all.
    """

    def __init__(self, folder: str | Path):
        """Opens the collection that is kept in `folder`.

        Raises `UserError` where there is none, and `DamagedError` where it is not what was written.
        """
        self.folder = Path(folder).expanduser()
        about = read_about(self.folder)
        self.name, self._described_by = self.folder.name, about["retriever"]
        self._address = self._address_before = about["root"]
        self._source: PhotoSource | None = None
        self.shard = Shard.parse(about["shard"]) if about.get("shard") else None
        self._view = View(self.folder)
        self._updating = threading.Lock()
        self._progress = (0, 0)
        self._retriever: Retriever | None = None

    @classmethod
    @plainly()
    def open(
        cls,
        root: str | Path,
        *,
        workdir: str | Path = COLLECTIONS,
        name: str = "",
        retriever: Retriever | str | Path | None = None,
        local: str | None = None,
        shard: Shard | str | None = None,
        engine: str | None = None,
        server: str = "",
        store: str | None = None,
    ) -> "Collection":
        """The collection of a folder of photographs, made where there is none yet; `update` fills it.

        Args:
          root: the folder of the photographs, which lie below it at any depth, also in tar archives; or a pattern of
            archives ("shards/{000..099}.tar"), or the address of either ("s3://bucket/photos").
          workdir: where collections are kept, each in a folder of its own.
          name: of the collection; by default the folder's. A collection whose photographs were moved as a whole goes on
            when it is named: the next `update` finds them, or says that none of them is here.
          retriever: what describes the photographs, or where `load` finds it; by default what the collection has, and
            for a new one the weights that come with the package. With another one everything is described again.
          local: the local features that are kept besides, for `search(verify=True)`: "sift", "head" (of a network that
            has its own) or "none"; by default what the collection has, and for a new one none. `update` finds those
            that are missing, without describing a photograph again.
          shard: "3/100" for the fourth of a hundred parts of the photographs, as a collection of its own, which `merge`
            makes one of with the others; "auto" for the part that Slurm or Open MPI says.
          engine: where it is searched: "local", or "milvus" or "pgvector", in a table of its own that `update` keeps
            equal to the collection; by default where it was.
          server: the address of that engine, without a password; see `config.search.server`.
          store: what descriptors are held as in memory: "float32", or "float16" or "int8" for a half or a quarter of
            it, with the same answers; by default what the collection was given, or else what its retriever says
            (`config.search.store`). Where a server is searched it does not count.

        Raises:
          UserError: no such folder, a name that another folder's collection has, a retriever that cannot be loaded,
            local features that are not kept or that it has not, a store that is none, a shard that is none, or that is
            to be searched in a server.
        """
        if engine is None and server:
            raise UserError("--server: give --engine=milvus or --engine=pgvector with it")
        if engine is not None and shard:
            raise UserError("--engine: a shard is not searched; give it with `sret index` after `sret merge`")
        if store is not None and shard:
            raise UserError("--store: a shard is not searched; give it with `sret index` after `sret merge`")
        part = Shard.parse(shard) if isinstance(shard, str) else shard
        folder, source = place_of(root, Path(workdir).expanduser(), name, retriever, local, part, store)
        if engine is not None:
            choose_engine(folder, engine, server)
        opened = cls(folder)
        opened._address = source.address  # of photographs that were moved, which the next update looks for here
        return opened

    @classmethod
    @plainly()
    def merge(cls, root: str | Path, *, workdir: str | Path = COLLECTIONS, name: str = "") -> "Collection":
        """The collection of a folder, made of its shards: what `update` without them would have made, bit for bit.

        The shards have to lie in its folder, as `open` makes them or copied there from elsewhere, and are not needed
        any more afterwards. What was taken out of the collection before stays out.

        Args:
          root: of the photographs, as they are seen here; as for `open`.
          workdir: where collections are kept.
          name: of the collection; by default the folder's.

        Raises:
          UserError: a shard is missing, not finished, or described by another retriever; the disk is full.
          DamagedError: something of a shard is not what was written; the collection is what it was.
        """
        folder = folder_of(source_of(root), Path(workdir).expanduser(), name)
        shards = finished_shards(folder)
        made = shards[0].about["retriever"] or load(shards[0].store.folder / "retriever")
        local = shards[0].about["local"]
        opened = cls.open(root, workdir=workdir, name=folder.name, retriever=made, local=local)
        with locked(folder):
            merge_shards(folder, shards)
            write_about(folder, read_about(folder) | {"root": opened._address, "updated": _now()})
        return cls(folder)

    @property
    def root(self) -> Path | str:
        source = self.source
        return source.folder if source.is_folder and source.folder else source.address

    @property
    def source(self) -> PhotoSource:
        """Where its photographs are read."""
        if self._source is None or self._source.address != self._address:
            self._source = source_of(self._address)
            self._source.notes = self.folder / NOTES
        return self._source

    @property
    def names(self) -> list[str]:
        """Of the photographs that are searched, sorted."""
        with self._view.lock:
            self._view.look()
            return list(self._view.names)

    @property
    def retriever(self) -> Retriever:
        """What describes the photographs; loaded when it is first needed."""
        with self._view.computing:
            if self._retriever is None:
                self._retriever = load(self._described_by or self.folder / "retriever")
            return self._retriever

    def reuse(self, retriever: Retriever) -> None:
        """Goes on with a retriever that is loaded, with its compiled programs: the one that `open` was given, or that
        another collection of the same has."""
        self._retriever = retriever

    @property
    def stage(self) -> str:
        """The stage of the backbone whose maps say where an object is: one of stride 16, where there is one."""
        stages, pooled = BACKBONES[self.retriever.config.model.backbone].stages, self.retriever.network.stage
        return "c4" if "c4" in stages and list(stages).index("c4") <= list(stages).index(pooled) else pooled

    @plainly()
    def update(self, progress: Progress | None = None, forget: bool = False) -> Update:
        """Brings the collection up to date with its folder; a call that is killed has lost the last hundred files.

        Args:
          progress: called with the number of files that are read, and that have to be.
          forget: forget the photographs also where none of them is there any more.

        Raises:
          UserError: the folder is not there, or has lost all its photographs; another process or thread updates the
            collection; the disk is full (what is committed stays); a photograph has no descriptor (it is named).
          ServerError: the server that is searched lacks what is new, because it does not answer or refuses it; what is
            committed stays, is searched here, and is uploaded by the next call.
        """
        self.source.check()
        if not self._updating.acquire(blocking=False):
            raise UserError(f"{self.name}: being updated already; wait for it")
        try:
            with locked(self.folder):
                return self._update(progress, forget)
        finally:
            self._progress = (0, 0)
            self._updating.release()

    def _update(self, progress: Progress | None, forget: bool) -> Update:
        about = read_about(self.folder)
        if about["root"] not in (self._address_before, self._address):
            raise UserError(f"{self.name}: its photographs are those of {about['root']} by now; open it again")
        finder = finder_of(self.retriever, about["local"])
        kept = kept_folders(self.folder, self.shard)
        there = Store(self.folder) if has_photos(self.folder) else None
        changes = find_changes(self.source, there.state if there else State(), kept, self.shard)
        moved = about["root"] != self._address
        if there and not forget:
            check_there(there, changes, self.source, moved)
        if moved:
            write_about(self.folder, about | {"root": self._address})
            self._address_before = self._address
        store = store_for_update(self.folder, there, self.retriever, self.stage, finder)
        if store is not there:
            changes = find_changes(self.source, store.state, kept, self.shard)

        def tell(done: int, total: int) -> None:
            self._progress = done, total
            if progress:
                progress(done, total)

        extractor = self.retriever.extractor
        done = update_store(store, changes, self.source, extractor, self.stage, tell, finder)
        if store.outgrown:
            store.compact()
        write_about(self.folder, read_about(self.folder) | {"updated": _now()})
        with self._view.computing:
            if self.names:
                self._view.searchable(self.retriever)
                assert self._view.index is not None
                with plainly(self.folder):
                    self._view.index.keep()
        return done

    @plainly()
    def remove(self, names: Sequence[str]) -> None:
        """Takes photographs out, for good: `update` does not bring them back, nor by another name. Their files stay.

        One that was taken out before stays out: a call that was killed may be made again.

        Raises `UserError` for a name that was never in the collection, with the nearest ones.
        """
        with self._change() as store:
            live = store.state.live
            names = [name for name in names if name in live or name not in store.state.excluded]
            check_known(self.name, names, live)
            digests = [store.state.photos[store.state.live[name]].digest for name in names]
            store.change({"remove": list(names), "exclude": [list(pair) for pair in zip(names, digests, strict=True)]})

    @plainly()
    def restore(self, names: Sequence[str]) -> None:
        """Lets photographs that were taken out come back with the next `update`.

        Of one that nobody took out, or that was let back before, nothing changes: a call may be made again.

        Raises `UserError` for a name that the collection has never heard of, with the nearest ones.
        """
        with self._change() as store:
            excluded = store.state.excluded
            back = {photo.name for photo in store.state.photos} | set(store.state.skipped)
            names = [name for name in names if name in excluded or name not in back]
            check_known(self.name, names, excluded)
            contents = {excluded[name] for name in names}
            # Of others of the same content the name alone stays out, or it would keep these out too.
            twins = [[name, ""] for name, digest in excluded.items() if digest in contents and name not in names]
            store.change({"include": list(names), "exclude": twins})

    @contextlib.contextmanager
    def _change(self) -> Iterator[Store]:
        with locked(self.folder):
            if not has_photos(self.folder):
                raise UserError(f"{self.name}: it has no photographs yet; index its folder first")
            yield Store(self.folder)

    def search(
        self,
        query: Photo,
        region: Region = None,
        k: int = 20,
        start: int = 0,
        mark: bool = True,
        verify: bool = False,
    ) -> Found:
        """The photographs that show the object of the query, and where.

        Args:
          query: the name of a photograph of the collection (str); or a file (`Path`), encoded bytes, a Pillow image or
            a uint8 array.
          region: of the query that is looked for: a box (left, top, right, bottom) or a click (x, y), pixels of the
            upright photograph, or a mask [h w]; by default all of it.
          k: answers.
          start: of them, so many are passed over: the next page of the same search.
          mark: whether the object is looked for in each answer.
          verify: whether the first 50 answers are put in a new order by spatial verification: by the inliers of their
            local features among those of the region, and the others behind them. Takes a collection that keeps local
            features, see `open`. Scores are cosines all the same.

        Raises:
          UserError: an unknown name, a query that is no photograph, a region outside of it, a collection without
            photographs, or one without local features that is to be verified.
        """
        if k < 1 or start < 0:
            raise UserError(f"k={k}, start={start}: ask for at least one answer, from the first on")
        self._check_asked(query)
        with self._view.computing:
            store, index = self._view.searchable(self.retriever)
            finder = self._finder_of(store) if verify else None
            asked = self._query(query, region, store, finder)
            same = [row for row in store.rows_of(asked.digest) if row in index]
            wanted = max(start + k, VERIFIED if verify else 0) + len(same)
            ids, scores = index.search(asked.descriptor, min(len(index), wanted))
            kept = [(int(id), float(score)) for id, score in zip(ids, scores, strict=True) if id not in same]
            inliers: dict[int, int] = {}
            if finder:
                first = [row for row, _ in kept[:VERIFIED]]
                kept, inliers = verified(asked, kept, store, self._view.local(store, finder, first), finder.config)
            kept = kept[start : start + k]
            photos = [store.state.photos[row] for row, _ in kept]
            answers = [
                Answer(photo.name, score, photo.size, inliers=inliers.get(row))
                for photo, (row, score) in zip(photos, kept, strict=True)
            ]
            maps = [store.map(row) for row, _ in kept] if mark else []
            marker = self._view.marker(store, index, self.retriever) if mark else None
        if marker and answers:
            marks = marker.mark(
                asked,
                [score for _, score in kept],
                maps,
                [self._reader(photo) for photo in photos],
                [p.size for p in photos],
            )
            answers = [
                dataclasses.replace(answer, found=one.found, box=one.box, outlines=one.outlines)
                for answer, one in zip(answers, marks, strict=True)
            ]
        return Found(answers, asked.size, asked.box)

    def heat(self, name: str, query: Photo, region: Region = None) -> Float[np.ndarray, "h w"]:
        """How much each part of a photograph is like the region of the query, at most 240 pixels a side.

        Raises `UserError` as `search`, and for an unknown `name`.
        """
        self._check_asked(name, query)
        with self._view.computing:
            store, index = self._view.searchable(self.retriever)
            row = self._view.row(name, store)
            photo, own = store.state.photos[row], store.map(row)
            asked, marker = self._query(query, region, store), self._view.marker(store, index, self.retriever)
        try:
            return marker.heat(asked, own, self._reader(photo), photo.size)
        except Unreadable as error:
            raise UserError(f"{name}: {error.reason}") from None

    def read(self, name: str) -> bytes:
        """The file of a photograph, encoded. Raises `UserError` for an unknown name, or a file that is not there."""
        with self._view.lock:
            self._view.look()
            self._view.row(name, self._view.store)
        try:
            return self.source.read(name)
        except Unreadable as error:
            raise UserError(f"{name}: {error.reason}; index again") from None

    def object_in(self, query: Photo) -> Box:
        """The box of the object that stands out in a photograph, by LOST: (left, top, right, bottom), pixels.

        A person who points at nothing may start from it; `localization.object_discovery` says how it is found.

        Raises `UserError` as `search`.
        """
        self._check_asked(query)
        with self._view.computing:
            store, _ = self._view.searchable(self.retriever)
            asked = self._query(query, None, store)
        return discovered_box(asked.map, asked.size)

    def query_size(self, query: Photo) -> tuple[int, int]:
        """(height, width) of a query, as `search` takes it, in pixels of the upright photograph.

        Raises `UserError` for an unknown name, or what is no photograph.
        """
        if isinstance(query, str):
            with self._view.lock:
                self._view.look()
                row = self._view.row(query, self._view.store)
                assert self._view.store is not None
                return self._view.store.state.photos[row].size
        height, width = pixels_of_query(encoded(query), query).shape[:2]
        return height, width

    def status(self) -> Status:
        """What the collection holds now. Needs no network."""
        with self._view.lock:
            self._view.look()
            store, index, about = self._view.store, self._view.index, read_about(self.folder)
            state = store.state if store else None
            search, recall = kept_about(store) if store and not about.get("search") else ("", 0.0)
            held_as = "" if about.get("search") else about.get("store", "")
            if isinstance(index, StoreIndex):
                held_as = index.config.store
            if index and index.method:
                search, recall = index.method, index.recall if isinstance(index, StoreIndex) else 0.0
            return Status(
                name=self.name,
                root=self._address,
                photos=len(state.live) if state else 0,
                skipped=[(name, reason) for name, (reason, _) in sorted(state.skipped.items())] if state else [],
                excluded=sorted(state.excluded) if state else [],
                indexing=self._updating.locked(),
                done=self._progress[0],
                total=self._progress[1],
                updated=about.get("updated", ""),
                retriever=self._described_by or "its own",
                search=search,
                recall=recall,
                store=held_as,
                left_behind=store.left_behind if store else 0,
                local=store.local_about.get("source", "") if store else "",
            )

    @plainly()
    def verify(self, mend: bool = False) -> list[str]:
        """Names of the photographs, also of those that are gone, of which something stored is not what was written.

        Every byte that is kept of a photograph is read.

        Args:
          mend: forgets what is stored of them, so that the next `update` describes them again.

        Raises:
          DamagedError: photographs are stored that the collection does not know of, because the end of its journal is
            missing; not with `mend`, which deletes them.
        """
        if mend:
            with self._change() as store:
                rows = store.unsound()
                names = [store.state.photos[row].name for row in rows]
                store.forget(rows)
                store.cut_end()
                return names
        if not has_photos(self.folder):
            return []
        store = Store(self.folder)  # of its own: reading every byte takes long, and nobody waits for it
        names = [store.state.photos[row].name for row in store.unsound()]
        if not names:
            store.refresh()  # with what was committed meanwhile
            store.check_end()
        return names

    @plainly()
    def compact(self) -> None:
        """Writes the collection anew without the rows of photographs that are gone; nothing that it finds changes."""
        with self._change() as store:
            store.compact()

    @plainly()
    def prepare(self) -> None:
        """Makes ready for searching now, so that the first query does not wait: index, network, compiled programs."""
        if not self.names:
            return
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        shapes = (64, 64), (48, 64), (64, 48)  # one photograph of every shape that is compiled
        for verify in (False, True) if self.status().local else (False,):
            for height, width in shapes:
                self.search(noise[:height, :width], k=2, verify=verify)

    def _check_asked(self, *asked: Photo) -> None:
        self._view.check_names([name for name in asked if isinstance(name, str)])

    def _finder_of(self, store: Store) -> LocalFinder:
        finder = finder_of(self.retriever, store.local_about.get("source", NONE))
        if finder is None:
            raise UserError(
                f"{self.name}: it keeps no local features to verify answers by; "
                f"`sret index {self._address} --local=sift` finds them"
            )
        return finder

    def _query(self, query: Photo, region: Region, store: Store, finder: LocalFinder | None = None) -> Query:
        """The query described; a whole photograph of the collection is so already."""
        if isinstance(query, str):
            row = self._view.row(query, store)
            photo = store.state.photos[row]
            local = self._view.local(store, finder, [row]).get(row) if finder else None
            if region is None and (finder is None or local is not None):
                box = (0, 0, *photo.size[::-1])
                return Query(photo.digest, photo.size, box, store.descriptor(row), store.map(row), None, local)
            data = self.read(query)
        else:
            data = encoded(query)
        digest = hashlib.sha256(data).hexdigest()
        return Query.of(digest, pixels_of_query(data, query), region, self.retriever.extractor, self.stage, finder)

    def _reader(self, photo: StoredPhoto) -> Callable[[], UInt8[np.ndarray, "_ _ 3"]]:
        return partial(pixels_of_answer, self.source, photo)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
