"""The rules for functions without watched code, by name: what each does with its arguments.

By name alone, since a name means the same in the modules of the standard library that have it.
"""

from __future__ import annotations

__all__ = [
    "CHANGES",
    "COMPARES",
    "COPIES",
    "HARMLESS",
    "INTO",
    "KEEPS",
    "LAZY",
    "LOOKS",
    "NOTHING",
    "OF_FIELDS",
    "READERS",
    "READS",
    "SIMPLE",
    "VIEWS",
    "WRITES_FIRST",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# They look at no items and fields of their arguments, or only keep them.
NOTHING = _words(
    "addressof alignment is_ is_not mappingproxy proxy sizeof vars "
    "ExitStack NewType TypeVar _getframe abstractmethod bin cache cached_property callable "
    "cast chr classmethod closing compile contextmanager count count_ones dir exit field "
    "getLogger get_ident get_type_hints getframe getpid globals hex id input is_dataclass "
    "isinstance issubclass locals lru_cache memoryview monotonic monotonic_ns namedtuple "
    "new_class nullcontext object oct open ord overload partial perf_counter property range "
    "ref repeat runtime_checkable signature slice staticmethod super suppress time "
    "total_ordering type update_wrapper warn wraps "
)
# They read their arguments: items and fields, all the way down.
READS = _words(
    "add and_ concat eq floordiv ge gt index invert le lt matmul mod mul ne neg not_ or_ pos sub truediv "
    "json_decode msgpack_decode truth xor "
    "ChainMap Counter OrderedDict UserDict abs adler32 all any array ascii asdict astuple "
    "attrgetter b64encode bisect bisect_left bisect_right blake2b bool bytearray bytes "
    "combinations compare_digest copy crc32 decode deepcopy defaultdict deque dict divmod "
    "dumps encode exists fields float format format_exc format_exception from_bytes fromhex "
    "fromkeys frozenset fsdecode fsencode fspath getline hash int isfile itemgetter "
    "iter_unpack join list loads max md5 min nlargest nsmallest pack permutations "
    "pow print product reduce replace repr round set sha1 sha256 sorted str sum tuple unpack "
    "urlsafe_b64encode write writelines zip_longest "
)
# Their result reads the arguments whenever it is used.
LAZY = _words(
    "accumulate batched chain compress cycle dropwhile enumerate filter filterfalse "
    "from_iterable groupby islice iter map pairwise reversed starmap takewhile tee zip "
)
# They write their first argument, and read the others.
WRITES_FIRST = _words(
    "heapify heappop heappush heappushpop heapreplace insort insort_left insort_right memmove "
    "memset readinto readinto1 recv_into recvfrom_into shuffle "
)
# Methods of containers whose result reads the container whenever it is used.
VIEWS = _words("__iter__ __reversed__ items keys values ")
# Methods made for a class, in C or by `dataclass`, that read all fields.
OF_FIELDS = _words("__eq__ __ge__ __gt__ __hash__ __le__ __lt__ __ne__ __repr__ ")
# Methods in C that only read what they are given.
READERS = _words(
    "close decode difference digest encode endswith format format_map intersection issubset "
    "issuperset join match pack search send split startswith sub throw union unpack update "
    "write "
)
# They read all fields of what they are given, of plain objects too.
COPIES = _words(
    "asdict astuple copy deepcopy dump dumps encode json_encode msgpack_encode replace to_builtins "
)
# Methods in C that write the container that they are given.
INTO = _words("readinto readinto1 recv_into recvfrom_into ")
# Methods of containers that only keep what they are given.
KEEPS = _words(
    "__delitem__ __getitem__ __setitem__ add append appendleft fromkeys get insert pop setdefault "
)
# Methods of containers that compare, hash or print the elements, and what they are given.
COMPARES = _words(
    "__contains__ __eq__ __ge__ __gt__ __le__ __lt__ __ne__ __repr__ count index remove sort "
)
# Methods of a library's containers: those that only look, and those that change them.
LOOKS = _words(
    "__bool__ __contains__ __eq__ __getitem__ __iter__ __len__ __ne__ __or__ __repr__ "
    "__reversed__ copy count get has_option has_section index items keys options sections values "
)
CHANGES = _words(
    "__delitem__ __iadd__ __ior__ __setitem__ add append clear difference_update discard extend "
    "insert intersection_update pop popitem popleft remove reverse set setdefault sort update "
)
# Callbacks in C that read only numbers and text, whatever they are given.
SIMPLE = _words("bin bool callable chr float hex id int isinstance oct ord type ")
# Modules whose objects have no state that tasks share in a way of their own, or are the task's own.
HARMLESS = _words("abc contextlib datetime enum ipaddress logging pathlib re typing uuid weakref ")
