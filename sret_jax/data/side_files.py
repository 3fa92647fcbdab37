"""What cameras, telephones and systems write beside photographs, which nobody means when they name a folder of them."""

FOLDERS = {"@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found"}
FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r"}
EDITS = (".aae", ".xmp", ".thm", ".lrv")  # of a photograph, and previews of a video
VIDEOS = (".mov", ".mp4", ".m4v", ".avi", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg", ".wmv", ".mkv", ".webm")


def lies_beside(name: str, folder: bool) -> bool:
    """Whether an entry of a folder is passed over without a word, as all that is hidden, `._photo.jpg` too."""
    lower = name.lower()
    if folder:
        return lower.startswith(".") or lower in FOLDERS
    return lower.startswith(".") or lower in FILES or lower.endswith(EDITS + VIDEOS)
