"""libremote_g2 by ctypes: the two halves of its C interface (remote_g2.h), and nothing else."""

import ctypes
import functools
import os
from array import array
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_int32, c_size_t, c_uint32
from ctypes import c_uint64, c_void_p
from pathlib import Path

ABI_VERSION = 2
NONE, READY, PENDING = 0, 1, 2


class LibraryError(RuntimeError):
    """The library is missing, is of another version, or refuses a call."""


class Model(ctypes.Structure):
    _fields_ = [
        ("model", c_char_p),
        ("layout", c_char_p),
        ("hash_scheme", c_char_p),
        ("numerics", c_char_p),
        ("weight_epoch", c_uint64),
        ("rank_count", c_uint32),
        ("tokens_per_block", c_uint32),
        ("block_bytes", c_uint64),
    ]


class Layer(ctypes.Structure):
    _fields_ = [
        ("base", c_void_p),
        ("stride", c_uint64),
        ("bytes", c_uint64),
    ]


class Copy(ctypes.Structure):
    _fields_ = [
        ("device", c_void_p),
        ("host", c_void_p),
        ("bytes", c_uint64),
        ("rows", c_uint64),
        ("device_stride", c_uint64),
        ("host_stride", c_uint64),
    ]


_MAP = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_uint64, c_int32)
_UNMAP = CFUNCTYPE(None, c_void_p, c_void_p)
_COPY = CFUNCTYPE(c_int32, c_void_p, POINTER(Copy), c_uint32, c_int32)


class _Device(ctypes.Structure):
    _fields_ = [("context", c_void_p), ("map", _MAP), ("unmap", _UNMAP), ("copy", _COPY)]


class Device:
    """Copies pages by functions of the engine's: see rg2_device. It is kept for as long as its ranks."""

    def __init__(self, map, unmap, copy):
        def status(call):
            # What is raised in a function that C calls would be taken for success.
            try:
                return call()
            except Exception:
                return -1

        self._functions = _Device(
            None,
            _MAP(lambda _, base, size, is_read_only: status(lambda: map(base, size, bool(is_read_only)))),
            _UNMAP(lambda _, base: status(lambda: unmap(base)) and None),
            _COPY(lambda _, copies, count, is_to: status(lambda: copy(copies[:count], is_to))),
        )
        self.handle = ctypes.addressof(self._functions)


class Counts(ctypes.Structure):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "asked",
            "ready",
            "none",
            "late",
            "loads",
            "loads_failed",
            "blocks_bound",
            "blocks_committed",
            "stages_dropped",
            "saves_lost",
        )
    ]


_SIGNATURES = {
    "rg2_version": (c_uint32, []),
    "rg2_error": (c_char_p, []),
    "rg2_scheduler_open": (c_void_p, [POINTER(Model), c_char_p]),
    "rg2_scheduler_close": (None, [c_void_p]),
    "rg2_scheduler_new_request": (c_int, [c_void_p, c_uint64, c_char_p, c_uint32, c_uint32]),
    "rg2_scheduler_match": (c_int, [c_void_p, c_uint64, c_uint32, c_uint32, POINTER(c_uint32)]),
    "rg2_scheduler_bind": (c_int, [c_void_p, c_uint64, c_uint32, c_void_p, c_uint32]),
    "rg2_scheduler_scheduled": (
        c_int,
        [c_void_p, c_uint64, c_uint32, c_uint32, c_char_p, c_uint32, c_uint32, c_void_p]
        + [c_uint32, c_int],
    ),
    "rg2_scheduler_plan": (c_void_p, [c_void_p, c_uint32, POINTER(c_size_t)]),
    "rg2_scheduler_absorb": (c_int, [c_void_p, POINTER(c_char_p), POINTER(c_size_t), c_uint32]),
    "rg2_scheduler_finished": (c_int, [c_void_p, c_uint64]),
    "rg2_scheduler_wait": (c_int, [c_void_p, c_uint64]),
    "rg2_scheduler_pending": (c_int, [c_void_p]),
    "rg2_scheduler_attached": (c_int, [c_void_p]),
    "rg2_scheduler_counts": (c_int, [c_void_p, POINTER(Counts)]),
    "rg2_rank_open": (c_void_p, [POINTER(Model), c_char_p, c_uint32, POINTER(Layer), c_uint32, c_uint64, c_void_p]),
    "rg2_rank_close": (None, [c_void_p]),
    "rg2_rank_begin": (c_int, [c_void_p, c_char_p, c_size_t]),
    "rg2_rank_load": (c_int, [c_void_p]),
    "rg2_rank_stage": (c_int, [c_void_p]),
    "rg2_rank_finished": (c_int, [c_void_p, POINTER(c_uint64), c_uint32]),
    "rg2_rank_load_errors": (c_int, [c_void_p, POINTER(c_int32), c_uint32]),
    "rg2_rank_report": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "rg2_cuda_open": (c_void_p, [c_int32, c_void_p]),
    "rg2_cuda_close": (None, [c_void_p]),
}

