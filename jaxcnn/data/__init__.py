"""Datasets by name, images from files, batches, and augmentation.

`load("digits", "train")` needs nothing but the package; other sets are looked for in `data_dir`, or in the folder that
`JAXCNN_DATA_DIR` names; a path is a folder of images by class. `load` reads all of a set into memory; `stream` reads
labelled images batch by batch while the network trains. `@dataset` adds a dataset of your own.
"""

from jaxcnn.data.augment import (
    Joint,
    PairedTransform,
    affine,
    augmented,
    colour,
    compose,
    crop,
    cutout,
    flip,
    mixup,
    noise,
    resized_crop,
    rotate,
    scale,
    sometimes,
    translate,
    views,
)
from jaxcnn.data.batches import batches, padded_batches
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.datasets import DATASETS, dataset
from jaxcnn.data.datasets.camvid import load_segmentation
from jaxcnn.data.datasets.clevr import sort_of_clevr
from jaxcnn.data.datasets.reviews import load_text, movie_reviews
from jaxcnn.data.datasets.voc import voc
from jaxcnn.data.folds import fold, k_fold
from jaxcnn.data.images import read_image
from jaxcnn.data.load import load
from jaxcnn.data.loader import Loader
from jaxcnn.data.preprocess import Preprocess, to_float
from jaxcnn.data.proposals import selective_search, sliding_windows
from jaxcnn.data.stream import Stream, prefetch, read_middle, stream
from jaxcnn.data.text import Corpus, Vocabulary, tokenize

__all__ = [
    "DATASETS",
    "Corpus",
    "Dataset",
    "Examples",
    "Joint",
    "Loader",
    "PairedTransform",
    "Preprocess",
    "Stream",
    "Vocabulary",
    "affine",
    "augmented",
    "batches",
    "colour",
    "compose",
    "crop",
    "cutout",
    "dataset",
    "flip",
    "fold",
    "k_fold",
    "load",
    "load_segmentation",
    "load_text",
    "mixup",
    "movie_reviews",
    "noise",
    "padded_batches",
    "prefetch",
    "read_image",
    "read_middle",
    "resized_crop",
    "rotate",
    "scale",
    "selective_search",
    "sliding_windows",
    "sometimes",
    "sort_of_clevr",
    "stream",
    "to_float",
    "tokenize",
    "translate",
    "views",
    "voc",
]
