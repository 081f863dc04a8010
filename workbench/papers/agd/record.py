"""`workbench record agd`: the classifier whose features judge, and the teachers, trained once.

How long was chosen on validation images: after 1,000 updates the teacher of photographs at x2 is 0.1 dB above bicubic
enlargement, after 4,000 0.5 dB.
"""

from __future__ import annotations

import torch
from torch import nn

from workbench import recorded
from workbench.papers.agd import teachers
from workbench.papers.agd.method import Generator
from workbench.papers.agd.tasks import TASKS, Features, Task, images

COMMAND = "workbench record agd"
UPDATES = {"features": 1500, "regression": 4000, "adversarial": 1200}
IMAGES = 9500


def record() -> None:
    """Train all and write them under data/recorded/agd/; some ten minutes on one core."""
    torch.set_num_threads(1)
    _save("features", teachers.classifier(UPDATES["features"]))
    for text in TASKS:
        record_teacher(Task.read(text))


def record_teacher(task: Task) -> None:
    """Train one task's teacher, on images that are the students', too."""
    pictures = images(task, IMAGES, "teacher", task.id)
    if task.scale > 1:
        _save(task.id, teachers.regression(task, pictures, UPDATES["regression"]))
    else:
        _save(task.id, teachers.adversarial(task, pictures, UPDATES["adversarial"]))


def features() -> Features:
    """The recorded classifier."""
    return _load(Features(), "features")


def teacher(task: Task) -> Generator:
    """The recorded teacher of a task."""
    return _load(teachers.untrained(task), task.id)


def _save(name: str, net: nn.Module) -> None:
    recorded.save_tensors(f"agd/{name}", net.state_dict(), COMMAND, seed=0)


def _load(net: nn.Module, name: str) -> nn.Module:
    net.load_state_dict(recorded.load_tensors(f"agd/{name}"))
    return teachers.freeze(net)
