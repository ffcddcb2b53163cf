from pathlib import Path

from feeds.store.base import Store
from feeds.store.memory import MemoryStore
from feeds.testing import StoreContract


class TestMemoryStore(StoreContract):
    def open_store(self, directory: Path) -> Store:
        del directory
        return MemoryStore()
