"""szq0214/FKD: crops and soft labels of a teacher, a file for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from dali_dr.augment.spec import AugmentationSpec, RandomResizedCrop
from dali_dr.convert import native
from dali_dr.convert.format import Meaning, Record
from dali_dr.record.layout import Probabilities

FORMAT: Final = "fkd"
SUFFIX: Final = ".tar"
LICENCE: Final = "szq0214/FKD is under the MIT licence; the terms of the images' data set hold besides"
Form = Literal["auto", "full", "hard", "smoothing", "marginal"]
FORMS: Final[tuple[Form, ...]] = ("auto", "full", "hard", "smoothing", "marginal")
SIZE: Final = 224
TEACHER_SIZE: Final = 475
_TEACHER: Final = "tf_efficientnet_l2_ns_475"  # of the published sets


def meaning(
    *,
    form: Form = "auto",
    size: int = SIZE,
    teacher_size: int = TEACHER_SIZE,
    probabilities: Probabilities = "root8",
    log_step: float = 0.15,
    num_classes: int,
) -> Meaning:
    """What the archives hold.

    Args:
      form: of the labels; "auto": as the files show it.
      size: of views.
      teacher_size: of the views that the teacher saw, by bicubic interpolation.
      probabilities, log_step: how they are stored.
      num_classes: of the images.
    """
    settings = native.Fkd(view=size, num_classes=num_classes, form=form, probabilities=probabilities, log_step=log_step)

    def converter(number: int, files: Sequence[bytes], size: tuple[int, int]) -> Record:
        (file,) = files
        made = native.fkd_record(file, size, settings)
        return Record(made.record, (made.views, made.topk))

    spec = AugmentationSpec(size=size, interpolation="bilinear", crop=RandomResizedCrop((0.08, 0.936)), flip=0.5)
    notes = (
        f"the teacher saw crops of {teacher_size} pixels, made by bicubic interpolation; views are replayed by bilinear "
        f"interpolation at {size}, as FKD's training does it",
        "boxes are relative in the files; they are pixels here, rounded as FKD's training rounds them",
    )
    return Meaning(
        FORMAT,
        converter,
        spec,
        num_classes,
        LICENCE,
        teacher={
            "names": [_TEACHER],
            "weights_digest": None,
            "input_size": teacher_size,
            "views": {"size": teacher_size, "interpolation": "bicubic"},  # for verify --teacher
        },
        probabilities=probabilities,
        log_step=log_step if probabilities == "log8" else None,
        config={"form": form, "size": size, "teacher_size": teacher_size},
        reinterpreted=notes,
        manifest={"decoder": "libjpeg-turbo"},  # Pillow's
    )