# They wait for somebody, or copy for long: other threads of Python's go on meanwhile. The others are over in
# microseconds (rg2_scheduler_match in at most 200 of them, in all of a step), and whoever lets go of the
# interpreter's lock may get it back only milliseconds later.
_LETS_OTHERS_RUN = {
    "rg2_scheduler_open",
    "rg2_scheduler_close",
    "rg2_scheduler_wait",
    "rg2_rank_open",
    "rg2_rank_close",
    "rg2_rank_begin",
    "rg2_rank_load",
    "rg2_rank_stage",
    "rg2_cuda_open",
    "rg2_cuda_close",
}

_loaded = None


def load():
    """The library, loaded once a process: never at import, which happens before engines fork."""
    global _loaded
    if _loaded is None:
        path = find()
        try:
            library, short = ctypes.CDLL(path), ctypes.PyDLL(path)
        except OSError as error:
            raise LibraryError(f"{path} cannot be loaded: {error}") from None
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library if name in _LETS_OTHERS_RUN else short, name, None)
            if function is None:
                raise LibraryError(f"{path} has no {name}: take both from one release of remote-g2")
            function.restype, function.argtypes = result, arguments
            setattr(library, name, function)
        if library.rg2_version() != ABI_VERSION:
            raise LibraryError(
                f"{path} speaks interface {library.rg2_version()}, this module {ABI_VERSION}: "
                "take both from one release of remote-g2"
            )
        _loaded = library
    return _loaded


def find():
    here = Path(__file__).resolve().parent
    places = [os.environ.get("REMOTE_G2_LIBRARY"), here / "libremote_g2.so"]
    places.append(here.parent.parent / ".build" / "release" / "libremote_g2.so")
    for place in places:
        if place and Path(place).exists():
            return str(place)
    raise LibraryError(
        "libremote_g2.so is in none of "
        + ", ".join(str(place) for place in places if place)
        + ": build it (make vllm does), or set REMOTE_G2_LIBRARY"
    )


def run_directory():
    """Where this user's nodes have their sockets."""
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    return Path(os.environ.get("REMOTE_G2_RUN_DIR") or f"{base}/remote-g2-{os.getuid()}")


def node_socket(path=None, node=None):
    """The socket of this host's node: as named, or the only one there is."""
    path = path or os.environ.get("REMOTE_G2_SOCKET")
    if path:
        return path
    folder = run_directory()
    node = node or os.environ.get("REMOTE_G2_NODE")
    if node:
        return str(folder / f"{node}.node")
    found = sorted(folder.glob("*.node")) if folder.is_dir() else []
    if len(found) == 1:
        return str(found[0])
    if not found:
        # It may be started later; a node that is named need not be found now.
        raise LibraryError(
            f"no node's socket is in {folder}: start `remote-g2 node` first, or name it with "
            'kv_connector_extra_config {"node": NAME} or REMOTE_G2_NODE'
        )
    names = ", ".join(socket.stem for socket in found)
    raise LibraryError(
        f"{len(found)} nodes are in {folder} ({names}): name one with "
        'kv_connector_extra_config {"node": NAME} or REMOTE_G2_NODE'
    )


def _check(library, status):
    if status < 0:
        raise LibraryError(library.rg2_error().decode())
    return status


@functools.cache
def _array(kind, count):
    """ctypes makes such a type anew whenever nobody has kept it, which takes longer than a call."""
    return kind * count


