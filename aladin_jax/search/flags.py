"""The commands and their flags, and what can be said against them before anything is loaded."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from aladin_jax.config import LENGTHS, Measure, Pooling
from aladin_jax.search.inputs import KINDS, PARTS_DTYPES, QUANTIZATIONS, check_collection, check_depth, check_shard

Parser = argparse.ArgumentParser


def _index_flags(parser: Parser) -> None:
    _source_flags(parser)
    parser.add_argument(
        "--shard", type=_checked(check_shard), default="1/1", metavar="i/n", help="index the i-th of n parts of it"
    )
    _collection_flag(parser)
    parser.add_argument("--checkpoint", required=True, metavar="W", help="a converted checkpoint, or a workdir")
    parser.add_argument("--output", type=Path, required=True, metavar="INDEX", help="the folder to make")
    parser.add_argument(
        "--dtype", choices=PARTS_DTYPES, default="float32", help="of regions and words; float16 halves the index"
    )
    for name in LENGTHS:
        parser.add_argument(f"--{name}", type=int, metavar="N", help="instead of the checkpoint's, or the original's")
    parser.add_argument(
        "--caption_ending", metavar="MARK", help="what the model's training captions end in, if it does not say"
    )
    parser.add_argument("--pooling", choices=get_args(Pooling), help="of alignment scores")
    parser.add_argument("--measure", choices=get_args(Measure), help="of matching scores")


def _add_flags(parser: Parser) -> None:
    _index_flag(parser)
    _source_flags(parser)
    parser.add_argument("--checkpoint", metavar="W", help="refuse unless it is the index's model (default: use that)")


def _delete_flags(parser: Parser) -> None:
    _index_flag(parser)
    _backend_flags(parser)
    parser.add_argument("ids", nargs="*", metavar="ID", help="images to delete")
    parser.add_argument("--ids_file", type=Path, metavar="FILE", help="one id a line")


def _merge_flags(parser: Parser) -> None:
    _index_flag(parser)
    _backend_flags(parser)


def _info_flags(parser: Parser) -> None:
    _index_flag(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def _query_flags(parser: Parser) -> None:
    parser.add_argument("--index", type=Path, metavar="INDEX", help="folder of the index; or ask a collection alone:")
    _collection_flag(parser)
    parser.add_argument("--checkpoint", metavar="W", help="the model that --collection was made with")
    _backend_flags(parser)
    _ann_flags(parser)
    parser.add_argument("text", nargs="?", help="what the picture shows")
    parser.add_argument(
        "--image", metavar="ID|FILE", help="captions for a picture: an id of the index, a picture, or an .npz of one"
    )
    _extractor_flag(parser)
    parser.add_argument("--similar", action="store_true", help="pictures like --image, by the matching head")
    parser.add_argument("--k", type=int, default=10, help="how many results")
    parser.add_argument(
        "--rerank", type=_depth, default=100, metavar="N|all", help="candidates that the alignment head re-ranks"
    )
    parser.add_argument("--why", action="store_true", help="also print which region answered each word")
    parser.add_argument("--json", action="store_true", help="as JSON, with the reasons")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the results")


def _tradeoff_flags(parser: Parser) -> None:
    _index_flag(parser)
    _ann_flags(parser)
    parser.add_argument("--queries", type=int, metavar="N", help="captions to ask with, spread evenly (default: all)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw efficiency against effectiveness")


def _serve_flags(parser: Parser) -> None:
    _index_flag(parser)
    _ann_flags(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max_depth", type=int, default=1000, metavar="N", help="candidates re-ranked at most")
    parser.add_argument("--in_flight", type=int, default=16, metavar="N", help="searches at once, beyond is 503")
    _extractor_flag(parser)


def _index_flag(parser: Parser) -> None:
    parser.add_argument("--index", type=Path, required=True, metavar="INDEX", help="folder of the index")


def _source_flags(parser: Parser) -> None:
    _backend_flags(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a prepared data set")
    parser.add_argument("--split", default="test", help="of it (default: test)")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="pictures, also in folders in it, called like the images"
    )


def _backend_flags(parser: Parser) -> None:
    parser.add_argument("--backend", choices=("local", "qdrant"), default="local", help="where both stages run")
    parser.add_argument("--url", help="of Qdrant, http://HOST:PORT; or a folder ./DIR, to try it without a server")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="of a new collection, over its machines")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="of each of them")
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS, default="none", help="of a new collection's dense vectors in memory"
    )


def _collection_flag(parser: Parser) -> None:
    parser.add_argument(
        "--collection", type=_checked(check_collection), metavar="NAME", help="of Qdrant (default: its own)"
    )


def _extractor_flag(parser: Parser) -> None:
    """Of `query`, for --image; of `serve`, to take pictures from the page."""
    parser.add_argument(
        "--extractor", type=Path, metavar="DIR", help="the detector or encoder that the data set was made with"
    )


def _ann_flags(parser: Parser) -> None:
    parser.add_argument("--ann", choices=KINDS, help="find candidates approximately, by FAISS (default: exactly)")
    parser.add_argument("--effort", type=int, metavar="N", help="of --ann: nodes in sight (hnsw), lists read (ivf)")


def _depth(text: str) -> int | str:
    try:
        return check_depth(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_port(host: str, port: int) -> None:
    """Checks that a server may listen at an address, before a model is loaded for it.

    Raises:
        ValueError: it may not.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{host}:{port}: cannot listen there ({reason}); give another --port or --host") from error


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """A flag's type: the text as it is, if it passes."""

    def take(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return take


def check(options: argparse.Namespace) -> None:
    """Checks what does not need an index, a model or a data set to be opened.

    Raises:
        ValueError: flags do not go together, or a folder is not there.
    """
    given = vars(options)
    if "text" in given and (options.text is None) == (options.image is None):
        raise ValueError("give either words or --image")
    if "similar" in given and options.image is None and (options.similar or options.extractor):
        raise ValueError("--similar and --extractor are for --image")
    if len(given.get("caption_ending") or "") > 1:
        raise ValueError(f"--caption_ending {options.caption_ending!r}: expected one mark, or '' for none")
    if "ids" in given and not options.ids and not options.ids_file:
        raise ValueError("nothing to delete: name ids, or give --ids_file")
    if "port" in given and (not 0 <= options.port < 65536 or options.in_flight < 1 or options.max_depth < 0):
        raise ValueError("--port must be 0 to 65535, --in_flight at least 1, --max_depth at least 0")
    if given.get("backend", "local") != "local":
        if not options.url:
            raise ValueError("--backend qdrant needs --url")
        if given.get("ann"):
            raise ValueError(f"--ann is for --backend local; {options.backend} has its own")
        if given.get("shards", 1) < 1 or given.get("replicas", 1) < 1:
            raise ValueError("--shards and --replicas must be at least 1")
    elif given.get("collection"):
        raise ValueError("--collection is for --backend qdrant")
    if given.get("shard", "1/1") != "1/1" and given["backend"] == "qdrant" and not options.collection:
        raise ValueError("--shard needs --collection, the same name on every machine")
    if "text" in given:
        _check_query(options)
    if given.get("effort") is not None and not options.ann:
        raise ValueError("--effort is for --ann; name hnsw or ivf")
    if given.get("index") and not options.index.is_dir():
        raise ValueError(f"{options.index}: no index there; python -m aladin_jax.search index makes one")
    for name in ("checkpoint", "data", "images"):
        if given.get(name) and not Path(given[name]).is_dir():
            raise ValueError(f"--{name} {given[name]}: no such folder")
    if "port" in given:
        check_port(options.host, options.port)


def _check_query(options: argparse.Namespace) -> None:
    if options.index and (options.collection or options.checkpoint):
        raise ValueError("--index knows its collection and its model; leave out --collection and --checkpoint")
    if not options.index and not (options.collection and options.checkpoint):
        raise ValueError("name --index; or --collection and --checkpoint, to ask a Qdrant collection alone")
    if not options.index and (options.image or options.plot):
        raise ValueError("--image and --plot need --index, which has the captions and the pictures")


# What its help says, its flags, and the module that runs it, which is imported once they are checked.
COMMANDS: dict[str, tuple[str, Callable[[Parser], None], str]] = {
    "index": ("make an index of a data set's split; run again after a kill, it goes on", _index_flags, "commands"),
    "query": ("pictures for words, or captions for a picture", _query_flags, "query_commands"),
    "add": ("append a split to an index", _add_flags, "commands"),
    "delete": ("take images out of all results", _delete_flags, "commands"),
    "merge": ("join segments, and drop what is deleted", _merge_flags, "commands"),
    "verify": ("check sums, counts and vectors", _index_flag, "commands"),
    "info": ("say what an index holds", _info_flags, "commands"),
    "tradeoff": ("recall and latency against re-ranking depth", _tradeoff_flags, "query_commands"),
    "serve": ("answer on a web page and a JSON API", _serve_flags, "query_commands"),
}
