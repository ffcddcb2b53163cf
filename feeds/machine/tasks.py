"""How many tasks a tenant has left in the outbox, and the limit of it."""

from feeds.errors import Overloaded
from feeds.keys import TaskCountKey, read_number, write_number
from feeds.machine.changes import Changes
from feeds.store.base import View

__all__ = ["count"]


def count(opened: int, tasks_max: int, changes: Changes, view: View) -> None:
    """Note that a command leaves so many tasks more (or fewer); once a command.

    Raises `Overloaded` where more than `tasks_max` would be left.
    """
    if not opened:
        return
    key = TaskCountKey(changes.tenant).encode()
    data = view.get("meta", key)
    left = (read_number(data) if data else 0) + opened
    if opened > 0 and left > tasks_max:
        raise Overloaded(
            f"tenant {changes.tenant} would have {left} tasks of writes to many followers waiting, "
            f"outbox_tasks_max is {tasks_max}: nothing was changed, repeat it in a moment"
        )
    changes.put("meta", key, write_number(left))
