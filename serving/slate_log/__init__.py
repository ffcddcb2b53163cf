"""The slate log: every slate that was served, with the very numbers it was made from.

record      a slate as msgpack, and back
segments    files of records with checksums; what a torn or damaged one still holds
shelf       a tenant's segments: which there are, finding a slate, what leaves first
writer      a queue and a thread: request processes append here, and never wait
explain     a logged slate scored again
export      the log as Parquet
"""
