"""Which commit of a hub dataset a run reads, and what is said when the hub does not give it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe, Source

# The libraries of the hub are imported where they are used: they take a second, and most runs need none of them.

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def pinned(recipe: Recipe, saved: Recipe | None = None) -> Recipe:
    """The recipe with every hub source's revision replaced by the commit that it means now.

    A run that goes on keeps the commit of its checkpoint's recipe, `saved`, and asks no network: a branch or a tag in
    the recipe is what that commit once came from. Only another commit, written out, stays.
    """
    def of(split: str) -> tuple[Source, ...]:
        before = () if saved is None else getattr(saved.data, split)
        return tuple(_pinned(source, before[number] if number < len(before) else None, f"data.{split}.{number}")
                     for number, source in enumerate(getattr(recipe.data, split)))

    return replace(recipe, data=replace(recipe.data, train=of("train"), valid=of("valid")))


def commit_of(name: str, revision: str | None, place: str) -> str:
    """What a branch, a tag or, for None, the newest state of the main branch means: asked of the hub, or when offline
    of its cache on this machine."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if not _NAME.fullmatch(name):
        raise UserError(f"{place}.hub: {name!r} is neither a folder (looked in {os.getcwd()}) nor the name of a "
                        f"dataset on the hub, which is NAMESPACE/NAME, such as Salesforce/wikitext")
    if is_offline():
        return os.path.basename(cached_folder(name, revision, place))
    from huggingface_hub import HfApi

    with asking(name, revision, place):
        return HfApi().dataset_info(name, revision=revision, timeout=30).sha


def is_folder(name: str) -> bool:
    return os.path.isdir(os.path.expanduser(name))


def is_offline() -> bool:
    """HF_HUB_OFFLINE or HF_DATASETS_OFFLINE; both libraries read them once, when they are imported."""
    import datasets
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE)


def cached_folder(name: str, revision: str | None, place: str) -> str:
    """Where the hub's cache on this machine has that revision, whole.

    Not what `datasets` does when offline: it takes the newest of the tables that it once made of the dataset, whatever
    revision is asked for, and cut into other shards.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
        get_cached_repo_tree(name, repo_type="dataset", revision=revision)  # without it, nobody knows what is missing
        return folder
    except (LocalEntryNotFoundError, CachedRepoTreeNotFoundError) as error:
        which = f" at {revision}" if revision else ""
        fetch = f"hf download {name} --repo-type dataset" + (f" --revision {revision}" if revision else "")
        raise UserError(f"{place}.hub: {name}{which} is not whole in the cache on this machine, and offline mode is on "
                        f"(HF_HUB_OFFLINE or HF_DATASETS_OFFLINE). With a network, run `{fetch}` on a machine with the "
                        f"same HF_HOME, or copy its cache here; or run `dstrain prepare` there, and train with "
                        f"data.prepared") from error


@contextmanager
def asking(name: str, revision: str | None, place: str) -> Iterator[None]:
    """What goes wrong with the hub within, as the user's error."""
    import datasets
    from huggingface_hub.errors import (BadRequestError, GatedRepoError, HfHubHTTPError, HFValidationError,
                                        RepositoryNotFoundError, RevisionNotFoundError)
    from huggingface_hub.utils import httpx

    key = f"{place}.hub: {name}"
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError, BadRequestError,
            datasets.exceptions.DatasetNotFoundError) as error:
        if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):  # `datasets` passes on words alone
            raise UserError(f"{key} is a gated dataset; ask for access on its page, and log in with `hf auth login` or "
                            f"set HF_TOKEN") from error
        if isinstance(error, RevisionNotFoundError) or str(error).startswith("Revision "):
            raise UserError(f"{place}.revision: {name} has no revision {revision!r}; it has {_refs_of(name)}, and "
                            f"its commits, of 40 characters each") from error
        raise UserError(f"{key}: the hub has no such dataset, or it is private; correct the name, or log in with "
                        f"`hf auth login` or set HF_TOKEN") from error
    except (HfHubHTTPError, httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(unreachable(name, place, one_line(error))) from error


def unreachable(name: str, place: str, reason: str) -> str:
    return (f"{place}.hub: {name}: the hub cannot be reached or does not answer ({reason}); start again when it does: "
            f"a run goes on from its last checkpoint. Or set HF_HUB_OFFLINE=1 to read from the cache on this machine")


def one_line(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


def _pinned(source: Source, before: Source | None, place: str) -> Source:
    if source.hub is None:
        return source
    if is_folder(source.hub):
        if source.revision is not None:
            raise UserError(f"{place}.revision is {source.revision!r}, but {source.hub} is a folder on this machine, "
                            f"which has none; remove it")
        return source
    same = before is not None and (before.hub, before.config, before.split) == (source.hub, source.config, source.split)
    if same and before.revision is not None and not _COMMIT.fullmatch(source.revision or ""):
        return replace(source, revision=before.revision)
    return replace(source, revision=commit_of(source.hub, source.revision, place))


def _refs_of(name: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        refs = HfApi().list_repo_refs(name, repo_type="dataset")
    except HfHubHTTPError:
        return "others"
    return _listed([ref.name for ref in [*refs.branches, *refs.tags]])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:16]) + (", ..." if len(names) > 16 else "")
