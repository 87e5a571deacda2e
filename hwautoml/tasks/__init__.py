"""What is predicted; one file per task, found by name. The contract is ``hwautoml.core.task``.

Other packages add theirs through the entry points ``hwautoml.tasks``: docs/extending/task.md.
"""

from __future__ import annotations

from hwautoml.core.plugins import Plugins
from hwautoml.core.task import Task
from hwautoml.errors import MissingDependencyError

DEFAULT = "classification"
TASKS = Plugins("task", "hwautoml.tasks", {DEFAULT: "hwautoml.tasks.classification:Classification"})


def load_task(name: str) -> type[Task]:
    """The class; ``from_labels`` makes a task of it.

    Raises:
        UnknownNameError: nothing has that name; the known ones are listed, nearest first.
        MissingDependencyError: another package offers it, and it is no task or cannot be imported.
    """
    found = TASKS.load(name)
    if not (isinstance(found, type) and issubclass(found, Task)) or found.name != name:
        raise MissingDependencyError(
            f"task {name!r} of package {TASKS.origin(name)!r} is no class of hwautoml.core.task.Task with that name",
            fix=f"mend or remove the package: pip uninstall {TASKS.origin(name)}",
        )
    return found
