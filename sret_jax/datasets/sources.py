"""Where the authors of each benchmark publish its files, what is known about them, and the layout they go into.

Not here, for want of an archive that Python can unpack:
- the pixel labels of PROxford and PRParis, a .rar: `LABELS` in `pixel_truth.py`;
- Google Landmarks v1, a train.csv with an address per photograph, many of them dead. A train.csv cut to the rows whose
  photographs you have, as train/<id>.jpg, is read as it is by data.dataset "landmarks";
- ILIAS's hundred million distractors, 6 TB in shards of 100,000 photographs. Unpacked into a folder they are
  `--distractors` like any other.
"""

from dataclasses import dataclass

UNKNOWN = "unknown version"
_BLURRED, _ORIGINAL = "faces blurred, 2022", "original"
# What is in an archive of photographs, by its name. In May 2022 the authors of Oxford and Paris put archives of other
# names, faces blurred, in the place of the first ones (github.com/filipradenovic/cnnimageretrieval-pytorch/pull/78).
VERSIONS = {
    **dict.fromkeys(("oxbuild_images-v1.tgz", "paris_1-v1.tgz", "paris_2-v1.tgz"), _BLURRED),
    **dict.fromkeys(("oxbuild_images.tgz", "paris_1.tgz", "paris_2.tgz"), _ORIGINAL),
}
# Nobody publishes their checksums. As its server stated the size; an archive of another one is of no known version.
BYTES = {"oxbuild_images-v1.tgz": 1_938_238_004}


@dataclass(frozen=True)
class PublishedFile:
    """One published file.

    target     where it goes below the folder; of an archive the folder it is unpacked in, which ends with "/"
    checksum   md5 or sha256, as published; or the URL of a list with it
    flat       the archive's own folders are left out
    size       bytes as its authors state them; 0: the server is asked
    older      the name of the archive that this one replaced, which is taken as well when it lies there
    """

    url: str
    target: str
    checksum: str = ""
    flat: bool = False
    size: int = 0
    older: str = ""

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def is_archive(self) -> bool:
        return self.target.endswith("/")


# github.com/filipradenovic/revisitop, python/download.py; it states no checksums, these are of the files of 2018
_OXFORD, _REVISITOP = "https://www.robots.ox.ac.uk/~vgg/data", "http://cmp.felk.cvut.cz/revisitop/data/datasets"
_MILLION = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
# github.com/filipradenovic/cnnimageretrieval-pytorch, cirtorch/utils/download.py
_SFM = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train"
# github.com/cvdfoundation/google-landmark, README.md, with the sizes and where the md5 of every archive is
_LANDMARKS = "https://s3.amazonaws.com/google-landmark"
_PARTS = {"train": (500, 10**9), "index": (100, 850 * 10**6), "test": (20, 500 * 10**6)}
# github.com/ilias-vrg/ilias, download/: objects and queries, without the distractors; the list has sha256 and address
_ILIAS = "https://vrg.fel.cvut.cz/ilias_data"


def _landmark_parts(split: str) -> list[PublishedFile]:
    count, size = _PARTS[split]
    return [
        PublishedFile(
            f"{_LANDMARKS}/{split}/images_{i:03d}.tar",
            f"{split}/",
            checksum=f"{_LANDMARKS}/md5sum/{split}/md5.images_{i:03d}.txt",
            size=size,
        )
        for i in range(count)
    ]


SOURCES: dict[str, list[PublishedFile]] = {
    "roxford5k": [
        PublishedFile(
            f"{_REVISITOP}/roxford5k/gnd_roxford5k.pkl",
            "gnd_roxford5k.pkl",
            checksum="f2b67579f625a587b5b0828dbf2e8eb0",
        ),
        PublishedFile(f"{_OXFORD}/oxbuildings/oxbuild_images-v1.tgz", "jpg/", flat=True, older="oxbuild_images.tgz"),
    ],
    "rparis6k": [
        PublishedFile(
            f"{_REVISITOP}/rparis6k/gnd_rparis6k.pkl", "gnd_rparis6k.pkl", checksum="2feae0a8257a5c6ca1b31b8eb73c8571"
        ),
        PublishedFile(f"{_OXFORD}/parisbuildings/paris_1-v1.tgz", "jpg/", flat=True, older="paris_1.tgz"),
        PublishedFile(f"{_OXFORD}/parisbuildings/paris_2-v1.tgz", "jpg/", flat=True, older="paris_2.tgz"),
    ],
    "revisitop1m": [
        PublishedFile(f"{_MILLION}/revisitop1m.txt", "revisitop1m.txt"),
        *(PublishedFile(f"{_MILLION}/jpg/revisitop1m.{i}.tar.gz", "jpg/") for i in range(1, 101)),
    ],
    "sfm120k": [
        PublishedFile(f"{_SFM}/dbs/retrieval-SfM-120k.pkl", "retrieval-SfM-120k.pkl"),
        PublishedFile(f"{_SFM}/ims/ims.tar.gz", "ims/"),
    ],
    "ilias": [PublishedFile(f"{_ILIAS}/ilias_core.tar", "./", checksum=f"{_ILIAS}/checksums.txt")],
    "gldv2": [
        *(PublishedFile(f"{_LANDMARKS}/metadata/{name}.csv", f"{name}.csv") for name in ("index", "test")),
        *(
            PublishedFile(f"{_LANDMARKS}/ground_truth/{name}_solution_v2.1.csv", f"{name}_solution_v2.1.csv")
            for name in ("retrieval", "recognition")
        ),
        *_landmark_parts("test"),
        *_landmark_parts("index"),
    ],
    "gldv2_train": [
        *(PublishedFile(f"{_LANDMARKS}/metadata/{name}.csv", f"{name}.csv") for name in ("train_clean", "train")),
        *_landmark_parts("train"),
    ],
}