class Scheduler:
    """The scheduler half. One thread uses it."""

    def __init__(self, model, socket):
        self._library = load()
        self.handle = self._library.rg2_scheduler_open(byref(model), socket.encode())
        if not self.handle:
            raise LibraryError(self._library.rg2_error().decode())
        # Every request that waits is matched in every step: nothing is made anew for it.
        self._match, self._matched = self._library.rg2_scheduler_match, c_uint32()
        self._matched_place = byref(self._matched)

    def _call(self, name, *arguments):
        return _check(self._library, getattr(self._library, name)(self.handle, *arguments))

    def new_request(self, request, hashes):
        self._call("rg2_scheduler_new_request", request, *_joined(hashes))

    def match(self, request, local, most):
        """(one of NONE, READY and PENDING, blocks)"""
        answer = self._match(self.handle, request, local, most, self._matched_place)
        if answer < 0:
            raise LibraryError(self._library.rg2_error().decode())
        return answer, self._matched.value

    def bind(self, request, local, targets):
        numbers = array("i", targets)
        self._call("rg2_scheduler_bind", request, local, *numbers.buffer_info())

    def scheduled(self, request, computed, scheduled, hashes, blocks, is_whole):
        """Whether its next step is to be told even if it brings neither hashes nor blocks."""
        numbers = array("i", blocks)
        return 1 == self._call(
            "rg2_scheduler_scheduled",
            request,
            computed,
            scheduled,
            *_joined(hashes),
            *numbers.buffer_info(),
            int(is_whole),
        )

    def plan(self, tokens):
        length = c_size_t()
        plan = self._library.rg2_scheduler_plan(self.handle, tokens, byref(length))
        if not plan:
            raise LibraryError(self._library.rg2_error().decode())
        return ctypes.string_at(plan, length.value)

    def absorb(self, reports):
        count = len(reports)
        lengths = _array(c_size_t, count)(*(len(report) for report in reports))
        self._call("rg2_scheduler_absorb", _array(c_char_p, count)(*reports), lengths, count)

    def finished(self, request):
        self._call("rg2_scheduler_finished", request)

    def wait(self, seconds):
        self._call("rg2_scheduler_wait", int(seconds * 1e6))

    @property
    def pending(self):
        return self._call("rg2_scheduler_pending")

    @property
    def attached(self):
        return bool(self._call("rg2_scheduler_attached"))

    @property
    def counts(self):
        counts = Counts()
        self._call("rg2_scheduler_counts", byref(counts))
        return {name: getattr(counts, name) for name, _ in Counts._fields_}

    def close(self):
        handle, self.handle = self.handle, None
        if handle:
            self._library.rg2_scheduler_close(handle)


class CudaDevice:
    """Copies pages of an NVIDIA GPU; `stream` is the engine's compute stream. It is closed after its ranks."""

    def __init__(self, ordinal, stream=None):
        self._library = load()
        self.handle = self._library.rg2_cuda_open(ordinal, stream)
        if not self.handle:
            raise LibraryError(self._library.rg2_error().decode())

    def close(self):
        handle, self.handle = self.handle, None
        if handle:
            self._library.rg2_cuda_close(handle)


class Rank:
    """The worker half of one rank. One thread uses it."""

    def __init__(self, model, socket, rank, layers, block_count, device=None):
        self._library = load()
        self._device = device
        array = (Layer * len(layers))(*layers)
        self._handle = self._library.rg2_rank_open(
            byref(model), socket.encode(), rank, array, len(layers), block_count,
            device.handle if device else None,
        )
        if not self._handle:
            raise LibraryError(self._library.rg2_error().decode())

    def _call(self, name, *arguments):
        return _check(self._library, getattr(self._library, name)(self._handle, *arguments))

    def begin(self, plan):
        self._call("rg2_rank_begin", plan, len(plan))

    def load(self):
        self._call("rg2_rank_load")

    def stage(self):
        self._call("rg2_rank_stage")

    def _taken(self, name, kind):
        count = self._call(name, None, 0)
        if not count:
            return []
        found = _array(kind, count)()
        self._call(name, found, count)
        return list(found)

    def finished(self):
        return self._taken("rg2_rank_finished", c_uint64)

    def load_errors(self):
        return self._taken("rg2_rank_load_errors", c_int32)

    def report(self):
        """None where the plan ordered nothing, and then on every rank."""
        length = c_size_t()
        report = self._library.rg2_rank_report(self._handle, byref(length))
        if not report:
            raise LibraryError(self._library.rg2_error().decode())
        return ctypes.string_at(report, length.value) or None

    def close(self):
        handle, self._handle = self._handle, None
        if handle:
            self._library.rg2_rank_close(handle)


def _joined(hashes):
    """(all of them after one another, how many, bytes of each)"""
    return b"".join(hashes), len(hashes), len(hashes[0]) if hashes else 0
