"""Text → tokenised sequences on disk.

1. ``sources``: files and hub datasets are found, checked and read as documents;
2. ``tokenise``: documents → token ids, in parallel and in order;
3. ``layouts``: token ids → blocks or lines, each within what ``framing`` found that the tokenizer puts around a text;
4. ``store``: memory-mapped Arrow in a cache, read back as a :class:`Corpus`;
5. ``sampler``: in which order its rows are seen.
"""

from diito.corpus.dataset import Corpus, Statistics, collate
from diito.corpus.forms import LENGTH, NothingLeft
from diito.corpus.framing import Framing, framing_of
from diito.corpus.sampler import ShuffledSampler
from diito.corpus.sources import check_sources, find_sources
from diito.corpus.store import load_corpus
from diito.corpus.tokenise import Part

__all__ = [
    "LENGTH",
    "Corpus",
    "Framing",
    "NothingLeft",
    "Part",
    "ShuffledSampler",
    "Statistics",
    "check_sources",
    "collate",
    "find_sources",
    "framing_of",
    "load_corpus",
]
