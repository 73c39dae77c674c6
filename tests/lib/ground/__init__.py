"""The test ground: installs and runs real brokers for the tests, with the standard library alone.

It must never depend on clbridge's own code, never end a process that it did not start, and never write into the
source tree: what is installed lies in the cache, what runs lies in the folder that the caller names.
"""
