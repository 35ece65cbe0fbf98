"""remote_g2_native: what a scheduler calls in every step, in C (Python/native)."""

import importlib.machinery
import importlib.util
from pathlib import Path

from . import library

_loaded = None


def load():
    """The module beside libremote_g2.so, loaded once a process."""
    global _loaded
    if _loaded is None:
        path = Path(library.find()).with_name("remote_g2_native.abi3.so")
        if not path.exists():
            raise library.LibraryError(f"{path} is missing: build it (make vllm does), or take it from the release")
        loader = importlib.machinery.ExtensionFileLoader("remote_g2_native", str(path))
        specification = importlib.util.spec_from_file_location("remote_g2_native", path, loader=loader)
        try:
            module = importlib.util.module_from_spec(specification)
        except ImportError as error:
            raise library.LibraryError(f"{path} cannot be loaded: {error}") from None
        loader.exec_module(module)
        if module.ABI_VERSION != library.ABI_VERSION:
            raise library.LibraryError(
                f"{path} speaks interface {module.ABI_VERSION}, this module {library.ABI_VERSION}: "
                "take both from one release of remote-g2"
            )
        _loaded = module
    return _loaded


def translator(scheduler, tokens_per_block, after=None):
    """The engine's calls for a library.Scheduler, which is closed after the last of them.

    `after`: the one before it, where the engine's weights may be others since. Numbers are not given twice.
    """
    return load().Translator(
        # The one whose handle it is, whatever lies there by now.
        path=library.load()._name,
        handle=scheduler.handle,
        tokens_per_block=tokens_per_block,
        failure=library.LibraryError,
        is_renewed=after is not None,
        next_number=after.next_number if after else 1,
    )
