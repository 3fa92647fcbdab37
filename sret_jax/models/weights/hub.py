"""Weights from the Hugging Face hub, by the extra `hub`: `hf-hub:ORG/NAME[@REVISION][/FILE]`.

Only the files that are read are fetched, into the hub's own cache, from which they are taken the next time; with
HF_HUB_OFFLINE=1 from nowhere else.
"""

import logging
import re
from pathlib import Path

from sret_jax.errors import UserError
from sret_jax.models.weights.folder import BESIDE, MODELS, WEIGHTS, is_saved, shard_names
from sret_jax.storage.artifacts import MANIFEST

log = logging.getLogger(__name__)

# A revision ends before the name of a file; those of the hub itself, refs/pr/1, have three parts.
NAME = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/\s]+|[^/\s]+(?:/[^/\s]+)*?))?"
    r"(?:/(?P<file>[^\s]*\.[A-Za-z]+))?"
)


def fetched(name: str) -> Path:
    """The folder, or the file, on this machine.

    Args:
      name: "ORG/NAME", with "@REVISION" and "/FILE" where these are wanted.

    Raises `UserError` with the remedy: the extra is not installed, there is no such repository, revision or file, it
    is gated, or it is not in the cache and cannot be asked for.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise UserError(f"hf-hub:{name}: no name of a repository; write hf-hub:ORG/NAME, or hf-hub:ORG/NAME@REVISION")
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"hf-hub:{name}: huggingface_hub is not installed; run: pip install sret_jax[hub]") from None
    repo, revision, wanted = match["repo"], match["revision"], match["file"]

    def get(file: str) -> Path | None:
        """One file; None where the repository has none of this name."""
        try:
            return Path(hub.hf_hub_download(repo, file, revision=revision))
        except errors.LocalEntryNotFoundError:
            known = hub.try_to_load_from_cache(repo, file, revision=revision)
            if known is not hub._CACHED_NO_EXIST:  # else the cache knows that the repository has none
                unreached.append(file)
            return None
        except errors.EntryNotFoundError:
            return None

    def get_beside(folder: str) -> None:
        """What tells of the network, beside its weights; a repository may do without."""
        unreached.clear()
        for file in BESIDE:
            get(folder + file)
        if unreached:
            log.warning(
                "hf-hub:%s: %s could not be asked for, so that mean, deviation and resizing of photographs are taken "
                "as if the repository had none; go online once",
                name,
                " and ".join(unreached),
            )

    unreached: list[str] = []
    try:
        if wanted:
            if (path := get(wanted)) is not None:
                within, _, last = wanted.rpartition("/")
                if last in MODELS:
                    get_beside(f"{within}/" if within else "")
                return path
        else:
            for file in MODELS:
                if (path := get(file)) is not None:
                    shards = shard_names(path) if file.endswith(".json") else []
                    get_beside("")
                    for other in (*shards, *([MANIFEST] if is_saved(path.parent) else [])):
                        if get(other) is None:
                            raise UserError(_absent(name, other, other in unreached))
                    return path.parent
        held = [] if unreached else [f for f in hub.list_repo_files(repo, revision=revision) if f.endswith(WEIGHTS)]
        if len(held) == 1 and not wanted:
            return Path(hub.hf_hub_download(repo, held[0], revision=revision))
    except errors.GatedRepoError:
        raise UserError(
            f"hf-hub:{name}: its terms have to be accepted on https://huggingface.co/{repo}, and then: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"hf-hub:{name}: the hub has no repository {repo!r}, or it is private; correct it, or run: hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"hf-hub:{name}: {repo} has no revision {revision!r}; leave @{revision} out, or correct it"
        ) from None
    except errors.HFValidationError as error:
        raise UserError(f"hf-hub:{name}: no name of a repository ({str(error).splitlines()[0]})") from None
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        raise UserError(f"hf-hub:{name}: cannot be fetched ({str(error).splitlines()[0]}); try again") from None
    if unreached:
        raise UserError(_absent(name, wanted or "", True))
    files = f"; it has {', '.join(held[:6])}: write hf-hub:{repo}/FILE" if held else ""
    raise UserError(f"hf-hub:{name}: no {wanted or 'weights'} in the repository{files}")


def _absent(name: str, file: str, unreached: bool) -> str:
    if not unreached:
        return f"hf-hub:{name}: the repository has no {file}, which belongs to its weights; tell its authors"
    what = f"{file} is" if file else "its weights are"
    return (
        f"hf-hub:{name}: {what} not in the hub's cache, and the hub cannot be reached; unset HF_HUB_OFFLINE or go "
        "online once, or give a folder, local-dir:PATH"
    )
