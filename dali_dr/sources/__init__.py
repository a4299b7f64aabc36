"""Where images come from: folders, lists, tars. To add a kind: a module with a `Source`, and a row in `opening.KINDS`."""

from dali_dr.sources.classes import imagenet_classes
from dali_dr.sources.folder import ImageFolder
from dali_dr.sources.lists import FileList
from dali_dr.sources.opening import check_output, open_source
from dali_dr.sources.source import Images, Reading, Source, TarSource
from dali_dr.sources.tars import WebDatasetTars

__all__ = [
    "FileList",
    "ImageFolder",
    "Images",
    "Reading",
    "Source",
    "TarSource",
    "WebDatasetTars",
    "check_output",
    "imagenet_classes",
    "open_source",
]
